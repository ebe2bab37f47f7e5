"""Training: a frozen recipe, one loop, one checkpoint file. Knows nothing of tickets or studies."""

from layerticket.training.hardware import resolve_device, resolve_precision
from layerticket.training.keeping import Kept, Start, epoch_at, epochs_at, load_kept
from layerticket.training.loop import FitResult, TrainingError, fit
from layerticket.training.recipe import Recipe, he2016, learning_rate_at

__all__ = [
    "FitResult",
    "Kept",
    "Recipe",
    "Start",
    "TrainingError",
    "epoch_at",
    "epochs_at",
    "fit",
    "he2016",
    "learning_rate_at",
    "load_kept",
    "resolve_device",
    "resolve_precision",
]
