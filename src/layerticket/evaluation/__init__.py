"""Figures of a network: accuracy, cost, energy. Knows how training steps, not how it loops."""

from layerticket.evaluation.accuracy import accuracy
from layerticket.evaluation.cost import (
    Counts,
    accounted_bytes,
    count,
    held_bytes,
    realized_share,
)
from layerticket.evaluation.energy import Metering, carbon_kg, metered
from layerticket.evaluation.timing import Figure, inference_seconds, interleave, median_of, ratio_of

__all__ = [
    "Counts",
    "Figure",
    "Metering",
    "accounted_bytes",
    "accuracy",
    "carbon_kg",
    "count",
    "held_bytes",
    "inference_seconds",
    "interleave",
    "median_of",
    "metered",
    "ratio_of",
    "realized_share",
]
