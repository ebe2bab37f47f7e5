"""One architecture: which blocks can go, what that saves, and whether the rest still works.

Enters: a specification. Leaves: JSON values that depend on nothing but the versions of the
libraries.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, logits_of, tensors_of
from layerticket.blocks.block import Block, Blocks
from layerticket.blocks.find import find_blocks
from layerticket.counting import count_macs
from layerticket.errors import LayerticketError
from layerticket.study.architectures.specs import Spec, build
from layerticket.surgery.remove import remove_blocks, zero_blocks

__all__ = ["examine"]

logger = logging.getLogger(__name__)


def examine(spec: Spec) -> dict[str, Any]:
    """Find the removable blocks of a network, remove them all, and try what is left.

    Where the network does not run without all of them, as many are removed, from the output on,
    as it runs without.

    Args:
        spec: What to build.

    Returns:
        The row: `params` and `macs` of the network, number of `blocks` and `stays` (candidates
        that must stay), how many were `removed` together, `macs_saving` and `params_saving` by
        that, and whether the smaller network passed `forward` (the output has its shape),
        `same_as_zeros` (it computes what the network with zeroed blocks computes; null where a
        normalization stands behind the addition), `backward` (in training mode; every gradient is
        finite, and a weight that had one before still has one) and `export` (`torch.export` gives
        the same output); null where there is nothing to remove. `reasons`: why candidates must
        stay, with their number. `branches`: what can go by itself at the granularity of branches;
        `branches_same`: whether the network without every second one computes what it computes
        with those at zero (null where that cannot be said, or blocks have one branch only).
    """
    model, example = build(spec)
    found = find_blocks(model, example)
    branches = find_blocks(model, example, granularity="branch")
    small, gone = _remove_most(model, found, example)
    row: dict[str, Any] = {
        "name": spec.name,
        "inputs": spec.inputs,
        "params": found.params,
        "macs": found.macs,
        "blocks": len(found),
        "stays": len(found.rejected),
        "removed": len(gone),
        "macs_saving": None,
        "params_saving": None,
        "forward": None,
        "same_as_zeros": None,
        "backward": None,
        "export": None,
        "branches": len(branches),
        "branches_same": _branches_same(model, branches, example),
        "reasons": _reasons(found),
    }
    if gone:
        left = sum(parameter.numel() for parameter in small.parameters())
        row["macs_saving"] = round(1 - count_macs(small, example) / found.macs, 6)
        row["params_saving"] = round(1 - left / found.params, 6)
        row |= _tried(model, small, gone, example)
    return row


def _remove_most(
    model: nn.Module, found: Blocks, example: Inputs
) -> tuple[nn.Module, tuple[Block, ...]]:
    """Remove all blocks; where the network does not run without them, as many as it can spare."""
    small = remove_blocks(model, found)
    if _runs(small, example):
        return small, found.removable
    gone: list[Block] = []
    for block in reversed(found.removable):
        if _runs(remove_blocks(model, [*gone, block]), example):
            gone.append(block)
    return remove_blocks(model, gone), tuple(gone)


def _runs(model: nn.Module, example: Inputs) -> bool:
    try:
        with torch.no_grad():
            call(model.eval(), example)
    except Exception:  # that a foreign network's own code does not run is the answer
        logger.info("%s does not run", type(model).__name__, exc_info=True)
        return False
    return True


def _reasons(found: Blocks) -> dict[str, int]:
    """Count why candidates must stay, shapes and messages left out; the most frequent first."""
    short = [_short(rejection.reason) for rejection in found.rejected]
    return dict(sorted(Counter(short).items(), key=lambda item: (-item[1], item[0])))


def _short(reason: str) -> str:
    if reason.startswith("changes shape"):
        return "changes shape"
    for mark in (":", "(", ", which fails"):
        reason = reason.partition(mark)[0]
    return reason.strip()


def _tried(
    model: nn.Module, small: nn.Module, gone: tuple[Block, ...], example: Inputs
) -> dict[str, bool | None]:
    """Run the smaller network forward and backward, and export it."""
    with torch.no_grad():
        dense, output = (logits_of(call(net.eval(), example)) for net in (model, small))
    return {
        "forward": bool(output.shape == dense.shape and output.isfinite().all()),
        "same_as_zeros": _same_as_zeros(model, gone, example, output),
        "export": _exports(small, example, output),
        "backward": _backward(model, small, example),  # last: it moves running averages
    }


def _same_as_zeros(
    model: nn.Module, gone: tuple[Block, ...], example: Inputs, output: Tensor
) -> bool | None:
    """Tell whether an output is that of the network with the blocks at zero, where that is due."""
    try:
        zeroed = zero_blocks(model, gone)
    except LayerticketError:  # zeros would mute a normalization behind an addition
        return None
    with torch.no_grad():
        return _close(output, logits_of(call(zeroed.eval(), example)))


def _branches_same(model: nn.Module, branches: Blocks, example: Inputs) -> bool | None:
    """Take every second branch out, if blocks have several, and compare as above."""
    if all(block.branch is None for block in branches):
        return None
    gone = branches.removable[::2]
    with torch.no_grad():
        output = logits_of(call(remove_blocks(model, gone).eval(), example))
    return _same_as_zeros(model, gone, example, output)


def _backward(model: nn.Module, small: nn.Module, example: Inputs) -> bool:
    """Tell whether all gradients are finite, and there wherever the whole network has them."""
    pair = _repeated(example)
    before, after = _gradients(model, pair), _gradients(small, pair)
    finite = all(bool(gradient.isfinite().all()) for gradient in after.values())
    return finite and after.keys() == before.keys() & dict(small.named_parameters()).keys()


def _gradients(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the gradients in training mode by name; weights the output does not need have none."""
    model.train().zero_grad()
    logits = logits_of(call(model, inputs)).float()
    logits.square().mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _repeated(example: Inputs) -> Inputs:
    """Put two examples into a batch, the second one turned, for batch normalization."""
    if isinstance(example, Tensor):
        return torch.cat([example, example.flip(-1)])
    assert isinstance(example, Mapping)
    return {name: torch.cat([value, value.flip(-1)]) for name, value in example.items()}


def _exports(small: nn.Module, example: Inputs, output: Tensor) -> bool:
    """Tell whether `torch.export` takes the network and its program computes the same."""
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else ((example,), None)
    assert tensors_of(example)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(small.eval(), args, kwargs)
            exported = logits_of(program.module()(*args, **(kwargs or {})))
    except Exception:  # whatever the exporter refuses is the answer
        logger.info("%s is not exported", type(small).__name__, exc_info=True)
        return False
    return _close(exported, output)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)
