"""Every event of a Kubernetes cluster, on the bus."""
