"""One file holds all that training needs to go on: weights, momentum and a few facts.

Enters: any model, its optimizer, JSON facts. Leaves: one file, or the same objects filled from it.
Refuses to know recipes and data. Buffers that a model declares non-persistent are not kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors, save_tensors

__all__ = [
    "fill_optimizer",
    "load_checkpoint",
    "load_weights",
    "optimizer_state",
    "read_checkpoint",
    "save_checkpoint",
    "save_weights",
]


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the state of a model under its own tensor names.

    Args:
        path: File to write.
        model: Any model whose state is tensors; not modified.

    Raises:
        LayerticketError: If part of the state is not a tensor.
    """
    save_tensors(path, model.state_dict(), {})


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy the state in a file into a model, in place; nothing is copied unless all of it fits.

    Args:
        path: File of `save_weights`.
        model: Model of the same architecture.

    Raises:
        LayerticketError: If the file is damaged or belongs to another architecture.
    """
    tensors, _ = load_tensors(path)
    _copy(path, tensors, model.state_dict())


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, facts: Mapping[str, Any]
) -> None:
    """Write model, optimizer and facts as one file.

    Args:
        path: File to write.
        model: Any model whose state is tensors; not modified.
        optimizer: Optimizer over parameters of the model; not modified.
        facts: JSON values, finite.

    Raises:
        LayerticketError: If part of the state is not a tensor.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    state = optimizer_state(model, optimizer)
    tensors |= {f"optimizer/{name}": value for name, value in state.items()}
    save_tensors(path, tensors, facts)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Copy a checkpoint into model and optimizer, in place.

    Args:
        path: File of `save_checkpoint`.
        model: Model of the same architecture.
        optimizer: Optimizer over the same parameters.

    Returns:
        The facts.

    Raises:
        LayerticketError: If the file is damaged or belongs to another architecture.
    """
    weights, momentum, facts = read_checkpoint(path)
    _copy(path, weights, model.state_dict())
    fill_optimizer(model, optimizer, momentum)
    return facts


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint without a model to put it in.

    Args:
        path: File of `save_checkpoint`.

    Returns:
        Parameters and buffers by name, the optimizer's state as ``parameter/key``, the facts.

    Raises:
        LayerticketError: If the file is damaged.
    """
    tensors, facts = load_tensors(path)
    weights, momentum = (
        {name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)}
        for kind in ("model/", "optimizer/")
    )
    return weights, momentum, facts


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as ``parameter/key``; the tensors are its own, not copies.

    Args:
        model: Model the optimizer works on.
        optimizer: Not modified.
    """
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def fill_optimizer(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Copy an optimizer's state into an optimizer, in place, in the layout of the parameters.

    Args:
        model: Model the optimizer works on.
        optimizer: Optimizer to fill.
        state: Tensors as ``parameter/key``, as `read_checkpoint` gives them.

    Raises:
        LayerticketError: If a parameter is not in the model or has another shape.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        owner, _, key = name.rpartition("/")
        if owner not in parameters or (tensor.ndim and tensor.shape != parameters[owner].shape):
            raise LayerticketError(
                f"optimizer state {name!r} of shape {tuple(tensor.shape)} fits no parameter of "
                "the model. Build the model that it was written for."
            )
        like = parameters[owner] if tensor.ndim else tensor
        optimizer.state[parameters[owner]][key] = torch.empty_like(like).detach().copy_(tensor)


def _copy(path: Path, stored: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into equal-named ones of equal shape and type; refuse anything less."""
    odd = sorted(stored.keys() ^ target.keys())
    odd += [
        name
        for name in sorted(stored.keys() & target.keys())
        if (stored[name].shape, stored[name].dtype) != (target[name].shape, target[name].dtype)
    ]
    if odd:
        raise LayerticketError(
            f"{path} does not fit the model: {len(odd)} tensors differ, first {odd[0]!r}. "
            "Build the model that the file was written for, or use another folder."
        )
    with torch.no_grad():
        for name, tensor in stored.items():
            target[name].copy_(tensor)
