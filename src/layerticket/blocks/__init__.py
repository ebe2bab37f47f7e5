"""Finds the residual blocks of a network that can be removed, by running it."""
