"""What every service of the agent stands on."""

from importlib.metadata import version

AGENT_NAME = "sematext-agent"
AGENT_VERSION = version("sematext-agent-shared")
