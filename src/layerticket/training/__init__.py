"""Train a network: a frozen recipe, one loop, one checkpoint file."""
