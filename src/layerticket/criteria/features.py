"""Shared by criteria on activations: one forward pass, with outputs reduced block by block."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, call, first_tensor, inputs_of, size_of, split
from layerticket.blocks.block import Blocks
from layerticket.errors import LayerticketError


def block_activations(
    model: nn.Module,
    blocks: Blocks,
    batch: Batch,
    reduce: Callable[[Tensor], Tensor],
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Reduce the output of every block to a few values per example: block name -> (N, ...).

    A block's output is what the next block reads: the sum of shortcut and branch, after all layers
    of the block that follow the addition. Outputs are reduced during the pass and not kept;
    `reduce` maps an output (n, ...) to values (n, ...), each from its own example only.
    Cost: one forward pass.
    """
    figures: dict[str, list[Tensor]] = {block.name: [] for block in blocks}

    def keep(name: str, _module: nn.Module, _args: Any, output: Any) -> None:  # noqa: ANN401
        first = first_tensor(output)
        assert first is not None  # a removable block returns a tensor of its input's shape
        figures[name].append(reduce(first.detach()))

    with ExitStack() as hooks, torch.no_grad():
        for name in figures:
            hook = partial(keep, name)
            hooks.enter_context(model.get_submodule(name).register_forward_hook(hook))
        for _, part in split(batch, micro_batches):
            call(model, inputs_of(part))
    examples = size_of(batch)
    for name, parts in figures.items():
        if sum(len(part) for part in parts) != examples:
            raise LayerticketError(
                f"block {name!r} gave outputs for {sum(len(part) for part in parts)} examples, but "
                f"the batch has {examples}. This criterion needs one output per example; use snip, "
                "grasp or magnitude for this model."
            )
    return {name: torch.cat(parts) for name, parts in figures.items()}
