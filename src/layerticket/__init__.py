"""Find winning tickets made of whole layers before training starts, train them, and compare them.

The public names are loaded on first use, so that importing the package is fast. All other names
are imported from the file that defines them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerticket.batch import CrossEntropy, model_loss
    from layerticket.blocks.block import Block, Blocks
    from layerticket.blocks.find import find_blocks
    from layerticket.comparison import compare
    from layerticket.criteria.registry import criterion, criterion_names
    from layerticket.data.dataset import Dataset
    from layerticket.data.sources import load_data
    from layerticket.errors import LayerticketError
    from layerticket.models.load import build_model
    from layerticket.scoring import BlockScores, score
    from layerticket.selection import Budget, Selection, select
    from layerticket.surgery.remove import remove_blocks, zero_blocks
    from layerticket.ticket.find import find_ticket
    from layerticket.ticket.load import load
    from layerticket.ticket.ticket import Ticket
    from layerticket.training.fit import fit
    from layerticket.training.recipe import Recipe
    from layerticket.verdict.judge import Verdict, judge

_HOME = {
    "batch": ("CrossEntropy", "model_loss"),
    "blocks.block": ("Block", "Blocks"),
    "blocks.find": ("find_blocks",),
    "comparison": ("compare",),
    "criteria.registry": ("criterion", "criterion_names"),
    "data.dataset": ("Dataset",),
    "data.sources": ("load_data",),
    "errors": ("LayerticketError",),
    "models.load": ("build_model",),
    "scoring": ("BlockScores", "score"),
    "selection": ("Budget", "Selection", "select"),
    "surgery.remove": ("remove_blocks", "zero_blocks"),
    "ticket.find": ("find_ticket",),
    "ticket.load": ("load",),
    "ticket.ticket": ("Ticket",),
    "training.fit": ("fit",),
    "training.recipe": ("Recipe",),
    "verdict.judge": ("Verdict", "judge"),
}
_FILE_OF = {name: file for file, names in _HOME.items() for name in names}

__all__ = [
    "Block",
    "BlockScores",
    "Blocks",
    "Budget",
    "CrossEntropy",
    "Dataset",
    "LayerticketError",
    "Recipe",
    "Selection",
    "Ticket",
    "Verdict",
    "build_model",
    "compare",
    "criterion",
    "criterion_names",
    "find_blocks",
    "find_ticket",
    "fit",
    "judge",
    "load",
    "load_data",
    "model_loss",
    "remove_blocks",
    "score",
    "select",
    "zero_blocks",
]


def __getattr__(name: str) -> object:
    """Load a public name from the file that defines it (PEP 562)."""
    if name == "data":  # the room with the names for a user's own images
        return import_module("layerticket.data")
    if name not in _FILE_OF:
        raise AttributeError(f"module 'layerticket' has no attribute {name!r}")
    value = getattr(import_module(f"layerticket.{_FILE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
