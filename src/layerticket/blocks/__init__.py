"""Finds the removable residual blocks of a network by running it."""
