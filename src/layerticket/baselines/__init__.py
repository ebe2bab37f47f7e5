"""Baselines of a ticket: other blocks, filters, single weights, a shallower network."""
