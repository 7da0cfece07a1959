"""What every service of the agent stands on."""

AGENT_NAME = "sematext-agent"
# Written here, and held to pyproject.toml by a test: importlib.metadata, which could tell it, would
# take an eighth of each process's CPU time at its start.
AGENT_VERSION = "0.1.0"
