"""When the agent started and stopped on this host, and what kind of host it is."""
