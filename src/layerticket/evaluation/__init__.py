"""Figures of a network: accuracy, cost, energy. Knows how training steps, not how it loops."""

from layerticket.evaluation.accuracy import accuracy
from layerticket.evaluation.attack import ATTACKS, Attack, attacked_accuracy
from layerticket.evaluation.cost import (
    Counts,
    accounted_bytes,
    count,
    held_bytes,
    realized_share,
)
from layerticket.evaluation.energy import Metering, carbon_kg, metered
from layerticket.evaluation.robustness import corruption_accuracy, shift_accuracy
from layerticket.evaluation.timing import Figure, inference_seconds, interleave, median_of, ratio_of

__all__ = [
    "ATTACKS",
    "Attack",
    "Counts",
    "Figure",
    "Metering",
    "accounted_bytes",
    "accuracy",
    "attacked_accuracy",
    "carbon_kg",
    "corruption_accuracy",
    "count",
    "held_bytes",
    "inference_seconds",
    "interleave",
    "median_of",
    "metered",
    "ratio_of",
    "realized_share",
    "shift_accuracy",
]
