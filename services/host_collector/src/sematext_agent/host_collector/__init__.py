"""The collector of what happens to a host: OOM kills, and packages installed and removed."""
