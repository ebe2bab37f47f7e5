"""Training: a frozen recipe, one loop, one checkpoint file. Knows nothing of tickets or studies."""

from layerticket.training.hardware import resolve_device, resolve_precision
from layerticket.training.keeping import Kept, Start, epoch_at, epochs_at, load_kept
from layerticket.training.loop import FitResult, TrainingError, fit
from layerticket.training.metering import Energy, Meter
from layerticket.training.recipe import Recipe, he2016, learning_rate_at
from layerticket.training.rehearsal import Rehearsal, rehearse

__all__ = [
    "Energy",
    "FitResult",
    "Kept",
    "Meter",
    "Recipe",
    "Rehearsal",
    "Start",
    "TrainingError",
    "epoch_at",
    "epochs_at",
    "fit",
    "he2016",
    "learning_rate_at",
    "load_kept",
    "rehearse",
    "resolve_device",
    "resolve_precision",
]
