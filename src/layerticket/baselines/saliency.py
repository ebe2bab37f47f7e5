"""What every single weight is worth: the criteria of `layerticket.criteria` before they are summed.

Enters: a network, a batch, a criterion by name. Leaves: a tensor for every weight, large = keep. It
guards as `layerticket.scoring` does: nothing of the caller's is changed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, CrossEntropy
from layerticket.criteria.grasp import gradient_flow
from layerticket.criteria.registry import Normalization, get_criterion
from layerticket.criteria.saliency import network_weights
from layerticket.criteria.snip import connection_sensitivity
from layerticket.criteria.synflow import synaptic_flow
from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import preserved_random_state, reference_kernels
from layerticket.scoring import ZERO_BRANCHES, prepared_view

TEMPERATURES = {"snip": 1.0, "grasp": 200.0}
NAMES = ("grasp", "magnitude", "snip", "synflow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Saliency:
    """A criterion for single weights with all of its options."""

    criterion: str
    """One of grasp, magnitude, snip, synflow."""
    normalization: Normalization | None = None
    """Batch norm by the statistics of the batch, or by running averages; None: as the criterion."""
    temperature: float | None = None
    """Divides the logits in the loss of snip and grasp; None: 1 and 200, as their authors have."""
    micro_batches: int = 1
    """Parts the batch is processed in."""

    def __post_init__(self) -> None:
        if self.criterion not in NAMES:
            raise unknown_name("criterion for weights", self.criterion, NAMES)
        modes = get_criterion(self.criterion).normalization
        if self.normalization is not None and self.normalization not in modes:
            raise LayerticketError(
                f"normalization is {self.normalization!r}; criterion {self.criterion!r} has "
                f"{' and '.join(map(repr, modes))}."
            )
        derives = self.criterion in TEMPERATURES
        if not derives and (self.temperature is not None or self.micro_batches != 1):
            raise LayerticketError(
                f"temperature and micro_batches belong to a loss, which {self.criterion!r} does "
                "not take. Leave them out."
            )
        object.__setattr__(self, "normalization", self.normalization or modes[0])
        if derives and self.temperature is None:
            object.__setattr__(self, "temperature", TEMPERATURES[self.criterion])

    @classmethod
    def named(cls, criterion: str, options: Mapping[str, Any]) -> "Saliency":
        """Make a criterion from its options by name.

        Raises:
            LayerticketError: If an option is unknown or makes no sense.
        """
        known = [one.name for one in fields(cls)][1:]
        if unknown := sorted(set(options) - set(known)):
            raise unknown_name(f"option of {criterion!r} for single weights", unknown[0], known)
        return cls(criterion=criterion, **options)

    @property
    def reads_data(self) -> bool:
        """Whether images and labels are looked at, beyond the shape of the images."""
        return self.criterion in TEMPERATURES

    def record(self) -> dict[str, Any]:
        """Return the options that count, as JSON values."""
        names = ["normalization", *(("temperature", "micro_batches") if self.reads_data else ())]
        if self.criterion == "magnitude":
            return {}
        return {name: asdict(self)[name] for name in names}

    def of(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the saliency of every weight of two or more dimensions; large: worth keeping.

        Args:
            model: Network; not modified.
            batch: ``(inputs, targets)``, on the model's device.

        Returns:
            A detached tensor of each weight's shape, by the weight's name, on the CPU, float64.

        Raises:
            LayerticketError: If a saliency is not finite, or all are the same.
        """
        with preserved_random_state(0), torch.enable_grad(), reference_kernels():
            view = prepared_view(model, str(self.normalization), self.micro_batches)
            values = self._values(view, batch)
        found = {name: value.detach().double().cpu() for name, value in values.items()}
        self._refuse_degenerate(found)
        return found

    def _values(self, view: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if self.criterion == "synflow":
            return synaptic_flow(view, batch)
        if self.criterion == "magnitude":
            return {name: weight.detach().abs() for name, weight in network_weights(view).items()}
        assert self.temperature is not None
        loss = CrossEntropy(temperature=self.temperature)
        formula = connection_sensitivity if self.criterion == "snip" else gradient_flow
        return formula(view, batch, loss, self.micro_batches)

    def _refuse_degenerate(self, found: dict[str, Tensor]) -> None:
        if not found:
            raise LayerticketError("the network has no weight matrix, so no weight can go.")
        for name, value in found.items():
            if not value.isfinite().all():
                raise LayerticketError(
                    f"criterion {self.criterion!r} gives values that are not finite in {name!r}. "
                    "Check the inputs for NaN; float64 weights or criterion 'magnitude' are ways "
                    "out."
                )
        first = next(iter(found.values())).flatten()[0]
        if all(bool((value == first).all()) for value in found.values()):
            raise LayerticketError(
                f"criterion {self.criterion!r} gives {first.item()!r} for every weight, which "
                f"ranks nothing. {ZERO_BRANCHES}"
            )
