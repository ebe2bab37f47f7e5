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

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint", "save_weights"]


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
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer/{name}/{key}"] = value
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
    tensors, facts = load_tensors(path)
    stored = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    _copy(path, stored, model.state_dict())
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            owner, _, key = name.removeprefix("optimizer/").rpartition("/")
            like = parameters[owner] if tensor.ndim else tensor
            optimizer.state[parameters[owner]][key] = torch.empty_like(like).detach().copy_(tensor)
    return facts


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
