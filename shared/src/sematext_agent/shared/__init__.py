"""The foundation of every service of the agent."""

AGENT_NAME = "sematext-agent"
# Every distribution takes its version from here. importlib.metadata would take an eighth of each
# process's CPU time at its start.
AGENT_VERSION = "0.1.0"
