"""From scores and a budget to what goes and what stays. Knows no network and no formula."""

import fnmatch
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from layerticket.blocks import Block, Blocks
from layerticket.errors import LayerticketError
from layerticket.selection.budget import Budget, Costs, Goal, goal_of

__all__ = ["Selection", "downsampling_neighbours", "select"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A partition of the removable blocks; names in the order of execution."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    order: tuple[str, ...]
    """What this call chose, the lowest score first; `removed` without what was gone before."""
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
    gone: Sequence[str] = (),
    costs: Costs | None = None,
) -> Selection:
    """Choose the lowest-scored blocks until the budget is met.

    Of equal scores the block nearer to the input goes first; where that decides between a block
    that goes and one that stays, a warning says so.

    Args:
        scores: Score of every removable block that is not gone, higher = keep.
        blocks: The removable blocks of the dense network.
        budget: How much is to go.
        protect: Patterns such as ``layer1.*`` (as in file names) of blocks that must stay.
        min_per_stage: Removable blocks that must remain in every stage.
        keep_neighbours: Whether the blocks directly before and after each change of shape stay,
            as in the paper's implementation.
        gone: Blocks removed in earlier rounds; they count towards the budget.
        costs: What `budget` is about, if that is a measured cost; their sum over the blocks is
            taken for what their removal saves.

    Raises:
        LayerticketError: If scores and blocks disagree, a score is not finite, measured costs are
            missing, a pattern matches nothing, or the budget cannot be met; the message gives the
            largest saving possible.
    """
    removed = list(blocks.named(gone))
    before = len(removed)
    if set(scores) != {block.name for block in blocks} - set(gone):
        raise LayerticketError("scores and blocks name different blocks; score these blocks first.")
    if bad := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise LayerticketError(
            f"the score of block {bad[0]!r} is {scores[bad[0]]}; only finite scores rank."
        )
    staying = _protected(blocks, protect)
    if keep_neighbours:
        staying |= downsampling_neighbours(blocks)
    goal = goal_of(budget, blocks, costs)
    left = Counter(block.stage for block in blocks.without(gone))
    for block in sorted(blocks.without(gone), key=lambda b: (scores[b.name], b.position)):
        if goal.met(removed):
            break
        if block.name not in staying and left[block.stage] > min_per_stage:
            removed.append(block)
            left[block.stage] -= 1
    if not goal.met(removed):
        raise _impossible(goal, blocks, removed)
    _warn_of_ties(scores, blocks, removed[before:], staying)
    names = [block.name for block in removed]
    return Selection(
        removed=tuple(block.name for block in blocks if block.name in names),
        kept=tuple(block.name for block in blocks if block.name not in names),
        order=tuple(names[before:]),
        saved_macs=sum(block.macs for block in removed) / max(blocks.macs, 1),
        saved_params=sum(block.params for block in removed) / max(blocks.params, 1),
    )


def _warn_of_ties(
    scores: Mapping[str, float], blocks: Blocks, removed: list[Block], staying: set[str]
) -> None:
    """Say where the order of execution, not the score, decided what goes."""
    highest = max((scores[block.name] for block in removed), default=None)
    gone = {block.name for block in removed}
    tied = [name for name in scores if scores[name] == highest and name not in staying]
    if kept := [name for name in tied if name not in gone]:
        warnings.warn(
            f"{len(tied)} blocks share the score {highest!r} at the cut, and those nearer to the "
            f"input went; {', '.join(kept)} might as well have gone.",
            stacklevel=3,
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


def _impossible(goal: Goal, blocks: Blocks, removed: list[Block]) -> LayerticketError:
    macs = sum(b.macs for b in removed) / max(blocks.macs, 1)
    params = sum(b.params for b in removed) / max(blocks.params, 1)
    reached = sum(goal.cost(block) for block in removed) / goal.needed
    return LayerticketError(
        f"the budget asks for {goal.words}, but at most {len(removed)} of {len(blocks)} removable "
        f"blocks may go, which saves {macs:.1%} of the MACs and {params:.1%} of the parameters, "
        f"{reached:.1%} of what is asked. Ask for less, protect fewer blocks, or lower "
        "min_per_stage."
    )
