"""Finds the residual blocks of a network that can be removed, by running it.

A module is a removable residual block when, with all of its parameters at zero, it returns its
input: then its branch is all it does, and the identity can take its place. Where that fails
because a normalization stands behind the addition (post-norm transformers), the normalizations
are taken as identities and the test is repeated. No architecture is named anywhere.
"""

from layerticket.blocks.finder import find_blocks
from layerticket.blocks.records import (
    Block,
    Blocks,
    Branch,
    Cut,
    Granularity,
    Rejection,
    block_of,
    block_record,
)
from layerticket.blocks.taking_out import cut_out, remove_from, take_out

__all__ = [
    "Block",
    "Blocks",
    "Branch",
    "Cut",
    "Granularity",
    "Rejection",
    "block_of",
    "block_record",
    "cut_out",
    "find_blocks",
    "remove_from",
    "take_out",
]
