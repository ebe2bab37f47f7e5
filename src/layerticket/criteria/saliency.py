"""Shared by criteria on single weights: which weights, their gradient, sums over blocks."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, LossFn, split
from layerticket.blocks.block import Blocks
from layerticket.criteria.registry import Reduction
from layerticket.errors import LayerticketError, ModelError, raised_by

Fill = Callable[..., object]
"""Fills a tensor with random numbers from the keyword argument `generator`."""


def network_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every weight tensor of two or more dimensions by name.

    These are the weights of convolutions, linear layers and embeddings; biases, normalization
    parameters and other vectors are not included, as in the authors' code of SNIP and GraSP.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and parameter.is_floating_point()
    }


def block_weights(model: nn.Module, blocks: Blocks) -> dict[str, list[str]]:
    """Return the names of each block's weights, by block name.

    Raises:
        LayerticketError: If a block has none.
    """
    names = list(network_weights(model))
    owned = {
        b.name: [n for n in names if n.startswith(tuple(f"{module}." for module in b.modules))]
        for b in blocks
    }
    for block, weights in owned.items():
        if not weights:
            raise LayerticketError(f"block {block!r} has no weight matrix to score.")
    return owned


def loss_gradient(
    model: nn.Module,
    batch: Batch,
    weights: Mapping[str, Tensor],
    loss_fn: LossFn,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss for the weights, by name.

    Micro-batches limit the memory; their share-weighted sum is the gradient of the whole batch if
    examples do not influence each other (no batch statistics). A weight without effect on the loss
    has gradient zero. ``.grad`` is not changed. Memory: one gradient per weight, and the
    activations of one micro-batch.
    """
    total: dict[str, Tensor] = {}
    for share, part in split(batch, micro_batches):
        with ExitStack() as hooks:
            for name, w in weights.items():
                hook = partial(_add, total, name, share)
                hooks.enter_context(w.register_hook(hook))  # type: ignore[no-untyped-call]  # torch
            loss = loss_of(model, part, loss_fn)
            with raised_by(model, "in the backward pass"):
                torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {n: total[n] if n in total else torch.zeros_like(w) for n, w in weights.items()}


def loss_of(model: nn.Module, batch: Batch, loss_fn: LossFn) -> Tensor:
    """Compute the loss; raise unless it is a single number.

    Raises:
        ModelError: If the network or the loss raises, or the loss is not a single number.
    """
    with raised_by(loss_fn, "as the loss"):
        loss = loss_fn(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ModelError(f"the loss is not one number ({given}); return its mean over the batch.")
    return loss


def _add(total: dict[str, Tensor], name: str, share: float, gradient: Tensor) -> Tensor:
    """Add a gradient to the total, and return zeros that take no memory."""
    part = gradient.detach() if share == 1 else share * gradient.detach()
    if name in total:
        total[name] += part
    else:
        total[name] = part
    return gradient.new_zeros(()).expand_as(gradient)


def redraw_weights(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], fill: Fill, draw: int
) -> None:
    """Replace the weights of layers of some kinds in a view by new random weights; biases stay.

    Args:
        model: A view (see `view_of`): its parameters are replaced, not written to.
        kinds: Classes of layers whose ``weight`` is redrawn.
        fill: Fills a tensor, like the functions of ``torch.nn.init``.
        draw: Seed of the draw.

    Raises:
        LayerticketError: If `draw` is not a whole number from 0, there is no such layer, or the
            weight of one is computed from other parameters.
    """
    if not isinstance(draw, int) or isinstance(draw, bool) or draw < 0:
        raise LayerticketError(f"redraw is {draw!r}; it must be a whole number from 0, or None.")
    generator, fresh = torch.Generator().manual_seed(draw), dict[int, nn.Parameter]()
    for name, module in model.named_modules():
        if not isinstance(module, kinds):
            continue
        old = module._parameters.get("weight")
        if old is None:
            raise LayerticketError(
                f"redraw is {draw}, but the weight of {name!r} is computed from other parameters. "
                "Leave redraw out."
            )
        if id(old) not in fresh:
            new = torch.empty(old.shape, dtype=torch.float32)
            fill(new, generator=generator)
            fresh[id(old)] = nn.Parameter(new.to(old))
    if not fresh:
        kind = " or ".join(kind.__name__.strip("_") for kind in kinds)
        raise LayerticketError(
            f"redraw is {draw}, but the network has no layer of kind {kind} to redraw. Leave "
            "redraw out."
        )
    for module in model.modules():  # also if a weight is shared with a layer of another kind
        for key, held in module._parameters.items():
            if held is not None and id(held) in fresh:
                module._parameters[key] = fresh[id(held)]


def reduce_over_blocks(
    saliency: Mapping[str, Tensor], owned: Mapping[str, list[str]], reduction: Reduction = "sum"
) -> dict[str, float]:
    """Sum (or average) the scores of single weights over each block, in float64."""
    scores: dict[str, float] = {}
    for block, names in owned.items():
        total = sum(saliency[name].double().sum().item() for name in names)
        count = sum(saliency[name].numel() for name in names)
        scores[block] = total / count if reduction == "mean" else total
    return scores
