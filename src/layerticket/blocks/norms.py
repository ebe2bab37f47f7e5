"""Finds normalizations and activations by their behaviour.

The zero-function test may replace them by the identity, since one may follow a block's addition.
"""

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from layerticket.batch import Inputs, call, first_tensor
from layerticket.modules import in_eval_mode, reference_kernels, view_of

ENTRIES = 64
KNOWN = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def find_norms(model: nn.Module, example: Inputs) -> set[str]:
    """Find normalizations by behaviour: only vectors as parameters, and f(3x) = f(x) for any x.

    Those of PyTorch need no test. Cost: one forward pass if there may be others. If the model does
    not run on the example, some are not found.
    """
    norms, unknown = set[str](), list[str]()
    for name, module in model.named_modules():
        own = list(module.parameters())
        scale = own and all(p.ndim == 1 for p in own) and not list(module.children())
        if isinstance(module, _NormBase) or (scale and isinstance(module, KNOWN)):
            norms.add(name)
        elif scale:
            unknown.append(name)
    if not unknown:
        return norms
    recorder = in_eval_mode(view_of(model))
    seen: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point():
                seen[name] = args[0].new_empty(()).expand(args[0].shape)  # its shape and type

        module.register_forward_pre_hook(enter)

    alone: dict[str, nn.Module] = {}
    for name in unknown:
        alone[name] = copy.deepcopy(recorder.get_submodule(name))
        watch(name, recorder.get_submodule(name))
    with torch.no_grad(), reference_kernels():
        with contextlib.suppress(Exception):  # the caller runs it again and reports the error
            call(recorder, example)
        for name, like in seen.items():
            x = torch.randn(like.shape, dtype=like.dtype, device=like.device)
            once, thrice = (first_tensor(alone[name](factor * x)) for factor in (1, 3))
            if once is None or thrice is None or once.shape != x.shape:
                continue
            if torch.allclose(once, thrice, rtol=1e-2, atol=1e-3):
                norms.add(name)
    return norms


def find_pointwise(model: nn.Module) -> set[str]:
    """Find activations by behaviour: no parameters, no submodules, and elementwise.

    A change in the first half of a vector does not change the second half of the output, and
    reordered entries give the reordered output.
    """
    x = torch.linspace(-3, 3, ENTRIES)
    other, half = x.clone(), ENTRIES // 2
    other[:half] += 1
    order = torch.arange(ENTRIES).roll(7)
    found = set()
    for name, module in model.named_modules():
        if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
            continue
        alone = in_eval_mode(copy.deepcopy(module))
        try:
            first, second, third = (alone(v.clone()) for v in (x, other, x[order]))
            alike = torch.equal(first[half:], second[half:]) and torch.equal(first[order], third)
        except Exception:  # does not accept a vector, so it is not elementwise
            continue
        if alike and first.shape == x.shape:
            found.add(name)
    return found
