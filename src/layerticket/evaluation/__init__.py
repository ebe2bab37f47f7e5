"""Evaluate a network: accuracy, robustness, similarity, time, memory, energy."""
