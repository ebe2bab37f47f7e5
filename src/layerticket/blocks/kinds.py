"""Group modules that differ only in the values of their weights, so that one of them is tested."""

import types
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import nn

from layerticket.tensors import tensor_digest

# Attributes that are compared one by one, or that do not matter in evaluation mode.
_APART = {"_parameters", "_buffers", "_modules", "training"}
PLAIN = (bool, int, float, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)
_CODE = (types.FunctionType, types.BuiltinFunctionType)


def kind_of(module: nn.Module) -> Hashable:
    """Return a key that is equal for modules that differ only in the values of their parameters.

    The key contains the classes of a module and its submodules, their settings and hooks, the
    shapes of their parameters and the values of their buffers. An object that cannot be compared is
    equal only to itself.
    """
    places: dict[int, int] = {}
    return tuple(
        (name, _part(part, places) if id(part) not in places else places[id(part)])
        for name, part in module.named_modules(remove_duplicate=False)
    )


def _part(module: nn.Module, places: dict[int, int]) -> Hashable:
    """Return the key of one module without submodules; `places` numbers modules and parameters."""
    places[id(module)] = len(places)
    settings = tuple(
        (key, _frozen(value)) for key, value in vars(module).items() if key not in _APART
    )
    shapes = []
    for name, parameter in module._parameters.items():
        known = None if parameter is None else places.setdefault(id(parameter), len(places))
        shape = None if parameter is None else (tuple(parameter.shape), parameter.dtype)
        fixed = parameter is not None and not parameter.is_floating_point()  # stays in the test
        shapes.append((name, known, shape, id(parameter) if fixed else None))
    buffers = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
    return type(module), settings, tuple(shapes), tensor_digest(buffers) if buffers else ""


def _frozen(value: Any) -> Hashable:  # noqa: ANN401 - whatever a module holds
    """Return a key of a setting; an object that cannot be compared is equal only to itself."""
    if isinstance(value, PLAIN):
        return type(value), value
    if type(value) in (tuple, list):
        return type(value), tuple(map(_frozen, value))
    if isinstance(value, Mapping) and all(isinstance(key, PLAIN) for key in value):
        return type(value), tuple((key, _frozen(one)) for key, one in value.items())
    if isinstance(value, (set, frozenset)) and all(isinstance(one, PLAIN) for one in value):
        return type(value), frozenset(value)
    if isinstance(value, _CODE):
        return value
    return "the same", id(value)
