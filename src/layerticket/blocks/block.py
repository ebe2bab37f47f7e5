"""What is known of a block, and of a candidate that must stay."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from layerticket.display import Shown, Table, few
from layerticket.errors import LayerticketError, unknown_name
from layerticket.settings import Whole, restored

if TYPE_CHECKING:  # at run time it would import torch
    from layerticket.surgery.remove import Replacement

Granularity = Literal["block", "branch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """Where a residual branch lies, and how it is taken out."""

    of: str
    """Name of the residual block it is a part of."""
    replacements: "tuple[Replacement, ...]"
    """First the module whose output is added to the stream, then what is idle without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One residual block that the identity can replace, or one of several branches of it."""

    name: str
    """As in ``named_modules()``."""
    position: Whole
    """Place among the removable blocks in the order of execution, from 0."""
    stage: Whole
    """Blocks of equal shape in one container share a stage; numbered from 0."""
    shape: tuple[Whole, ...]
    """Shape of what flows through, without the batch dimension."""
    params: Whole
    """Parameters inside."""
    macs: Whole | None
    """Multiply-accumulates per example; None where they cannot be counted."""
    call: Literal["plain", "rich"]
    """`plain`: one tensor in, one out. `rich`: more arguments or outputs, inside a list."""
    post_norm: bool
    """Whether a normalization, or an activation other than ReLU, stands behind the addition."""
    branch: Branch | None = None
    """For a branch, how it is taken out; None: the block goes as a whole."""
    shared: tuple[tuple[str, Whole, Whole], ...] = ()
    """Parameters inside that stand elsewhere too: name, size, and in how many places (removable
    blocks, and all the rest as one); they go when all of these go."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that go, each without its parts."""
        return tuple(one.name for one in self.replacements) or (self.name,)

    @property
    def replacements(self) -> "tuple[Replacement, ...]":
        """What stands in the place of a branch, the end of it first; empty for a whole block."""
        return () if self.branch is None else self.branch.replacements


def macs_of(blocks: Iterable[Block]) -> int:
    """Add up the multiply-accumulates of blocks.

    Raises:
        LayerticketError: If they cannot be counted.
    """
    counts = [block.macs for block in blocks]
    if None in counts:
        raise LayerticketError(
            "the multiply-accumulates of this network cannot be counted (see Blocks.uncounted). "
            "Give a budget in blocks or parameters."
        )
    return sum(count for count in counts if count is not None)


def freed_params(blocks: Iterable[Block]) -> int:
    """Count the parameters that are gone without blocks, of shared ones those of no other place."""
    blocks = list(blocks)
    places = Counter(name for block in blocks for name, _, _ in block.shared)
    known = {name: (size, of) for block in blocks for name, size, of in block.shared}
    kept = sum(size * (places[name] - (places[name] == of)) for name, (size, of) in known.items())
    return sum(block.params for block in blocks) - kept


def block_record(block: Block) -> dict[str, Any]:
    """Return a block as JSON values; what is said of branches is there for branches only."""
    record = asdict(block)
    neutral = {"branch": None, "shared": ()}
    return {k: v for k, v in record.items() if k not in neutral or v != neutral[k]}


def block_of(record: object, where: str = "block") -> Block:
    """Read a block back from what `block_record` returned.

    Args:
        record: JSON values.
        where: File, and place in it, for messages.

    Raises:
        LayerticketError: Naming the field that is missing, unknown or wrong.
    """
    if not isinstance(record, Mapping) or record.get("branch") is None:
        return restored(Block, record, where, {"branch": None})
    from layerticket.surgery.remove import Replacement

    branch, place = record["branch"], f"{where}: branch"
    parts = branch.get("replacements") if isinstance(branch, Mapping) else None
    if not isinstance(parts, list | tuple):
        raise LayerticketError(f"{place}: replacements is {parts!r}; it must be a list.")
    made = tuple(restored(Replacement, part, f"{place}: replacements") for part in parts)
    one = restored(Branch, branch, place, {"replacements": made})
    return restored(Block, record, where, {"branch": one})


def _count_text(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A candidate that must stay, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Blocks(Shown, Sequence[Block]):
    """The removable blocks of a network in the order of execution, and what was rejected."""

    removable: tuple[Block, ...]
    rejected: tuple[Rejection, ...]
    params: int
    """Parameters of the whole network."""
    macs: int | None
    """Multiply-accumulates of the whole network per example; None where they cannot be counted."""
    uncounted: str = ""
    """Why they cannot."""

    def _headline(self) -> str:
        return f"{len(self)} removable blocks, {len(self.rejected)} that must stay"

    def _facts(self) -> dict[str, object]:
        counted = "uncounted" if self.macs is None else f"{self.macs:,}"
        return {
            "removable": few([block.name for block in self]),
            "must stay": few([one.name for one in self.rejected]),
            "network": f"{self.params:,} parameters, {counted} MACs an example",
        }

    def _table(self) -> Table:
        rows = [(b.name, b.stage, f"{b.params:,}", _count_text(b.macs), "") for b in self]
        rejected = [(one.name, "", "", "", one.reason) for one in self.rejected]
        return ("block", "stage", "parameters", "MACs", "must stay: it"), [*rows, *rejected]

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, index: int | slice) -> Block | tuple[Block, ...]:
        return self.removable[index]

    def __len__(self) -> int:
        return len(self.removable)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.removable)

    def without(self, names: "Sequence[str | Block]") -> "Blocks":
        """Return what is left when these blocks are removed; positions and stages stay as named.

        Raises:
            LayerticketError: As `named` does.
        """
        gone = self.named(names)
        return Blocks(
            removable=tuple(block for block in self.removable if block not in gone),
            rejected=self.rejected,
            params=self.params - freed_params(gone),
            macs=None if self.macs is None else self.macs - macs_of(gone),
            uncounted=self.uncounted,
        )

    def named(self, names: "Sequence[str | Block]") -> tuple[Block, ...]:
        """Return the blocks of these names in the order of execution.

        A block stands for its name.

        Raises:
            LayerticketError: If a name is not a removable block, with the reason where known.
        """
        reasons = {rejection.name: rejection.reason for rejection in self.rejected}
        available = {block.name for block in self.removable}
        asked = [name if isinstance(name, str) else name.name for name in names]
        for name in asked:
            if name in reasons:
                raise LayerticketError(
                    f"block {name!r} cannot be removed: it {reasons[name]}. "
                    f"Removable: {', '.join(block.name for block in self.removable)}."
                )
            if name not in available:
                raise unknown_name("block", name, available)
        return tuple(block for block in self.removable if block.name in set(asked))
