"""A protected view of the caller's model: it shares the weights' memory and owns all the rest.

Modes, hooks, buffers and gradients of the view are its own, so nothing done to them reaches the
caller. Weights are shared (no second copy of a large model), so nothing may write to them;
`weight_versions` tells whether somebody did.
"""

import contextlib
import copy
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerticket.errors import LayerticketError


def copy_of(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """Deep-copy a model; objects whose id is in `memo` are replaced by what stands there.

    Tensors that a module holds from its last call with gradients, such as a masked weight, are
    copied as values; the copy's next call makes its own.

    Raises:
        LayerticketError: If the model cannot be copied.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as err:
        raise LayerticketError(
            f"{type(model).__name__} cannot be copied ({err}); models must support copy.deepcopy "
            "before they are scored or cut."
        ) from err


def view_of(model: nn.Module) -> nn.Module:
    """Return a copy of the module tree whose parameters share memory with the original's.

    Every floating-point parameter of the view requires a gradient, frozen in the original or not.

    Raises:
        LayerticketError: If a lazy parameter has no shape yet, or the model cannot be copied.
    """
    memo: dict[int, object] = {}
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise LayerticketError(
                f"parameter {name!r} has no shape yet: call the model once on an example first."
            )
        trainable = parameter.is_floating_point() or parameter.is_complex()
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=trainable)
    return copy_of(model, memo)


def weight_versions(model: nn.Module) -> dict[str, int]:
    """Return how often each parameter has been written to in place, as PyTorch counts it."""
    return {name: parameter._version for name, parameter in model.named_parameters()}


@contextlib.contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back into training or evaluation mode on leaving, also on errors."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def preserved_random_state(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and PyTorch inside; restore their states on leaving, also on errors."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the caller's global state is what must come back
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def reference_kernels() -> Iterator[None]:
    """Run attention in plain matrix products: countable, and differentiable twice."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
