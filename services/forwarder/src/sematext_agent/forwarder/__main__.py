"""The command `forwarder`, or `python -m sematext_agent.forwarder`."""

from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.service import run


def main() -> None:
    """Run the forwarder until it is asked to stop."""
    run("forwarder", forward, ForwarderSettings)


if __name__ == "__main__":
    main()
