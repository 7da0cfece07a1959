"""The Kubernetes collector: every event of a cluster, on the bus."""
