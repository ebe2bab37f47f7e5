"""A network as a function from tensors to tensors, and its graph, traced once for all formats."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, tensors_of
from layerticket.errors import LayerticketError

__all__ = ["Tensors", "Traced", "arguments"]


class Tensors(nn.Module):
    """Returns of a network's output the tensors only: one, by name, or in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the network's
        """Call the network."""
        output = self.model(*args, **kwargs)
        if isinstance(output, Tensor):
            return output
        if isinstance(output, Mapping):
            return {key: value for key, value in output.items() if isinstance(value, Tensor)}
        return tuple(tensors_of(output))


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as positional and named arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return ((inputs,), {}) if isinstance(inputs, Tensor) else (tuple(inputs), {})


@dataclass(frozen=True)
class Traced:
    """A network on the CPU in evaluation mode, with inputs to trace it on."""

    model: nn.Module
    inputs: Inputs
    any_batch: bool

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """Run the network itself."""
        return tensors_of(call(Tensors(self.model), inputs))

    @functools.cached_property
    def program(self) -> Any:  # noqa: ANN401 - torch.export.ExportedProgram
        """The graph.

        Raises:
            LayerticketError: If PyTorch cannot trace the network.
        """
        args, kwargs = arguments(self.inputs)
        given = {"args": args} if args else {"kwargs": kwargs}
        dynamic = _any_batch(given) if self.any_batch else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(
                    Tensors(self.model), args, kwargs, dynamic_shapes=dynamic, strict=False
                )
        except Exception as err:
            hint = " Try any_batch=False." if self.any_batch else ""
            raise LayerticketError(
                f"torch.export cannot trace this {type(self.model).__name__}: "
                f"{str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__}."
                f"{hint} The format 'safetensors' needs no graph."
            ) from err


def _any_batch(tree: Any) -> Any:  # noqa: ANN401 - any nesting
    """Say of every tensor that its first dimension may change; what is no tensor has none."""
    if isinstance(tree, Tensor):
        return {0: torch.export.Dim.DYNAMIC} if tree.ndim else None
    if isinstance(tree, Mapping):
        return {key: _any_batch(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_any_batch(value) for value in tree)
    return None
