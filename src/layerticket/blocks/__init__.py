"""Finds the residual blocks of a network that can be removed, by running it.

A module is a removable residual block when, with all of its parameters at zero, it returns its
input: then its branch is all it does, and the identity can take its place. Where that fails
because a normalization stands behind the addition (post-norm transformers), the normalizations
are taken as identities and the test is repeated. No architecture is named anywhere.
"""

from layerticket.blocks.finder import find_blocks, take_out
from layerticket.blocks.records import Block, Blocks, Rejection

__all__ = ["Block", "Blocks", "Rejection", "find_blocks", "take_out"]
