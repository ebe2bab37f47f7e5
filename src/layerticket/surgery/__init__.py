"""Build the smaller network: remove blocks or channels, or mask weights."""
