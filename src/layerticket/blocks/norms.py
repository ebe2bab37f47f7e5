"""Finds normalizations and activations by their behaviour.

The zero-function test may replace them by the identity, since one may follow a block's addition.
"""

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from layerticket.batch import first_tensor
from layerticket.blocks.kinds import kind_of
from layerticket.modules import in_eval_mode, view_of

ENTRIES = 64
KNOWN = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class Like:
    """What a tensor is like, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def drawn(self, draw: Callable[..., Tensor]) -> Tensor:
        """Return a tensor of random numbers, such as `torch.rand`."""
        return draw(self.shape, dtype=self.dtype, device=self.device)


def find_norms(model: nn.Module, inputs: Mapping[str, Like]) -> set[str]:
    """Find normalizations by behaviour: only vectors as parameters, and f(3x) = f(x) for any x.

    Those of PyTorch need no test; others are called alone. `inputs` are those of the modules that
    are called with one tensor.
    """
    norms = set[str]()
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        scale = own and all(p.ndim == 1 for p in own) and not list(module.children())
        if isinstance(module, _NormBase) or (scale and isinstance(module, KNOWN)):
            norms.add(name)
        elif scale and name in inputs:
            alone, x = in_eval_mode(view_of(module)), inputs[name].drawn(torch.randn)
            once, thrice = (first_tensor(alone(factor * x)) for factor in (1, 3))
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
    found, tested = set[str](), dict[Hashable, bool]()
    for name, module in model.named_modules():
        if next(module.children(), None) is not None or next(module.parameters(), None) is not None:
            continue
        kind = kind_of(module)
        if kind not in tested:
            tested[kind] = _is_pointwise(in_eval_mode(copy.deepcopy(module)))
        if tested[kind]:
            found.add(name)
    return found


def _is_pointwise(module: nn.Module) -> bool:
    x = torch.linspace(-3, 3, ENTRIES)
    other, half = x.clone(), ENTRIES // 2
    other[:half] += 1
    order = torch.arange(ENTRIES).roll(7)
    try:
        first, second, third = (module(v.clone()) for v in (x, other, x[order]))
        alike = torch.equal(first[half:], second[half:]) and torch.equal(first[order], third)
    except Exception:  # does not accept a vector, so it is not elementwise
        return False
    return alike and first.shape == x.shape
