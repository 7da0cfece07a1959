"""`python -m sematext_agent.forwarder`."""

from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.service import run


def main() -> None:
    """Run the command `forwarder`."""
    run("forwarder", forward, ForwarderSettings)


if __name__ == "__main__":
    main()
