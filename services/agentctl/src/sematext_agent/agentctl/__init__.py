"""The agent on one machine, and the commands for the person at its keyboard."""
