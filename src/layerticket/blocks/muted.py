"""A residual block with silent branches, and what it returns when one of them is made to speak."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.blocks.zero_test import call_with, first_argument, first_tensor, lively

__all__ = ["idle_modules", "muted_copy", "replacing", "response"]


def muted_copy(module: nn.Module, passed: set[str]) -> nn.Module:
    """Copy a module with all parameters at zero, but scales of its own at one.

    A scale the block owns itself multiplies what a branch gives, and would silence it.

    Args:
        module: A block.
        passed: Names of modules inside that return their input: normalizations, activations.
    """
    memo: dict[int, object] = {}
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            vector = sum(size > 1 for size in parameter.shape) < 2
            value = float(vector and "." not in name and "bias" not in name)
            memo[id(parameter)] = nn.Parameter(torch.full_like(parameter, value))
    muted = copy.deepcopy(module, memo).eval()
    for name in passed:
        muted.get_submodule(name).forward = first_argument
    return muted


@contextlib.contextmanager
def replacing(module: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors in the place of what modules inside return first."""

    def speak(value: Tensor) -> Any:  # noqa: ANN401 - a hook
        def hook(_: nn.Module, __: Any, output: Any) -> Any:  # noqa: ANN401
            tensor = isinstance(output, Tensor)
            spoken = value.reshape((output if tensor else output[0]).shape).clone()
            return spoken if tensor else (spoken, *output[1:])

        return hook

    handles = [module.get_submodule(n).register_forward_hook(speak(v)) for n, v in outputs.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def response(module: nn.Module, outputs: Mapping[str, Tensor], call: Any) -> Tensor:  # noqa: ANN401
    """Return what a block returns first when modules inside return the tensors given."""
    with torch.no_grad(), replacing(module, outputs):
        output = first_tensor(call_with(module, *call))
    assert output is not None
    return output


def idle_modules(module: nn.Module, end: str, call: Any) -> list[str]:  # noqa: ANN401
    """List the modules whose parameters no longer matter when a module inside returns zeros.

    They are those whose parameters have no gradient, or zero; modules inside of another one that
    is listed, and `end` itself, are left out.
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(lively(p)) for p in module.parameters() if p.is_floating_point()
    }
    alive = copy.deepcopy(module, memo).eval()
    x = call[0]
    with torch.enable_grad(), replacing(alive, {end: torch.zeros_like(x)}):
        output = first_tensor(call_with(alive, *call))
        assert output is not None
        if output.requires_grad:
            torch.autograd.backward((output * torch.randn_like(output)).sum())
    idle: list[str] = []
    for name, inner in alive.named_modules():
        own = list(inner.parameters())
        silent = own and all(p.grad is None or not p.grad.any() for p in own)
        nested = any(name.startswith(f"{other}.") for other in (end, *idle))
        if silent and name != end and not nested and not end.startswith(f"{name}."):
            idle.append(name)
    return [name for name in idle if name]
