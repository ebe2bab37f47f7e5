"""Records of removable blocks, and of candidates that must stay."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from layerticket.display import Shown, Table, few
from layerticket.errors import LayerticketError, unknown_name
from layerticket.settings import Whole, restored

if TYPE_CHECKING:  # it imports torch
    from layerticket.surgery.remove import Replacement

Granularity = Literal["block", "branch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """The residual block of a branch, and how the branch is removed."""

    of: str
    """Name of the residual block that contains it."""
    replacements: "tuple[Replacement, ...]"
    """First the module whose output is added, then modules that have no effect without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One residual block that the identity can replace, or one of its branches."""

    name: str
    """As in ``named_modules()``."""
    position: Whole
    """Index among the removable blocks in the order of execution, from 0."""
    stage: Whole
    """Index of the stage, from 0; blocks of equal shape in one container share a stage."""
    shape: tuple[Whole, ...]
    """Shape of its input and output, without the batch dimension."""
    params: Whole
    """Parameters in the block."""
    macs: Whole | None
    """Multiply-accumulates per example; None if they cannot be counted."""
    call: Literal["plain", "rich"]
    """`plain`: one input tensor and one output tensor. `rich`: more arguments or outputs."""
    post_norm: bool
    """Whether a normalization, or an activation other than ReLU, follows the addition."""
    branch: Branch | None = None
    """How the branch is removed; None for a whole block."""
    shared: tuple[tuple[str, Whole, Whole], ...] = ()
    """Parameters that are shared with other places: name, size, and number of places (each
    removable block is one, the rest of the network is one). They are removed with the last one."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that are removed, without those inside them."""
        return tuple(part.name for part in self.replacements) or (self.name,)

    @property
    def replacements(self) -> "tuple[Replacement, ...]":
        """Replacements of the modules of a branch; empty for a whole block."""
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
    """Count the parameters that are removed with blocks; shared ones only with their last place."""
    blocks = list(blocks)
    places = Counter(name for block in blocks for name, _, _ in block.shared)
    known = {name: (size, of) for block in blocks for name, size, of in block.shared}
    kept = sum(size * (places[name] - (places[name] == of)) for name, (size, of) in known.items())
    return sum(block.params for block in blocks) - kept


def block_record(block: Block) -> dict[str, Any]:
    """Return a block as JSON values; `branch` and `shared` are left out if they are empty."""
    record = asdict(block)
    empty = {"branch": None, "shared": ()}
    return {k: v for k, v in record.items() if k not in empty or v != empty[k]}


def block_of(record: object, where: str = "block") -> Block:
    """Read a block from the JSON values of `block_record`.

    Args:
        record: JSON values.
        where: File, and position in it, for messages.

    Raises:
        LayerticketError: If a field is missing, unknown or invalid.
    """
    if not isinstance(record, Mapping) or record.get("branch") is None:
        return restored(Block, record, where, {"branch": None})
    from layerticket.surgery.remove import Replacement

    branch, where_branch = record["branch"], f"{where}: branch"
    parts = branch.get("replacements") if isinstance(branch, Mapping) else None
    if not isinstance(parts, list | tuple):
        raise LayerticketError(f"{where_branch}: replacements is {parts!r}; it must be a list.")
    made = tuple(restored(Replacement, part, f"{where_branch}: replacements") for part in parts)
    restored_branch = restored(Branch, branch, where_branch, {"replacements": made})
    return restored(Block, record, where, {"branch": restored_branch})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A candidate that must stay, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Blocks(Shown, Sequence[Block]):
    """The removable blocks of a network in the order of execution, and rejected candidates."""

    removable: tuple[Block, ...]
    rejected: tuple[Rejection, ...]
    params: int
    """Parameters of the whole network."""
    macs: int | None
    """Multiply-accumulates of the whole network per example; None if they cannot be counted."""
    uncounted: str = ""
    """Why multiply-accumulates cannot be counted."""

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
        rows = [
            (b.name, b.stage, f"{b.params:,}", "" if b.macs is None else f"{b.macs:,}", "")
            for b in self
        ]
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
        """Return the blocks left when these are removed; positions and stages do not change.

        Raises:
            LayerticketError: As in `named`.
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
        """Return the blocks with these names, in the order of execution.

        Args:
            names: Names of blocks, or blocks.

        Raises:
            LayerticketError: If a name is not a removable block, with the reason if it is known.
        """
        reasons = {rejection.name: rejection.reason for rejection in self.rejected}
        available = {block.name for block in self.removable}
        wanted = [name if isinstance(name, str) else name.name for name in names]
        for name in wanted:
            if name in reasons:
                raise LayerticketError(
                    f"block {name!r} cannot be removed: it {reasons[name]}. "
                    f"Removable: {', '.join(block.name for block in self.removable)}."
                )
            if name not in available:
                raise unknown_name("block", name, available)
        return tuple(block for block in self.removable if block.name in set(wanted))
