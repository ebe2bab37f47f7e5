"""What a ticket has to beat: other small networks, and a dense one that costs as much."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from layerticket.errors import LayerticketError
from layerticket.macs import count_macs
from layerticket.rivals import equal_compute_epochs, shallower
from layerticket.study.methods.method import Method, Role, Search
from layerticket.study.runs.train import build_named
from layerticket.study.search.imp import find_imp
from layerticket.study.search.rivals import find_control, find_filters, find_weights

__all__ = [
    "ControlMethod",
    "EqualComputeMethod",
    "FiltersMethod",
    "ImpMethod",
    "ShallowerMethod",
    "WeightsMethod",
]


@dataclass(frozen=True, kw_only=True)
class _Matched(Method):
    """A rival whose cost is that of a ticket."""

    wants: ClassVar[tuple[Role, ...]] = ("reference",)
    reference: str = ""
    """Label of the method whose tickets it is matched to; by default the first ticket."""

    @property
    def matched_to(self) -> str:
        """As `reference` says."""
        return self.reference


@dataclass(frozen=True, kw_only=True)
class ControlMethod(_Matched):
    """Blocks that no criterion chose."""

    kind: ClassVar[str] = "control"
    wording: ClassVar[str] = "{control} blocks"
    control: Literal["random", "first", "last", "even"]
    """Which blocks go."""
    draws: int = 1
    """Random choices a seed."""

    def __post_init__(self) -> None:
        if self.draws < 1 or (self.draws > 1 and self.control != "random"):
            raise LayerticketError(
                f"draws is {self.draws} for control {self.control!r}; it must be at least 1, and "
                "1 for all but random, which alone draws."
            )
        super().__post_init__()

    @property
    def all_draws(self) -> tuple[int | None, ...]:
        """As many as asked for, of random blocks."""
        return tuple(range(self.draws)) if self.control == "random" else (None,)

    def search(self, at: Search) -> dict[str, Any]:
        """Take blocks out until the cost is that of the reference."""
        return find_control(
            at.model,
            at.dataset,
            control=self.control,
            seed=at.seed,
            draw=at.draw or 0,
            **_how(at),
        )


@dataclass(frozen=True, kw_only=True)
class FiltersMethod(_Matched):
    """Filters in place of blocks."""

    kind: ClassVar[str] = "filters"
    wording: ClassVar[str] = "filters {criterion} ({match})"
    criterion: Literal["snip", "grasp", "l1", "random"]
    """How filters are scored."""
    match: Literal["filters", "macs", "params"] = "filters"
    """In what it equals the reference."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own options."""

    def search(self, at: Search) -> dict[str, Any]:
        """Take filters out until the network matches the reference."""
        return find_filters(
            at.model,
            at.dataset,
            criterion=self.criterion,
            match=self.match,
            seed=at.seed,
            **_how(at),
            **self.options,
        )


@dataclass(frozen=True, kw_only=True)
class WeightsMethod(_Matched):
    """Single weights in place of blocks; as many parameters are left."""

    kind: ClassVar[str] = "weights"
    wording: ClassVar[str] = "weights {criterion}"
    criterion: Literal["snip", "grasp", "synflow", "magnitude"]
    """How weights are scored."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own options."""

    def search(self, at: Search) -> dict[str, Any]:
        """Prune weights until as many are left as in the reference."""
        return find_weights(
            at.model,
            at.dataset,
            criterion=self.criterion,
            seed=at.seed,
            **_how(at),
            **self.options,
        )


@dataclass(frozen=True, kw_only=True)
class ImpMethod(_Matched):
    """Iterative magnitude pruning of the trained network, rewound each round."""

    kind: ClassVar[str] = "imp"
    wording: ClassVar[str] = "weights imp"
    wants: ClassVar[tuple[Role, ...]] = ("dense", "reference")
    trains: ClassVar[bool] = True
    rounds: int = 3
    """Times it is pruned; all but the last are trained on the way."""
    rewind: str = "0"
    """Epoch the weights are set back to, or a share such as "25%"."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """The epoch it goes back to."""
        return (self.rewind,)

    def search(self, at: Search) -> dict[str, Any]:
        """Prune, rewind and train in rounds."""
        assert at.dense is not None
        return find_imp(
            at.dense,
            at.dataset,
            at.recipe,
            rounds=self.rounds,
            rewind=self.rewind,
            progress=False,
            **_how(at),
        )


@dataclass(frozen=True, kw_only=True)
class ShallowerMethod(_Matched):
    """A network with fewer layers that costs about as much."""

    kind: ClassVar[str] = "shallower"
    wording: ClassVar[str] = "shallower"
    model: str = ""
    """Its name; by default the standard one nearest in MACs, for networks of the package."""

    def __post_init__(self) -> None:
        if self.model and not self.label:
            object.__setattr__(self, "label", f"shallower {self.model}")
        super().__post_init__()

    @property
    def searched(self) -> Mapping[str, Any]:
        """As of every method; a network that is not named leaves no trace."""
        settings = dict(super().searched)
        return settings if self.model else {k: v for k, v in settings.items() if k != "model"}

    def search(self, at: Search) -> dict[str, Any]:
        """Look the network up, or take the one that is named."""
        reference = at.ticket
        name = self.model or shallower(at.model, reference)
        model = build_named(name, at.dataset, at.seed)
        macs = count_macs(model, at.dataset.train.images[:1].float())
        match = {"of": "macs", "asked": reference.macs["ticket"], "reached": macs}
        return {
            "model": name,
            "macs": {"dense": reference.macs["dense"], "ticket": macs},
            "match": match,
        }


@dataclass(frozen=True, kw_only=True)
class EqualComputeMethod(_Matched):
    """The dense network for as many epochs as cost what the ticket's training costs."""

    kind: ClassVar[str] = "equal_compute"
    wording: ClassVar[str] = "dense, equal compute"

    def search(self, at: Search) -> dict[str, Any]:
        """Count the epochs."""
        dense = at.ticket.macs["dense"]
        epochs = equal_compute_epochs(at.ticket, at.recipe.epochs)
        return {"epochs": epochs, "macs": {"dense": dense, "ticket": dense}}


def _how(at: Search) -> dict[str, Any]:
    """What all searches for a rival are given."""
    return {
        "reference": at.reference,
        "out": at.out,
        "metering": at.metering,
        "device": at.device,
    }
