"""Runs the Docker collector: `docker-collector`, or `python -m docker_collector`."""

from docker_collector.settings import DockerSettings
from docker_collector.watch import watch
from shared.collector import collect
from shared.service import run


def main() -> None:
    """Runs the collector until it is told to stop."""
    run("docker", collect(watch), DockerSettings)


if __name__ == "__main__":
    main()
