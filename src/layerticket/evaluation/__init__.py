"""Figures of a trained network. Knows training's devices and precisions, not its loop."""

from layerticket.evaluation.accuracy import accuracy
from layerticket.evaluation.attack import ATTACKS, Attack, attacked_accuracy
from layerticket.evaluation.robustness import corruption_accuracy, shift_accuracy

__all__ = [
    "ATTACKS",
    "Attack",
    "accuracy",
    "attacked_accuracy",
    "corruption_accuracy",
    "shift_accuracy",
]
