"""Training: a frozen recipe, one loop, one checkpoint file. Knows nothing of tickets or studies."""

from layerticket.training.agreement import same_on_all_ranks
from layerticket.training.failure import TrainingError
from layerticket.training.hardware import resolve_device, resolve_precision
from layerticket.training.keeping import Kept, Start, epoch_at, epochs_at, load_kept
from layerticket.training.launch import launched, processes
from layerticket.training.loop import FitResult, fit
from layerticket.training.metering import Energy, Meter
from layerticket.training.processes import Processes
from layerticket.training.recipe import Recipe, he2016, learning_rate_at
from layerticket.training.rehearsal import Rehearsal, rehearse
from layerticket.training.spread import Spread
from layerticket.training.tracking import TRACKERS, Tracking

__all__ = [
    "TRACKERS",
    "Energy",
    "FitResult",
    "Kept",
    "Meter",
    "Processes",
    "Recipe",
    "Rehearsal",
    "Spread",
    "Start",
    "Tracking",
    "TrainingError",
    "epoch_at",
    "epochs_at",
    "fit",
    "he2016",
    "launched",
    "learning_rate_at",
    "load_kept",
    "processes",
    "rehearse",
    "resolve_device",
    "resolve_precision",
    "same_on_all_ranks",
]
