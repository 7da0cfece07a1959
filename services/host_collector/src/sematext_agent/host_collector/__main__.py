"""The command `host-collector`, or `python -m sematext_agent.host_collector`."""

from __future__ import annotations

from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.host_collector.watch import watch
from sematext_agent.shared.collector import collect
from sematext_agent.shared.service import run


def main() -> None:
    """Run the collector until it is asked to stop."""
    run("host", collect(watch), HostSettings)


if __name__ == "__main__":
    main()
