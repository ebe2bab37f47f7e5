"""Criteria: one file each, a plain function from a network and its blocks to scores.

Importing this package registers every criterion; `layerticket.scoring.score` runs them safely.
"""

from layerticket.criteria.cka import cka
from layerticket.criteria.expect_abs import expect_abs
from layerticket.criteria.grasp import grasp
from layerticket.criteria.hrank import hrank
from layerticket.criteria.kl import kl
from layerticket.criteria.magnitude import magnitude
from layerticket.criteria.pls import pls
from layerticket.criteria.random import random
from layerticket.criteria.registry import (
    Criterion,
    Normalization,
    Reduction,
    criterion,
    criterion_names,
    get_criterion,
)
from layerticket.criteria.snip import snip
from layerticket.criteria.synflow import synflow

__all__ = [
    "Criterion",
    "Normalization",
    "Reduction",
    "cka",
    "criterion",
    "criterion_names",
    "expect_abs",
    "get_criterion",
    "grasp",
    "hrank",
    "kl",
    "magnitude",
    "pls",
    "random",
    "snip",
    "synflow",
]
