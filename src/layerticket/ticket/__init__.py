"""The record of what was removed from a network, and how one is found."""
