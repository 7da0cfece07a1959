"""The foundation of every service of the agent."""

AGENT_NAME = "sematext-agent"
# Written here, and held to pyproject.toml by a test: importlib.metadata would take an eighth of
# each process's CPU time at its start.
AGENT_VERSION = "0.1.0"
