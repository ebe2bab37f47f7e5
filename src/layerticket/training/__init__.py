"""Training: a frozen recipe, one loop, one checkpoint file. Knows nothing of tickets or studies."""
