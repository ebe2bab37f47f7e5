"""Figures of a network: accuracy, cost, energy. Knows how training steps, not how it loops."""
