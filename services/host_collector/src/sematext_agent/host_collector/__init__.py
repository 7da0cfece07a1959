"""The host collector: OOM kills, and packages that are installed and removed."""
