"""The methods of a study: one class each; its fields are the keys of a [[methods]] table."""

import itertools
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import Annotated, Any, ClassVar, Literal

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

Kind = Literal[
    "ticket", "lottery", "control", "shallower", "filters", "weights", "imp", "equal_compute"
]
Role = Literal["criterion", "control", "baseline"]
Need = Literal["dense", "reference"]
MOST_SEEDS = 10_000
MOST_METHODS = 1000
"""Maximum number of methods that one table with lists may give."""
Control = Literal["random", "first", "last", "even", "each"]
# Fields that decide the rows and the training of a ticket, not which ticket is found.
NOT_SEARCHED = ("label", "seeds", "budgets", "initialization", "draws", "reference")


@settings
class Rules:
    """Which blocks must stay."""

    protect: tuple[Text, ...] = ()
    """Patterns of names, e.g. "layer1.*"."""
    min_per_stage: Whole = 0
    """Minimum number of removable blocks that stay in every stage."""
    keep_neighbours: Flag = False
    """Keep the blocks next to each down-sampling, as in the paper's code."""


@settings
class Method:
    """One method: how to get the network that is compared with the dense one.

    Its search is in `layerticket.study.search.SEARCHES`, since searching imports torch.
    """

    kind: ClassVar[Kind]
    """Value of `method` in a study file."""
    wording: ClassVar[str]
    """Default label, with field names in braces."""
    wants: ClassVar[tuple[Need, ...]] = ()
    """What must exist before: the trained dense network, the reference ticket."""
    needs_recipe: ClassVar[bool] = False
    """Whether it needs epochs or snapshots, which only trainings by a recipe have."""

    label: Text = ""
    """Its name in tables; by default made from its settings."""
    seeds: tuple[Whole, ...] | None = None
    """Seeds of this method only; by default those of the study."""
    budgets: tuple[Budget, ...] | None = None
    """Budgets of this method only; by default those of the study."""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.default_label)
        for name, values in (("seeds", self.seeds), ("budgets", self.budgets)):
            if values is not None:
                check_distinct(name, values)

    @property
    def default_label(self) -> str:
        """Label if none is given."""
        return self.wording.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def role(self) -> Role:
        """Its part in comparisons: criterion, control, or another baseline."""
        return "baseline"

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """Epochs of the dense training whose snapshots it needs."""
        return ()

    @property
    def new_weights(self) -> bool:
        """Whether it is trained from new random weights, not those of the search."""
        return False

    @property
    def needs_labels(self) -> bool:
        """Whether its search reads images or labels."""
        return False

    @property
    def searched(self) -> Mapping[str, Any]:
        """Settings that decide what is found, as JSON values; equal settings share one search."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in NOT_SEARCHED}
        return {"method": self.kind, **to_table(values)}

    @property
    def calls(self) -> Mapping[str, str | Callable[..., Any]]:
        """Functions that decide what is found, by setting: module:function, or the function."""
        return {}


@settings
class _Scored(Method):
    """Settings that all ticket methods share."""

    criterion: Text = "grasp"
    """Registered name."""
    granularity: Granularity = "block"
    """block: whole blocks are removed; branch: single residual branches."""
    rounds: Few = 1
    """Rounds of scoring and removing."""
    initialization: Literal["ticket", "seed"] = "ticket"
    """ticket: train from the ticket's own weights; seed: from new random weights."""
    images: Count | None = None
    """Size of the scoring batch; by default ten images per class, or at most 100 if the criterion
    reads none."""
    balanced: Flag = True
    """Whether the batch has equally many images of each class."""
    rules: Rules = Rules()
    """Which blocks must stay."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the criterion."""

    def __post_init__(self) -> None:
        # A wrong name or option fails before any training.
        known = get_criterion(self.criterion)
        check_options(known.name, known.option_names(), self.options)
        super().__post_init__()

    @property
    def default_label(self) -> str:
        """The default label, plus "new weights" if they are new."""
        return super().default_label + (", new weights" if self.new_weights else "")

    @property
    def role(self) -> Role:
        """criterion; control if drawn at random or trained from new weights."""
        return "control" if self.new_weights or self.criterion == "random" else "criterion"

    @property
    def new_weights(self) -> bool:
        """Whether `initialization` is `seed`."""
        return self.initialization == "seed"

    @property
    def needs_labels(self) -> bool:
        """Whether the criterion reads images."""
        return self.criterion != "synflow" and bool(get_criterion(self.criterion).uses)

    @property
    def calls(self) -> Mapping[str, str | Callable[..., Any]]:
        """The criterion, if it is the user's own."""
        known = get_criterion(self.criterion)
        if known.is_built_in:
            return {}
        name = getattr(known.fn, "__qualname__", known.name)
        return {"criterion": f"{known.module}:{name}" if known.module else known.fn}


@settings
class TicketMethod(_Scored):
    """A ticket found at initialization (Algorithm 2)."""

    kind: ClassVar[Kind] = "ticket"
    wording: ClassVar[str] = "{criterion}"


@settings
class LotteryMethod(_Scored):
    """A ticket found in the trained network and rewound to an earlier epoch (Algorithm 1)."""

    kind: ClassVar[Kind] = "lottery"
    wording: ClassVar[str] = "lottery {criterion} {rewind}"
    wants: ClassVar[tuple[Need, ...]] = ("dense",)
    needs_recipe: ClassVar[bool] = True
    rewind: Text = "0"
    """Epoch that the weights are rewound to, or a share such as "25%"."""
    score_at: Text = "100%"
    """Epoch whose weights are scored."""

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """The epoch of rewinding and the epoch of scoring."""
        return tuple(point for point in (self.rewind, self.score_at) if point != "100%")


@settings
class _Matched(Method):
    """A baseline matched to a ticket in cost."""

    wants: ClassVar[tuple[Need, ...]] = ("reference",)
    reference: Text = ""
    """Label of the ticket method it is matched to; by default the first one."""


@settings
class ControlMethod(_Matched):
    """Blocks removed without a criterion."""

    kind: ClassVar[Kind] = "control"
    wording: ClassVar[str] = "{control} blocks"
    control: Control
    """Which blocks are removed; each: every removable block alone, one row per block."""
    draws: Few = 1
    """Random choices per seed."""

    def __post_init__(self) -> None:
        if self.draws > 1 and self.control != "random":
            raise LayerticketError(
                f"draws is {self.draws} for control {self.control!r}; only control random may "
                "have more than 1."
            )
        if self.control == "each" and self.budgets is not None:
            raise LayerticketError(
                "control 'each' removes one block per row, so budgets do not apply; leave them out."
            )
        super().__post_init__()

    @property
    def role(self) -> Role:
        """control; baseline for `each`, which removes one block whatever the budget."""
        return "baseline" if self.control == "each" else "control"


@settings
class _Smaller(_Matched):
    """A baseline found by scoring filters or weights."""

    images: Count | None = None
    """Size of the scoring batch; by default ten images per class, or at most 100 if the criterion
    reads none."""
    balanced: Flag = True
    """Whether the batch has equally many images of each class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the criterion."""

    def __post_init__(self) -> None:
        name: str = self.criterion  # type: ignore[attr-defined]  # every subclass has one
        scored_by = {"l1": "magnitude"}.get(name, name)
        allowed: tuple[str, ...] = ("draw",)
        if name != "random":
            allowed = get_criterion(scored_by).option_names("weights")
            allowed += ("slices",) if self.kind == "filters" else ()
        check_options(name, allowed, self.options)
        super().__post_init__()

    @property
    def needs_labels(self) -> bool:
        """Whether the criterion reads images and labels."""
        return self.criterion in ("snip", "grasp")  # type: ignore[attr-defined]  # as above


@settings
class FiltersMethod(_Smaller):
    """Filters removed instead of blocks."""

    kind: ClassVar[Kind] = "filters"
    wording: ClassVar[str] = "filters {criterion} ({match})"
    criterion: Literal["snip", "grasp", "l1", "random"]
    """How filters are scored."""
    match: Literal["filters", "macs", "params"] = "filters"
    """Quantity in which it equals the reference."""


@settings
class WeightsMethod(_Smaller):
    """Single weights pruned instead of blocks; as many parameters stay."""

    kind: ClassVar[Kind] = "weights"
    wording: ClassVar[str] = "weights {criterion}"
    criterion: Literal["snip", "grasp", "synflow", "magnitude"]
    """How weights are scored."""
    rounds: Few | None = None
    """Rounds of pruning; by default 100 for synflow, else 1."""


@settings
class ImpMethod(_Matched):
    """Iterative magnitude pruning of the trained network, rewound each round."""

    kind: ClassVar[Kind] = "imp"
    wording: ClassVar[str] = "weights imp"
    wants: ClassVar[tuple[Need, ...]] = ("dense", "reference")
    needs_recipe: ClassVar[bool] = True
    rounds: Few | None = 3
    """Rounds of pruning; the network is trained between them. From Python, None: as many as needed
    if each prunes a fifth of the remaining weights."""
    rewind: Text = "0"
    """Epoch that the weights are rewound to, or a share such as "25%"."""

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """The epoch of rewinding."""
        return (self.rewind,)


@settings
class ShallowerMethod(_Matched):
    """A network with fewer layers that costs about as much."""

    kind: ClassVar[Kind] = "shallower"
    wording: ClassVar[str] = "shallower"
    model: Text = ""
    """Its name; by default the standard network nearest in MACs, for networks of the package."""

    @property
    def default_label(self) -> str:
        """The default label, plus the name of the network if one is given."""
        return f"shallower {self.model}".strip()

    @property
    def role(self) -> Role:
        """control: does it matter which layers are removed?"""
        return "control"

    @property
    def calls(self) -> Mapping[str, str | Callable[..., Any]]:
        """The network, if one is named."""
        return {"model": self.model} if self.model else {}


@settings
class EqualComputeMethod(_Matched):
    """The dense network, stopped when it has used as much compute as the ticket's training.

    Its warm-up is shortened in proportion.
    """

    kind: ClassVar[Kind] = "equal_compute"
    wording: ClassVar[str] = "dense, equal compute"
    needs_recipe: ClassVar[bool] = True

    @property
    def role(self) -> Role:
        """control: are fewer epochs as good as fewer layers?"""
        return "control"


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
    """Raise if a list is empty or has a value twice."""
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
    """Return the method that a table of a study file describes.

    Raises:
        LayerticketError: If `method` is missing or unknown, or a key is invalid.

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
    """Return the methods of a table; a list in place of one value gives one method per entry.

    ``criterion = ["snip", "grasp"]`` gives two methods; two lists give one method per combination.

    Raises:
        LayerticketError: As in `method_of`.

    Example:
        >>> table = {"method": "ticket", "criterion": ["snip", "grasp"]}
        >>> [method.label for method in methods_of(table, "study.toml")]
        ['snip', 'grasp']
    """
    if not isinstance(table, Mapping):
        raise LayerticketError(f"{where} is {table!r}, but it must be a table.")
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
            f"{where}: its lists give {number:,} methods; at most {MOST_METHODS:,} are "
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
    """Whether the type of a field is a list."""
    if typing.get_origin(hint) is tuple:
        return True
    return any(typing.get_origin(part) is tuple for part in typing.get_args(hint))
