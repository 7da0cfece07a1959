"""`python -m forwarder`."""

from forwarder.forward import forward
from forwarder.settings import ForwarderSettings
from shared.service import run


def main() -> None:
    """The command `forwarder`."""
    run("forwarder", forward, ForwarderSettings)


if __name__ == "__main__":
    main()
