"""Select the blocks to remove, from scores and a budget."""

import fnmatch
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import Field, Strict

from layerticket.blocks.block import Block, Blocks, freed_params, macs_of
from layerticket.display import Shown, few
from layerticket.errors import LayerticketError
from layerticket.settings import Bytes, Count, settings

Saved = Annotated[float, Strict(), Field(gt=0, lt=1)]


@settings
class Budget:
    """How much to remove: exactly one of these fields.

    The last three use measured costs, so `select` needs the `Costs` of the blocks for them.
    """

    remove: Count | None = None
    """Number of blocks to remove, at least 1."""
    save_macs: Saved | None = None
    """Minimum share of the network's multiply-accumulates to save, between 0 and 1."""
    save_params: Saved | None = None
    """Minimum share of the network's parameters to save, between 0 and 1."""
    save_time: Saved | None = None
    """Minimum share of the measured time of a training step to save, between 0 and 1."""
    save_energy: Saved | None = None
    """Minimum share of the measured energy of a training step to save, between 0 and 1."""
    max_memory: Bytes | None = None
    """Maximum measured peak memory of training, in bytes or as in 2GiB."""

    def __post_init__(self) -> None:
        given = {name: value for name, value in self._given().items() if value is not None}
        if len(given) != 1:
            raise LayerticketError(
                f"give exactly one of {', '.join(self._given())} as budget; got {given}."
            )

    @property
    def measured(self) -> bool:
        """Whether the budget is about costs that must be measured."""
        return any(v is not None for v in (self.save_time, self.save_energy, self.max_memory))

    def parts(self, rounds: int) -> tuple["Budget", ...]:
        """Return the cumulative budget of each of `rounds` equal rounds.

        Raises:
            LayerticketError: If `rounds` is below 1 or above the number of blocks to remove.

        Example:
            >>> [part.remove for part in Budget(remove=5).parts(2)]
            [3, 5]
        """
        if rounds < 1 or (self.remove is not None and rounds > self.remove):
            allowed = "1 or more" if self.remove is None else f"1 to {self.remove}"
            raise LayerticketError(f"rounds is {rounds}; with this budget it must be {allowed}.")
        if rounds == 1:
            return (self,)
        steps = range(1, rounds)
        if self.remove is not None:
            early = [Budget(remove=-(-self.remove * step // rounds)) for step in steps]
            return (*early, self)
        if self.max_memory is not None:
            raise LayerticketError(f"rounds is {rounds}; with a memory budget it must be 1.")
        name, share = next((n, v) for n, v in self._given().items() if v is not None)
        return (*(Budget(**{name: share * step / rounds}) for step in steps), self)

    def _given(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Measured cost of a network, and of each of its blocks."""

    what: str
    """Name and unit of the cost, e.g. "step time in s"."""
    total: float
    """Cost of the whole network."""
    blocks: Mapping[str, float]
    """Cost of every removable block by name."""


def _share_of_macs(blocks: Blocks, removed: list[Block]) -> float | None:
    return None if blocks.macs is None else macs_of(removed) / max(blocks.macs, 1)


def _macs_text(share: float | None) -> str:
    return "an unknown share of the MACs" if share is None else f"{share:.1%} of the MACs"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Selection(Shown):
    """A partition of the removable blocks; names in the order of execution."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    order: tuple[str, ...]
    """Blocks chosen by this call, lowest score first; without those removed earlier."""
    saved_macs: float | None
    """Saved share of the network's multiply-accumulates; None if they cannot be counted."""
    saved_params: float
    """Saved share of the network's parameters."""
    following: str | None = None
    """The block that would be removed next; None if no other can be."""

    def _headline(self) -> str:
        count = len(self.removed)
        return f"{count} block{'s' * (count != 1)} removed, {len(self.kept)} kept"

    def _facts(self) -> dict[str, object]:
        return {
            "removed": few(self.removed),
            "kept": few(self.kept),
            "saved": f"{_macs_text(self.saved_macs)}, {self.saved_params:.1%} of parameters",
        }


def select(
    scores: Mapping[str, float],
    blocks: Blocks,
    budget: Budget,
    *,
    protect: Iterable[str] = (),
    min_per_stage: int = 0,
    keep_neighbours: bool = False,
    gone: Sequence[str] = (),
    costs: Costs | None = None,
) -> Selection:
    """Choose the lowest-scoring blocks until the budget is met.

    If scores are equal, the block nearer to the input is removed first; a warning is given if this
    decides which block is kept.

    Args:
        scores: Score of every removable block not in `gone`, higher = keep.
        blocks: The removable blocks of the dense network.
        budget: How much to remove.
        protect: Patterns such as ``layer1.*`` (as in file names) of blocks that must stay.
        min_per_stage: Minimum number of removable blocks to keep in every stage.
        keep_neighbours: Whether to keep the blocks directly before and after each change of
            shape, as in the paper's code.
        gone: Blocks removed in earlier rounds; they count towards the budget.
        costs: Costs of the blocks, for a budget of a measured cost; removing several blocks is
            assumed to save the sum of their costs.

    Raises:
        LayerticketError: If scores and blocks differ, a score is not finite, measured costs are
            missing, a pattern matches nothing, or the budget cannot be met; the message gives the
            largest possible saving.
    """
    check_budget(budget)
    removed = list(blocks.named(gone))
    before = len(removed)
    if set(scores) != {block.name for block in blocks} - set(gone):
        raise LayerticketError("scores and blocks have different names. Score these blocks first.")
    if bad := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise LayerticketError(
            f"the score of block {bad[0]!r} is {scores[bad[0]]}; scores must be finite."
        )
    staying = _protected(blocks, protect)
    if keep_neighbours:
        staying |= downsampling_neighbours(blocks)
    target = _target_of(budget, blocks, costs)
    left = Counter(block.stage for block in blocks.without(gone))
    following = None
    for block in sorted(blocks.without(gone), key=lambda b: (scores[b.name], b.position)):
        if block.name in staying or left[block.stage] <= min_per_stage:
            continue
        if target.met(removed):
            following = block.name
            break
        removed.append(block)
        left[block.stage] -= 1
    if not target.met(removed):
        raise _impossible(target, blocks, removed)
    if budget.remove is not None:
        _warn_of_large_blocks(blocks, removed[before:])
    kept = [block for block in blocks.without(removed) if block.name not in staying]
    _warn_of_ties(scores, removed[before:], kept, {s for s in left if left[s] > min_per_stage})
    names = [block.name for block in removed]
    return Selection(
        removed=tuple(block.name for block in blocks if block.name in names),
        kept=tuple(block.name for block in blocks if block.name not in names),
        order=tuple(names[before:]),
        saved_macs=_share_of_macs(blocks, removed),
        saved_params=freed_params(removed) / max(blocks.params, 1),
        following=following,
    )


def check_budget(budget: object) -> None:
    """Raise unless the argument is a `Budget`.

    Raises:
        LayerticketError: With an example of a budget.
    """
    if not isinstance(budget, Budget):
        count = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 1
        write = f"Budget(remove={budget})" if count else "Budget(remove=2)"
        raise LayerticketError(
            f"budget is {budget!r}; give a layerticket.Budget: {write}, Budget(save_macs=0.3), ..."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A budget in numbers: a cost per block, and the sum to reach."""

    words: str
    needed: float
    cost: Callable[[list[Block]], float]
    """Returns the cost that removing these blocks saves."""

    def met(self, removed: list[Block]) -> bool:
        """Whether removing these blocks meets the budget."""
        return self.cost(removed) >= self.needed


def _target_of(budget: Budget, blocks: Blocks, costs: Costs | None) -> Target:
    """Return a budget as a target in numbers."""
    if budget.remove is not None:
        return Target(words=f"{budget.remove} blocks", needed=budget.remove, cost=len)
    if budget.save_macs is not None:
        if blocks.macs is None:
            raise LayerticketError(
                f"a budget in MACs cannot be met: {blocks.uncounted or 'they are not counted.'}"
            )
        return Target(
            words=f"{budget.save_macs:.1%} of the MACs",
            needed=budget.save_macs * blocks.macs,
            cost=macs_of,
        )
    if budget.save_params is not None:
        return Target(
            words=f"{budget.save_params:.1%} of the parameters",
            needed=budget.save_params * blocks.params,
            cost=freed_params,
        )
    if costs is None or set(costs.blocks) != {block.name for block in blocks}:
        raise LayerticketError(
            "this budget needs measured costs; pass costs=Costs(...) with the cost of every "
            "removable block, or use `layerticket find`, which measures them."
        )
    return _measured_target(budget, costs)


def _measured_target(budget: Budget, costs: Costs) -> Target:
    """Return a budget of measured costs as a target in numbers."""
    share = budget.save_time if budget.save_time is not None else budget.save_energy
    if share is not None:
        words, needed = f"{share:.1%} of the {costs.what}", share * costs.total
    else:
        assert budget.max_memory is not None
        words = f"at most {budget.max_memory:,} of {costs.total:,.0f} {costs.what}"
        needed = costs.total - budget.max_memory
        if needed <= 0:
            raise LayerticketError(
                f"the budget asks for {words}, which the dense network meets already. "
                "Train it without a ticket, or use a smaller budget."
            )
    return Target(
        words=words,
        needed=needed,
        cost=lambda removed: sum(costs.blocks[block.name] for block in removed),
    )


def downsampling_neighbours(blocks: Blocks) -> set[str]:
    """Return the removable blocks directly before and after each change of shape."""
    pairs = zip(blocks.removable[:-1], blocks.removable[1:], strict=True)
    return {b.name for pair in pairs if pair[0].shape != pair[1].shape for b in pair}


def _protected(blocks: Blocks, patterns: Iterable[str]) -> set[str]:
    names = [block.name for block in blocks]
    staying: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise LayerticketError(
                f"pattern {pattern!r} matches no removable block. Removable: {', '.join(names)}."
            )
        staying.update(matched)
    return staying


def _warn_of_ties(
    scores: Mapping[str, float], removed: list[Block], kept: list[Block], free: set[int]
) -> None:
    """Warn if the order of execution, not the score, decided which block is removed.

    A kept block could have been removed if its stage is `free`, which can lose another block, or in
    place of a block of its own stage.
    """
    for score in sorted({scores[block.name] for block in removed}):
        gone = [block for block in removed if scores[block.name] == score]
        stages = free | {block.stage for block in gone}
        tied = [b.name for b in kept if scores[b.name] == score and b.stage in stages]
        if tied:
            warnings.warn(
                f"{len(gone) + len(tied)} blocks have the same score {score!r}. Those nearer to "
                f"the input were removed; {', '.join(tied)} could equally have been removed.",
                stacklevel=3,
            )


def _warn_of_large_blocks(blocks: Blocks, removed: list[Block]) -> None:
    """Warn if a removed block has more than half of the network's parameters."""
    for block in removed:
        if 2 * block.params > blocks.params:
            warnings.warn(
                f"block {block.name!r} is removed, with {block.params / blocks.params:.1%} of the "
                "network's parameters. To remove less, give the share to save: "
                "Budget(save_params=...).",
                stacklevel=3,
            )


def _impossible(target: Target, blocks: Blocks, removed: list[Block]) -> LayerticketError:
    macs = _share_of_macs(blocks, removed)
    params = freed_params(removed) / max(blocks.params, 1)
    reached = target.cost(removed) / target.needed
    return LayerticketError(
        f"the budget asks for {target.words}, but at most {len(removed)} of {len(blocks)} "
        f"removable blocks can be removed. That saves {_macs_text(macs)} and {params:.1%} of the "
        f"parameters, {reached:.1%} of the target. Ask for less, protect fewer blocks, or lower "
        "min_per_stage."
    )
