"""Tells what happens to a host itself: OOM kills, and packages installed and removed."""
