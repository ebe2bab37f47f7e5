"""The record of a network with fewer filters: save, load, apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from layerticket.rivals.filters.coupling import without_channels
from layerticket.rivals.records import Initialization, Rival

__all__ = ["FilterTicket"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterTicket(Rival):
    """A network from which filters were removed, with the evidence for the choice."""

    kind: ClassVar[str] = "filters"

    removed: Mapping[str, tuple[int, ...]]
    """Filters that are gone, by the name of their convolution; coupled ones lose the same."""
    scores: Mapping[str, list[float]]
    """Score of every channel, higher = keep, by the first convolution of those coupled."""
    input_shape: tuple[int, ...]
    """Shape of one image the network is traced with."""

    def apply(self, model: nn.Module, *, initialization: Initialization = "ticket") -> nn.Module:
        """Remove the filters from a freshly built dense network; `model` is not modified.

        Args:
            model: A network of the architecture the filters were chosen in.
            initialization: `ticket`: the result starts at the recorded weights; `model`: at the
                values `model` has.

        Raises:
            LayerticketError: If the model's architecture is another one.
        """
        self._check(model, initialization)
        like = next(model.parameters())
        example = torch.zeros(1, *self.input_shape, dtype=like.dtype, device=like.device)
        small = without_channels(model, self.removed, example)
        if initialization == "ticket":
            small.load_state_dict(dict(self.init))
        return small

    @classmethod
    def _restored(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["removed"] = {name: tuple(gone) for name, gone in values["removed"].items()}
        values["input_shape"] = tuple(values["input_shape"])
        return values
