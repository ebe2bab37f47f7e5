"""From scores and a budget to what goes and what stays. Knows no network and no formula."""

import fnmatch
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from layerticket.blocks import Block, Blocks
from layerticket.errors import LayerticketError

__all__ = ["Budget", "Selection", "downsampling_neighbours", "select"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much is to go: exactly one of the three."""

    remove: int | None = None
    """Number of blocks, >= 1."""
    save_macs: float | None = None
    """Least share of the network's multiply-accumulates to save, in (0, 1)."""
    save_params: float | None = None
    """Least share of the network's parameters to save, in (0, 1)."""

    def __post_init__(self) -> None:
        given = {
            "remove": self.remove,
            "save_macs": self.save_macs,
            "save_params": self.save_params,
        }
        if sum(value is not None for value in given.values()) != 1:
            raise LayerticketError(
                f"a budget is exactly one of remove, save_macs and save_params; got {given}."
            )
        if self.remove is not None and self.remove < 1:
            raise LayerticketError(f"remove is {self.remove}; it must be at least 1 block.")
        for name in ("save_macs", "save_params"):
            share = given[name]
            if share is not None and not 0 < share < 1:
                raise LayerticketError(f"{name} is {share}; it must be a share between 0 and 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A partition of the removable blocks; names in the order of execution."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    saved_macs: float
    """Share of the network's multiply-accumulates."""
    saved_params: float
    """Share of the network's parameters."""


def select(
    scores: Mapping[str, float],
    blocks: Blocks,
    budget: Budget,
    *,
    protect: Iterable[str] = (),
    min_per_stage: int = 0,
    keep_neighbours: bool = False,
) -> Selection:
    """Choose the lowest-scored blocks until the budget is met.

    Of equal scores the block nearer to the input goes first.

    Args:
        scores: Score of every removable block, higher = keep.
        blocks: The removable blocks.
        budget: How much is to go.
        protect: Patterns such as ``layer1.*`` (as in file names) of blocks that must stay.
        min_per_stage: Removable blocks that must remain in every stage.
        keep_neighbours: Whether the blocks directly before and after each change of shape stay,
            as in the paper's implementation.

    Raises:
        LayerticketError: If scores and blocks disagree, a pattern matches nothing, or the budget
            cannot be met, or a score is not finite; the message gives the largest saving possible.
    """
    if set(scores) != {block.name for block in blocks}:
        raise LayerticketError("scores and blocks name different blocks; score these blocks first.")
    if bad := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise LayerticketError(
            f"the score of block {bad[0]!r} is {scores[bad[0]]}; only finite scores rank."
        )
    staying = _protected(blocks, protect)
    if keep_neighbours:
        staying |= downsampling_neighbours(blocks)
    left = Counter(block.stage for block in blocks)
    removed: list[Block] = []
    for block in sorted(blocks, key=lambda b: (scores[b.name], b.position)):
        if _met(budget, blocks, removed):
            break
        if block.name not in staying and left[block.stage] > min_per_stage:
            removed.append(block)
            left[block.stage] -= 1
    if not _met(budget, blocks, removed):
        raise _impossible(budget, blocks, removed)
    gone = {block.name for block in removed}
    return Selection(
        removed=tuple(block.name for block in blocks if block.name in gone),
        kept=tuple(block.name for block in blocks if block.name not in gone),
        saved_macs=sum(block.macs for block in removed) / max(blocks.macs, 1),
        saved_params=sum(block.params for block in removed) / max(blocks.params, 1),
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
                f"pattern {pattern!r} protects no removable block. Removable: {', '.join(names)}."
            )
        staying.update(matched)
    return staying


def _met(budget: Budget, blocks: Blocks, removed: list[Block]) -> bool:
    if budget.remove is not None:
        return len(removed) >= budget.remove
    if budget.save_macs is not None:
        return sum(b.macs for b in removed) >= budget.save_macs * blocks.macs
    assert budget.save_params is not None
    return sum(b.params for b in removed) >= budget.save_params * blocks.params


def _impossible(budget: Budget, blocks: Blocks, removed: list[Block]) -> LayerticketError:
    wanted = (
        f"{budget.remove} blocks"
        if budget.remove is not None
        else f"{budget.save_macs:.1%} of the MACs"
        if budget.save_macs is not None
        else f"{budget.save_params:.1%} of the parameters"
    )
    macs = sum(b.macs for b in removed) / max(blocks.macs, 1)
    params = sum(b.params for b in removed) / max(blocks.params, 1)
    return LayerticketError(
        f"the budget asks for {wanted}, but at most {len(removed)} of {len(blocks)} removable "
        f"blocks may go, which saves {macs:.1%} of the MACs and {params:.1%} of the parameters. "
        "Ask for less, protect fewer blocks, or lower min_per_stage."
    )
