"""The record of a network with masked weights: save, load, apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from layerticket.rivals.records import Initialization, Rival
from layerticket.rivals.weights.masks import masked
from layerticket.view import copy_of

__all__ = ["WeightTicket"]


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightTicket(Rival):
    """A network of which single weights are zero for good, with the evidence for the choice."""

    kind: ClassVar[str] = "weights"
    tensors: ClassVar[tuple[str, ...]] = ("init", "optimizer", "masks")

    sparse_macs: int | None
    """MACs an example that do not multiply by a pruned weight; ordinary hardware does them all.
    None where they cannot be told."""
    removed: Mapping[str, int]
    """Number of weights that are gone, by the name of the tensor."""
    masks: Mapping[str, Tensor]
    """For each weight tensor, true where it stays."""

    def apply(self, model: nn.Module, *, initialization: Initialization = "ticket") -> nn.Module:
        """Mask the weights of a freshly built dense network; `model` is not modified.

        Args:
            model: A network of the architecture the weights were chosen in.
            initialization: `ticket`: the result starts at the recorded weights; `model`: at the
                values `model` has.

        Raises:
            LayerticketError: If the model's architecture is another one.
        """
        self._check(model, initialization)
        if initialization == "ticket":
            model = copy_of(model)
            model.load_state_dict(dict(self.init))
        return masked(model, self.masks)
