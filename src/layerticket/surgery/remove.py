"""Builds the smaller network. Knows nothing of scores."""

from collections.abc import Iterable

import torch
from torch import nn

from layerticket.blocks.block import Block
from layerticket.blocks.find import close_gaps, is_entry, remove_from, take_out
from layerticket.errors import LayerticketError
from layerticket.modules import copy_of
from layerticket.surgery.hugging_face import make_valid


def remove_blocks(model: nn.Module, blocks: Iterable[Block]) -> nn.Module:
    """Return a new, really smaller network without the blocks; `model` is not modified.

    The result is of the caller's own class, keeps the names of all parameters that remain,
    holds its own copy of their values, and needs nothing of layerticket. Networks of Hugging
    Face's library have their layers numbered without gaps and their configuration corrected, so
    that they can be saved, loaded and generated from like any other of their class; the names of
    layers behind a removed one move, see `name_after_removal`.

    Args:
        model: The dense network.
        blocks: Blocks `find_blocks` found in it, e.g. ``found.named(selection.removed)``.

    Raises:
        LayerticketError: If a block is not in the network, or the network cannot be copied.

    Warns:
        UserWarning: If no configuration of a Hugging Face class describes the smaller network.
    """
    removed = list({block.name: block for block in blocks}.values())
    present = dict(model.named_modules())
    for block in removed:
        if block.name not in present:
            raise LayerticketError(
                f"block {block.name!r} is not in this {type(model).__name__}; pass the blocks "
                "that find_blocks found in this very network."
            )
    # Parameters of removed blocks are shared with the copy until they are dropped from it,
    # so that they are never duplicated.
    going = [p for block in removed for n in block.modules for p in present[n].parameters()]
    small = copy_of(model, {id(p): p for p in going})
    entries = [b.name for b in removed if b.branch is None and is_entry(model, b.name)]
    for block in removed:
        if block.name in entries:
            take_out(small, block.name, "rich")
        else:
            remove_from(small, block)
    close_gaps(small, entries)
    make_valid(small, model, [block.name for block in removed if block.branch is None])
    _own(small, {id(p) for p in going})
    small.zero_grad(set_to_none=True)
    return small


def zero_blocks(model: nn.Module, blocks: Iterable[Block]) -> nn.Module:
    """Return a copy of the network in which every parameter of the blocks is zero.

    It computes what `remove_blocks` computes, at the full cost: an oracle for tests, and the
    reason why masks alone save nothing.

    Raises:
        LayerticketError: If a block ends in a normalization (post-norm), which zeros would mute.
    """
    zeroed = copy_of(model)
    for block in blocks:
        if block.post_norm and not _ends_in_zeros(block):
            raise LayerticketError(
                f"block {block.name!r} is post-norm; zeros would mute its input."
            )
        with torch.no_grad():
            for name in block.modules:
                for parameter in zeroed.get_submodule(name).parameters():
                    parameter.zero_()
    return zeroed


def _ends_in_zeros(block: Block) -> bool:
    """Tell whether what goes is added to the stream, so that a normalization behind it stays."""
    return block.branch is not None and block.branch.cuts[0].gives == "zeros"


def _own(small: nn.Module, shared: set[int]) -> None:
    """Copy parameters that a kept module shares with a removed block (tied weights)."""
    copies: dict[int, nn.Parameter] = {}
    for module in small.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in shared:
                fresh = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                module._parameters[key] = copies.setdefault(id(parameter), fresh)
