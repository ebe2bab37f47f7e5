"""What a study compares with the dense network: one class a method, its fields the keys."""

import itertools
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from layerticket.blocks.block import Granularity
from layerticket.criteria.registry import check_options, get_criterion
from layerticket.errors import LayerticketError, unknown_name
from layerticket.selection import Budget
from layerticket.settings import (
    Count,
    Few,
    Flag,
    Text,
    Whole,
    checked,
    from_table,
    settings,
    to_table,
)

if TYPE_CHECKING:  # searching imports torch, and a study file is read without it
    from layerticket.study.search import Search

Kind = Literal[
    "ticket", "lottery", "control", "shallower", "filters", "weights", "imp", "equal_compute"
]
Role = Literal["criterion", "control", "baseline"]
Need = Literal["dense", "reference"]
MOST_SEEDS = 10_000
MOST_METHODS = 1000
"""That one table with lists in it may stand for."""
Control = Literal["random", "first", "last", "even", "each"]
# Fields that decide which rows there are and what is done with a find, not what is found.
NOT_SEARCHED = ("label", "seeds", "budgets", "initialization", "draws", "reference")


@settings
class Rules:
    """Which blocks must stay."""

    protect: tuple[Text, ...] = ()
    """Patterns of names, e.g. "layer1.*"."""
    min_per_stage: Whole = 0
    """Removable blocks that must remain in every stage."""
    keep_neighbours: Flag = False
    """Keep the blocks next to each down-sampling, as the paper's implementation does."""


@settings
class Method(ABC):
    """One way to a network, as a value."""

    kind: ClassVar[Kind]
    """Its name as `method` in a study file."""
    wording: ClassVar[str]
    """Its label by default, with the names of fields in braces."""
    wants: ClassVar[tuple[Need, ...]] = ()
    """What has to be there before: the trained dense network, the reference ticket."""
    own_training_only: ClassVar[bool] = False
    """Whether it needs epochs or snapshots, which only trainings by a recipe have."""

    label: Text = ""
    """Its name in tables; by default made from its settings."""
    seeds: tuple[Whole, ...] | None = None
    """Seeds of this method alone; by default those of the study."""
    budgets: tuple[Budget, ...] | None = None
    """Budgets of this method alone; by default those of the study."""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.default_label)
        for name, values in (("seeds", self.seeds), ("budgets", self.budgets)):
            if values is not None:
                check_distinct(name, values)

    @property
    def default_label(self) -> str:
        """Its label where none is given."""
        return self.wording.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def role(self) -> Role:
        """What it is for: a criterion's choice, a control of it, or another way to be small."""
        return "baseline"

    @abstractmethod
    def search(self, at: "Search") -> dict[str, Any]:
        """Find what is to be trained: a record with `ticket` (a folder), `model` or `epochs`.

        Raises:
            LayerticketError: If there is none.
        """

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """Points of the dense training that it goes back to."""
        return ()

    @property
    def new_weights(self) -> bool:
        """Whether it is trained from other random weights than those it was found in."""
        return False

    @property
    def needs_labels(self) -> bool:
        """Whether its search reads images or labels."""
        return False

    @property
    def searched(self) -> Mapping[str, Any]:
        """Settings that decide what is found, as JSON values; methods that share them share it."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_SEARCHED}
        return {"method": self.kind, **to_table(values)}


@settings
class _Scored(Method):
    """What tickets have in common, however they are found."""

    criterion: Text = "grasp"
    """Registered name."""
    granularity: Granularity = "block"
    """block: blocks go as a whole; branch: each residual branch of them by itself."""
    rounds: Few = 1
    """Rounds of scoring and removing."""
    initialization: Literal["ticket", "seed"] = "ticket"
    """ticket: trained from its own weights; seed: from new random ones."""
    images: Count | None = None
    """Size of the scoring batch; by default ten of every class."""
    balanced: Flag = True
    """Whether every class appears equally often in it."""
    rules: Rules = Rules()
    """Which blocks must stay."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own options."""

    def __post_init__(self) -> None:
        # A wrong name, or a wrong option, is refused before any training.
        known = get_criterion(self.criterion)
        check_options(known.name, known.option_names(), self.options)
        super().__post_init__()

    @property
    def default_label(self) -> str:
        """As of every method; new weights are said."""
        return super().default_label + (", new weights" if self.new_weights else "")

    @property
    def role(self) -> Role:
        """A ticket of a criterion; drawn at random or with new weights, a control of it."""
        return "control" if self.new_weights or self.criterion == "random" else "criterion"

    @property
    def new_weights(self) -> bool:
        """As `initialization` says."""
        return self.initialization == "seed"

    @property
    def needs_labels(self) -> bool:
        """As the criterion says."""
        return _reads_data(self.criterion)


@settings
class TicketMethod(_Scored):
    """A ticket found at initialization (Algorithm 2)."""

    kind: ClassVar[Kind] = "ticket"
    wording: ClassVar[str] = "{criterion}"

    def search(self, at: "Search") -> dict[str, Any]:
        """Find the ticket in the network at initialization."""
        from layerticket.study.search import find_at_initialization

        return find_at_initialization(self, at)


@settings
class LotteryMethod(_Scored):
    """A ticket found in the trained network and set back to an epoch of it (Algorithm 1)."""

    kind: ClassVar[Kind] = "lottery"
    wording: ClassVar[str] = "lottery {criterion} {rewind}"
    wants: ClassVar[tuple[Need, ...]] = ("dense",)
    own_training_only: ClassVar[bool] = True
    rewind: Text = "0"
    """Epoch the weights are set back to, or a share such as "25%"."""
    score_at: Text = "100%"
    """Epoch whose weights are scored."""

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """The epoch it goes back to, and the one that is scored."""
        return tuple(point for point in (self.rewind, self.score_at) if point != "100%")

    def search(self, at: "Search") -> dict[str, Any]:
        """Find the ticket in the trained network, and set it back."""
        from layerticket.study.search import find_in_training_of

        return find_in_training_of(self, at)


@settings
class _Matched(Method):
    """A baseline whose cost is that of a ticket."""

    wants: ClassVar[tuple[Need, ...]] = ("reference",)
    reference: Text = ""
    """Label of the method whose tickets it is matched to; by default the first ticket."""


@settings
class ControlMethod(_Matched):
    """Blocks that no criterion chose."""

    kind: ClassVar[Kind] = "control"
    wording: ClassVar[str] = "{control} blocks"
    control: Control
    """Which blocks go; each: every removable block alone, in a row of its own."""
    draws: Few = 1
    """Random choices a seed."""

    def __post_init__(self) -> None:
        if self.draws > 1 and self.control != "random":
            raise LayerticketError(
                f"draws is {self.draws} for control {self.control!r}; it must be 1 for all but "
                "random, which alone draws."
            )
        if self.control == "each" and self.budgets is not None:
            raise LayerticketError(
                "control 'each' takes out one block a row, so it has no budgets; leave them out."
            )
        super().__post_init__()

    @property
    def role(self) -> Role:
        """A control, as its name says; every block alone is no choice that a ticket is up to."""
        return "baseline" if self.control == "each" else "control"

    def search(self, at: "Search") -> dict[str, Any]:
        """Take blocks out until the cost is that of the reference."""
        from layerticket.study.search import find_control

        return find_control(self, at)


@settings
class _Smaller(_Matched):
    """A baseline found by scoring something smaller than blocks."""

    images: Count | None = None
    """Size of the scoring batch; by default ten of every class."""
    balanced: Flag = True
    """Whether every class appears equally often in it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own options."""

    def __post_init__(self) -> None:
        name: str = self.criterion  # type: ignore[attr-defined]  # every subclass has one
        scored_by = {"l1": "magnitude"}.get(name, name)
        allowed: tuple[str, ...] = ("draw",)
        if name != "random":
            allowed = get_criterion(scored_by).option_names("weights")
            allowed += ("slices",) if self.kind == "filters" else ()
        check_options(name, allowed, self.options)
        super().__post_init__()


@settings
class FiltersMethod(_Smaller):
    """Filters in place of blocks."""

    kind: ClassVar[Kind] = "filters"
    wording: ClassVar[str] = "filters {criterion} ({match})"
    criterion: Literal["snip", "grasp", "l1", "random"]
    """How filters are scored."""
    match: Literal["filters", "macs", "params"] = "filters"
    """In what it equals the reference."""

    @property
    def needs_labels(self) -> bool:
        """As the criterion says."""
        return self.criterion in ("snip", "grasp")

    def search(self, at: "Search") -> dict[str, Any]:
        """Take filters out until the network matches the reference."""
        from layerticket.study.search import find_filters

        return find_filters(self, at)


@settings
class WeightsMethod(_Smaller):
    """Single weights in place of blocks; as many parameters are left."""

    kind: ClassVar[Kind] = "weights"
    wording: ClassVar[str] = "weights {criterion}"
    criterion: Literal["snip", "grasp", "synflow", "magnitude"]
    """How weights are scored."""
    rounds: Few | None = None
    """Rounds of pruning; by default 100 for synflow, else 1."""

    @property
    def needs_labels(self) -> bool:
        """As the criterion says."""
        return self.criterion in ("snip", "grasp")

    def search(self, at: "Search") -> dict[str, Any]:
        """Prune weights until as many are left as in the reference."""
        from layerticket.study.search import find_weights

        return find_weights(self, at)


@settings
class ImpMethod(_Matched):
    """Iterative magnitude pruning of the trained network, rewound each round."""

    kind: ClassVar[Kind] = "imp"
    wording: ClassVar[str] = "weights imp"
    wants: ClassVar[tuple[Need, ...]] = ("dense", "reference")
    own_training_only: ClassVar[bool] = True
    rounds: Few | None = 3
    """Times it is pruned; all but the last are trained on the way. From Python None: as many as it
    takes when each takes a fifth of what is left."""
    rewind: Text = "0"
    """Epoch the weights are set back to, or a share such as "25%"."""

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """The epoch it goes back to."""
        return (self.rewind,)

    def search(self, at: "Search") -> dict[str, Any]:
        """Prune, rewind and train in rounds."""
        from layerticket.study.search import find_imp

        return find_imp(self, at)


@settings
class ShallowerMethod(_Matched):
    """A network with fewer layers that costs about as much."""

    kind: ClassVar[Kind] = "shallower"
    wording: ClassVar[str] = "shallower"
    model: Text = ""
    """Its name; by default the standard one nearest in MACs, for networks of the package."""

    @property
    def default_label(self) -> str:
        """A named network is named."""
        return f"shallower {self.model}".strip()

    @property
    def role(self) -> Role:
        """A control: does it matter which layers are fewer?"""
        return "control"

    def search(self, at: "Search") -> dict[str, Any]:
        """Look the network up, or take the one that is named."""
        from layerticket.study.search import find_shallower

        return find_shallower(self, at)


@settings
class EqualComputeMethod(_Matched):
    """The dense network for as many epochs as cost what the ticket's training costs.

    The warm-up is shortened in proportion.
    """

    kind: ClassVar[Kind] = "equal_compute"
    wording: ClassVar[str] = "dense, equal compute"
    own_training_only: ClassVar[bool] = True

    @property
    def role(self) -> Role:
        """A control: does fewer epochs do as well as fewer layers?"""
        return "control"

    def search(self, at: "Search") -> dict[str, Any]:
        """Count the epochs."""
        from layerticket.study.search import find_equal_compute

        return find_equal_compute(self, at)


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


def check_distinct(name: str, values: tuple[Any, ...]) -> None:
    """Refuse an empty list, and one that names a thing twice."""
    if not values or len(dict.fromkeys(values)) < len(values):
        shown = repr(values) if len(values) <= 10 else f"{len(values)}, one of them twice"
        raise LayerticketError(f"{name} are {shown}; give at least one, and none twice.")


def with_seeds(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a table in which `seeds` is a list: a number n stands for 0 to n - 1.

    Raises:
        LayerticketError: If the number is below 1, or above `MOST_SEEDS`.

    Example:
        >>> with_seeds({"seeds": 3}, "study.toml")
        {'seeds': [0, 1, 2]}
    """
    count = table.get("seeds")
    if not isinstance(count, int) or isinstance(count, bool):
        return dict(table)
    try:
        checked("seeds", Annotated[int, Field(ge=1, le=MOST_SEEDS)], count)
    except LayerticketError as err:
        raise LayerticketError(f"{where}: {err}") from err
    return {**table, "seeds": list(range(count))}


def method_of(table: Mapping[str, Any], where: str) -> Method:
    """Make a method of its table in a study file.

    Raises:
        LayerticketError: If `method` is missing or unknown, or as in `from_table`.

    Example:
        >>> method_of({"method": "ticket", "criterion": "snip"}, "study.toml").label
        'snip'
    """
    if "method" not in table:
        raise LayerticketError(
            f"{where}: key 'method' is missing. Available: {', '.join(METHODS)}."
        )
    kind = table["method"]
    if not isinstance(kind, str) or kind not in METHODS:
        raise unknown_name(f"{where}: method", str(kind), METHODS)
    return from_table(METHODS[kind], {k: v for k, v in table.items() if k != "method"}, where)


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
    table = dict(table)
    table = with_seeds(table, where)
    cls = METHODS.get(str(table.get("method")))
    hints = {} if cls is None else typing.get_type_hints(cls)
    listed = [
        key
        for key, value in table.items()
        if isinstance(value, list) and key in hints and not _is_list(hints[key])
    ]
    number = math.prod(len(table[key]) for key in listed)
    if number > MOST_METHODS:
        raise LayerticketError(
            f"{where}: its lists stand for {number:,} methods; at most {MOST_METHODS:,} are "
            "allowed. Shorten them."
        )
    choices = itertools.product(*(table[key] for key in listed))
    return tuple(
        method_of({**table, **dict(zip(listed, one, strict=True))}, where) for one in choices
    )


def table_of_method(method: Method) -> dict[str, Any]:
    """Return the table of a method, as `method_of` reads it."""
    return {"method": method.kind, **to_table(method)}


def _is_list(hint: Any) -> bool:  # noqa: ANN401 - any annotation
    """Whether a field holds a list itself."""
    if typing.get_origin(hint) is tuple:
        return True
    return any(typing.get_origin(part) is tuple for part in typing.get_args(hint))


def _reads_data(criterion: str) -> bool:
    """Whether a criterion of blocks looks at more than weights."""
    return criterion not in ("synflow", "magnitude", "random") and bool(
        get_criterion(criterion).uses
    )
