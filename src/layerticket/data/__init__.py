"""Labelled images in memory or on disk, and batches that follow from (seed, epoch) alone.

The names for a user's own images are loaded when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerticket.data.batches import scoring_batch
    from layerticket.data.dataset import Augment, Dataset
    from layerticket.data.folders import (
        from_array_file,
        from_arrays,
        from_datasets,
        from_folder,
    )
    from layerticket.data.sources import Reading, load_data

_FILE_OF = {
    "Augment": "dataset",
    "Dataset": "dataset",
    "Reading": "sources",
    "from_array_file": "folders",
    "from_arrays": "folders",
    "from_datasets": "folders",
    "from_folder": "folders",
    "load_data": "sources",
    "scoring_batch": "batches",
}

__all__ = [
    "Augment",
    "Dataset",
    "Reading",
    "from_array_file",
    "from_arrays",
    "from_datasets",
    "from_folder",
    "load_data",
    "scoring_batch",
]


def __getattr__(name: str) -> object:
    """Load a public name from the file that defines it (PEP 562)."""
    if name not in _FILE_OF:
        raise AttributeError(f"module 'layerticket.data' has no attribute {name!r}")
    return getattr(import_module(f"layerticket.data.{_FILE_OF[name]}"), name)
