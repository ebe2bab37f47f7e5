"""GraSP: preserving gradient flow."""

import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layerticket.batch import (
    Batch,
    CrossEntropy,
    LossFn,
    call,
    classes_of,
    head,
    inputs_of,
    logits_of,
    map_tensors,
    split,
)
from layerticket.criteria.saliency import loss_gradient, loss_of, network_weights, redraw_weights
from layerticket.errors import LayerticketError, ModelError, raised_by
from layerticket.modules import TwiceDifferentiable

logger = logging.getLogger(__name__)

COOLED = CrossEntropy(temperature=200.0, classes_only=True)  # the temperature of the authors' code
EXAMPLES = 16  # invariance under scaling holds for every batch, so a few examples show it
EULER = 1e-3  # largest |theta . g| / (|theta| |g|); rounding in low precision stays below it
SCALED = 3e-5  # largest relative deviation of the outputs per scaled weight


def grasp(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    loss_fn: LossFn = COOLED,
    micro_batches: int = 1,
    hessian: Literal["auto", "shortcut", "exact"] = "auto",
    halves: bool = False,
    redraw: int | None = None,
) -> dict[str, Tensor]:
    """Score a weight by the gradient flow that it carries: ``theta * (H g)``; high = keep.

    ``g`` and ``H`` are gradient and Hessian of the mean loss, both over the weight matrices of
    the whole network (paper, eq. 8, with the sign for high = keep).

    If a normalization with batch statistics follows a weight tensor, scaling the tensor does not
    change the loss; then ``theta . (H g) = -||g||^2`` over that tensor, and no Hessian is needed.
    So on such networks layer-GraSP removes the blocks with the largest gradient norm. `auto`
    verifies this invariance for every tensor, and uses the exact product otherwise. The shortcut is
    valid only for sums over whole tensors, so only for blocks; for filters and masks the product is
    exact.

    Cost: one gradient, and two forward passes of 16 examples, with the shortcut; one gradient and
    one double backward otherwise.

    Args:
        model: Untrained network, in the mode to differentiate in.
        weights: The weights to score, by name.
        batch: Inputs and targets, N examples.
        loss_fn: Mean loss over a batch; by default cross-entropy of ``logits / 200``.
        micro_batches: Number of parts to process the batch in.
        hessian: `auto`, or `shortcut` (raises if it is not valid), or `exact`.
        halves: Whether to sort the batch by class and run its two halves one after the other, each
            normalized by its own statistics, as in the authors' code. Needs one class per
            example.
        redraw: Seed to redraw the weights of every ``nn.Linear`` before scoring (Xavier normal), as
            in the authors' code; in a convolutional network that is the classifier. None: no
            redraw.

    Returns:
        Weight name -> values in loss^2 per squared weight times weight.

    Raises:
        LayerticketError: If `hessian` is unknown, the shortcut is asked for but not valid, or
            `halves` or `redraw` does not fit the batch or network.

    References:
        [1] Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        ICLR 2020. The authors' code has ``halves=True`` and a `redraw`; its scores are -4 times
        these (it adds gradients of halves, where we average, and has the opposite sign).
    """
    if hessian not in ("auto", "shortcut", "exact"):
        raise LayerticketError(f"hessian is {hessian!r}; allowed are auto, shortcut and exact.")
    if halves:
        batch, micro_batches = _sorted_by_class(batch, micro_batches), 2
    if redraw is not None:
        redraw_weights(model, (nn.Linear,), nn.init.xavier_normal_, redraw)
    every = network_weights(model)
    weights = {name: every[name] for name in weights}
    gradient = loss_gradient(model, batch, every, loss_fn, micro_batches)
    holds = hessian != "exact" and scale_invariant(
        model, batch, list(weights), gradient, micro_batches
    )
    if hessian == "shortcut" and not holds:
        raise LayerticketError(
            "the shortcut is not valid: some block weights are not followed by a normalization "
            "with batch statistics. Use hessian='exact' (or 'auto')."
        )
    logger.info("GraSP through %s", "the squared gradient norm" if holds else "the exact H g")
    if holds:
        return {name: -gradient.pop(name).square() for name in weights}
    product = _hessian_product(model, batch, every, gradient, loss_fn, micro_batches)
    return {name: weight.detach() * product.pop(name) for name, weight in weights.items()}


def _sorted_by_class(batch: Batch, micro_batches: int) -> Batch:
    """Sort the examples by class, so that two micro-batches are the halves of the authors' code."""
    if micro_batches != 1:
        raise LayerticketError(
            f"micro_batches is {micro_batches} and halves is True, but halves are two "
            "micro-batches. Choose one."
        )
    classes = classes_of(batch)
    if classes is None or len(classes) < 2:
        raise LayerticketError(
            "halves sorts the batch by class and splits it in two; it needs one class per example, "
            "as whole numbers, and at least two examples. Leave halves out."
        )
    order = classes.argsort(stable=True)
    found: Batch = map_tensors(batch, lambda t: t[order.to(t.device)])
    return found


def scale_invariant(
    model: nn.Module,
    batch: Batch,
    names: list[str],
    gradient: Mapping[str, Tensor],
    micro_batches: int,
) -> bool:
    """Whether the network's output is unchanged if each weight tensor is scaled alone.

    Two checks: ``theta . g = 0`` for every weight (Euler's theorem for functions of degree zero;
    free, the gradient is at hand), and one forward pass of the first 16 examples with every weight
    doubled or halved, at random. Powers of two pass through floating-point arithmetic without
    rounding, in any precision, so what is left is what the epsilon inside the normalizations does;
    it grows into an error of the scores about a hundred times as large. `SCALED` is the largest
    relative deviation of the outputs per weight scaled (CIFAR ResNets reach 2e-5); deviations of
    single weights add up as their squares do.
    """
    weights = network_weights(model)
    for name in names:
        theta, g = weights[name].detach().double().flatten(), gradient[name].double().flatten()
        if (theta @ g).abs() > EULER * theta.norm() * g.norm():
            return False
    generator = torch.Generator().manual_seed(0)
    factors = 2.0 ** (2 * torch.randint(2, (len(names),), generator=generator) - 1)
    scaled = {n: weights[n].detach() * f for n, f in zip(names, factors.tolist(), strict=True)}
    inputs = inputs_of(head(split(batch, micro_batches)[0][1], EXAMPLES))
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    if isinstance(args, Tensor):
        args = (args,)
    with torch.no_grad(), raised_by(model, "with scaled weights"):
        try:
            before = logits_of(call(model, inputs))
        except ModelError:
            raise
        except LayerticketError:  # an output that cannot be compared proves nothing
            return False
        after = logits_of(functional_call(model, scaled, tuple(args), dict(kwargs)))
    allowed = SCALED * len(names) ** 0.5
    return bool((after - before).norm() <= allowed * (before - before.mean(0)).norm())


def _hessian_product(
    model: nn.Module,
    batch: Batch,
    weights: Mapping[str, Tensor],
    vector: Mapping[str, Tensor],
    loss_fn: LossFn,
    micro_batches: int,
) -> dict[str, Tensor]:
    """Return H v by differentiating the inner product of gradient and v."""
    product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for share, part in split(batch, micro_batches):
        with TwiceDifferentiable():
            loss = loss_of(model, part, loss_fn)
        with raised_by(model, "in the second derivative"):
            gradients = torch.autograd.grad(
                loss, list(weights.values()), create_graph=True, allow_unused=True
            )
            inner = sum(
                (g * v).sum()
                for g, v in zip(gradients, vector.values(), strict=True)
                if g is not None and g.requires_grad
            )
            if not isinstance(inner, Tensor):  # the loss is linear in every weight: H = 0
                continue
            _check_second_derivatives(inner)
            rows = torch.autograd.grad(inner, list(weights.values()), allow_unused=True)
        for name, row in zip(weights, rows, strict=True):
            if row is not None:
                product[name] += share * row
    return product


def _check_second_derivatives(inner: Tensor) -> None:
    """Raise if a part of the graph cannot be differentiated again.

    PyTorch would otherwise silently ignore that part.
    """
    waiting, seen = [inner.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise ModelError(
                "a part of the network has no second derivative (a function marked "
                "once_differentiable). GraSP needs it: use criterion 'snip', or replace that part."
            )
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
