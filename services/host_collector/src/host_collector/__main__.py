"""Starts the host collector."""

from __future__ import annotations

from host_collector.settings import HostSettings
from host_collector.watch import watch
from shared.collector import collect
from shared.service import run


def main() -> None:
    """Runs until it is told to stop."""
    run("host", collect(watch), HostSettings)


if __name__ == "__main__":
    main()
