"""Tickets of whole blocks: found at initialization, or in a trained network and rewound."""

import itertools
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from layerticket.baselines.controls import equal_compute_epochs, shallower
from layerticket.counting import count_macs
from layerticket.criteria.registry import get_criterion
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError, unknown_name
from layerticket.evaluation.energy import Metering
from layerticket.selection import Budget
from layerticket.study.measure import Bench
from layerticket.study.record import build_named
from layerticket.study.search import (
    find_control,
    find_filters,
    find_imp,
    find_in,
    find_in_run,
    find_weights,
)
from layerticket.study.values import build, table_of
from layerticket.ticket.ticket import Ticket
from layerticket.training.recipe import Recipe

Role = Literal["dense", "reference"]
# Fields that decide what is done with the find, not what is found.
NOT_SEARCHED = ("label", "initialization", "draws", "reference")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """Where, in what and for what budget something is searched."""

    model: str
    dataset: Dataset
    budget: Budget
    seed: int
    recipe: Recipe
    out: Path
    """Folder of what is found."""
    draw: int | None = None
    dense: Path | None = None
    """Run that trained the dense network, for a method that wants it."""
    reference: Path | None = None
    """Folder of the ticket whose cost is matched, for a method that wants it."""
    device: str = "auto"
    metering: Metering | None = None

    @property
    def ticket(self) -> Ticket:
        """The ticket whose cost is matched."""
        assert self.reference is not None
        return Ticket.load(self.reference)

    @property
    def bench(self) -> Bench:
        """What a measured budget is measured on, and how the search is metered."""
        return Bench(
            dataset=self.dataset, recipe=self.recipe, device=self.device, metering=self.metering
        )


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One way to a network, as a value; the fields are the keys in a study file."""

    kind: ClassVar[str]
    """Its name as `method` in a study file."""
    wording: ClassVar[str]
    """Its label by default, with the names of fields in braces."""
    wants: ClassVar[tuple[Role, ...]] = ()
    """What has to be there before: the trained dense network, the reference ticket."""
    trains: ClassVar[bool] = False
    """Whether the search trains networks, in its own folder, where it goes on if cut off."""
    label: str = ""
    """How tables call it; by default after its settings."""

    def __post_init__(self) -> None:
        if not self.label:
            label = self.wording.format(**{f.name: getattr(self, f.name) for f in fields(self)})
            weights = ", new weights" if self.new_weights else ""
            object.__setattr__(self, "label", label + weights)

    @abstractmethod
    def search(self, at: Search) -> dict[str, Any]:
        """Find what is to be trained: a record with `ticket` (a folder), `model` or `epochs`.

        Raises:
            LayerticketError: If there is none.
        """

    @property
    def keeps(self) -> tuple[str, ...]:
        """Points of the dense training that have to be kept."""
        return ()

    @property
    def all_draws(self) -> tuple[int | None, ...]:
        """Numbers of the draws; a single None where nothing is drawn."""
        return (None,)

    @property
    def new_weights(self) -> bool:
        """Whether it is trained from other random weights than those it was found in."""
        return False

    @property
    def matched_to(self) -> str:
        """Label of the method whose ticket is the reference; empty: the first ticket."""
        return ""

    @property
    def searched(self) -> Mapping[str, Any]:
        """Settings that decide what is found, as JSON values; methods that share them share it."""
        values = {k: v for k, v in asdict(self).items() if k not in NOT_SEARCHED}
        return {"method": self.kind, **values}


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
        macs = count_macs(model, at.dataset.train.fetch(slice(1)).float())
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


Weights = Literal["ticket", "seed"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which blocks must stay."""

    protect: tuple[str, ...] = ()
    """Patterns of names, e.g. "layer1.*"."""
    min_per_stage: int = 0
    """Removable blocks that must remain in every stage."""
    keep_neighbours: bool = False
    """Keep the blocks next to each down-sampling."""


@dataclass(frozen=True, kw_only=True)
class _Scored(Method):
    """What tickets have in common, however they are found."""

    criterion: str = "grasp"
    """Registered name."""
    rounds: int = 1
    """Rounds of scoring and removing."""
    initialization: Weights = "ticket"
    """ticket: trained from its own weights; seed: from new random ones."""
    images: int | None = None
    """Size of the scoring batch; by default ten of every class."""
    balanced: bool = True
    """Whether every class appears equally often in it."""
    rules: Rules = field(default_factory=Rules)
    """Which blocks must stay."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own options."""

    def __post_init__(self) -> None:
        get_criterion(self.criterion)  # a wrong name is told before any training
        if self.rounds < 1:
            raise LayerticketError(f"rounds is {self.rounds}; it must be at least 1.")
        super().__post_init__()

    @property
    def new_weights(self) -> bool:
        """As `initialization` says."""
        return self.initialization == "seed"

    def _how(self, at: Search) -> dict[str, Any]:
        return {
            "budget": at.budget,
            "out": at.out,
            "criterion": self.criterion,
            "images": self.images,
            "balanced": self.balanced,
            "rounds": self.rounds,
            "rules": asdict(self.rules),
            "options": self.options,
            "bench": at.bench,
        }


@dataclass(frozen=True, kw_only=True)
class TicketMethod(_Scored):
    """A ticket found at initialization (Algorithm 2)."""

    kind: ClassVar[str] = "ticket"
    wording: ClassVar[str] = "{criterion}"

    def search(self, at: Search) -> dict[str, Any]:
        """Find the ticket in the network at initialization."""
        return find_in(at.model, at.dataset, seed=at.seed, **self._how(at))


@dataclass(frozen=True, kw_only=True)
class LotteryMethod(_Scored):
    """A ticket found in the trained network and set back to an epoch of it (Algorithm 1)."""

    kind: ClassVar[str] = "lottery"
    wording: ClassVar[str] = "lottery {criterion} {rewind}"
    wants: ClassVar[tuple[Role, ...]] = ("dense",)
    rewind: str = "0"
    """Epoch the weights are set back to, or a share such as "25%"."""
    score_at: str = "100%"
    """Epoch whose weights are scored."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """The epoch it goes back to, and the one that is scored."""
        return tuple(point for point in (self.rewind, self.score_at) if point != "100%")

    def search(self, at: Search) -> dict[str, Any]:
        """Find the ticket in the trained network, and set it back."""
        assert at.dense is not None
        return find_in_run(
            at.dense,
            at.dataset,
            rewind_to=self.rewind,
            score_at=self.score_at,
            **self._how(at),
        )


METHODS: Mapping[str, type[Method]] = {
    cls.kind: cls
    for cls in (
        TicketMethod,
        LotteryMethod,
        ControlMethod,
        ShallowerMethod,
        FiltersMethod,
        WeightsMethod,
        ImpMethod,
        EqualComputeMethod,
    )
}


def method_of(table: Mapping[str, Any], where: str) -> Method:
    """Make a method of its table in a study file.

    Raises:
        LayerticketError: If `method` is missing or unknown, or as in `build`.

    Example:
        >>> method_of({"method": "ticket", "criterion": "snip"}, "study.toml").label
        'snip'
    """
    if "method" not in table:
        raise LayerticketError(
            f"{where}: key 'method' is missing. Available: {', '.join(METHODS)}."
        )
    kind = table["method"]
    if kind not in METHODS:
        raise unknown_name(f"{where}: method", str(kind), METHODS)
    return build(METHODS[kind], {k: v for k, v in table.items() if k != "method"}, where)


def methods_of(table: object, where: str) -> tuple[Method, ...]:
    """Make methods of a table in which a list may stand where one value does.

    ``criterion = ["snip", "grasp"]`` gives two methods, two such lists one for each pair.

    Raises:
        LayerticketError: As in `method_of`.

    Example:
        >>> table = {"method": "ticket", "criterion": ["snip", "grasp"]}
        >>> [method.label for method in methods_of(table, "study.toml")]
        ['snip', 'grasp']
    """
    if not isinstance(table, Mapping):
        raise LayerticketError(f"{where} is {table!r}, but it must be a table.")
    cls = METHODS.get(str(table.get("method")))
    hints = {} if cls is None else typing.get_type_hints(cls)
    listed = [
        key
        for key, value in table.items()
        if isinstance(value, list) and key in hints and typing.get_origin(hints[key]) is not tuple
    ]
    choices = itertools.product(*(table[key] for key in listed))
    return tuple(
        method_of({**table, **dict(zip(listed, one, strict=True))}, where) for one in choices
    )


def table_of_method(method: Method) -> dict[str, Any]:
    """Return the table of a method, as `method_of` reads it."""
    return {"method": method.kind, **table_of(method)}
