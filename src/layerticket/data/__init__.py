"""Labelled images as uint8 tensors, and batches that follow from (seed, epoch) alone."""

from layerticket.data.batches import batches, scoring_batch
from layerticket.data.dataset import Augment, Dataset, Split
from layerticket.data.loading import DATASETS, image_shape, load_data
from layerticket.data.noise import noise

__all__ = [
    "DATASETS",
    "Augment",
    "Dataset",
    "Split",
    "batches",
    "image_shape",
    "load_data",
    "noise",
    "scoring_batch",
]
