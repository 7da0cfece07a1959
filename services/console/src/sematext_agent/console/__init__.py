"""The console: the live page of the agent."""
