"""Figures of a trained network. Knows training's devices and precisions, not its loop."""

from layerticket.evaluation.accuracy import accuracy

__all__ = ["accuracy"]
