"""The Docker collector: every event of a Docker Engine, on the bus."""
