"""The lifecycle collector: starts and stops of the agent on this host, and facts of the host."""
