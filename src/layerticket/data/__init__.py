"""Labelled images in memory or on disk, and their batches, which depend on seed and epoch only.

The public names are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerticket.data.batches import scoring_batch
    from layerticket.data.dataset import Augment, Dataset
    from layerticket.data.folders import from_array_file, from_arrays, from_datasets, from_folder
    from layerticket.data.sources import Reading, load_data

_HOME = {
    "batches": ("scoring_batch",),
    "dataset": ("Augment", "Dataset"),
    "folders": ("from_array_file", "from_arrays", "from_datasets", "from_folder"),
    "sources": ("Reading", "load_data"),
}
_FILE_OF = {name: file for file, names in _HOME.items() for name in names}

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
