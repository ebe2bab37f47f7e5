"""Criteria: one file each, a plain function from a network and its blocks to scores.

Importing this package registers every criterion; `layerticket.scoring.score` runs them safely.
"""

from layerticket.criteria.grasp import grasp
from layerticket.criteria.magnitude import magnitude
from layerticket.criteria.random import random
from layerticket.criteria.registry import (
    Criterion,
    Reduction,
    criterion,
    criterion_names,
    get_criterion,
)
from layerticket.criteria.snip import snip
from layerticket.criteria.synflow import synflow

__all__ = [
    "Criterion",
    "Reduction",
    "criterion",
    "criterion_names",
    "get_criterion",
    "grasp",
    "magnitude",
    "random",
    "snip",
    "synflow",
]
