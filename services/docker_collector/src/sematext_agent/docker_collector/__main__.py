"""The command `docker-collector`, or `python -m sematext_agent.docker_collector`."""

from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.watch import watch
from sematext_agent.shared.collector import collect
from sematext_agent.shared.service import run


def main() -> None:
    """Run the collector until it is asked to stop."""
    run("docker", collect(watch), DockerSettings)


if __name__ == "__main__":
    main()
