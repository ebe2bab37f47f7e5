"""Training: a frozen recipe, one loop, one checkpoint file. Knows nothing of tickets or studies."""

from layerticket.training.hardware import resolve_device, resolve_precision
from layerticket.training.loop import FitResult, TrainingError, fit
from layerticket.training.recipe import Recipe, he2016, learning_rate_at

__all__ = [
    "FitResult",
    "Recipe",
    "TrainingError",
    "fit",
    "he2016",
    "learning_rate_at",
    "resolve_device",
    "resolve_precision",
]
