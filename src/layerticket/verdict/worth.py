"""The worth of single blocks: the accuracy lost without each, and how criteria rank them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from layerticket.verdict.pairs import Row, accuracy_estimate
from layerticket.verdict.statistics import Difference, estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockWorth:
    """Accuracy of the dense network minus that of the network without one block, over seeds."""

    block: str
    worth: Difference
    """Difference; above 0, the network is better with the block."""
    by_seed: Mapping[int, float]
    """The same difference in every seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAgreement:
    """Agreement of a ranking of blocks with their measured worth."""

    method: str
    """The criterion, or one of two references: `FIRST_TO_LAST`, `OTHER_SEEDS`."""
    tau: Difference
    """Kendall's tau-b, the mean over seeds: 1 the same order, 0 as by chance, -1 the reverse."""


FIRST_TO_LAST = "order of the blocks, first to last"
OTHER_SEEDS = "worth measured in the other seeds"


def block_worth(
    rows: Iterable[Row], *, confidence: float = 0.95, test_images: int | None = None
) -> tuple[BlockWorth, ...]:
    """Estimate the worth of every block that control `each` removed alone.

    Args:
        rows: Rows of one network.
        confidence: Confidence of the intervals, in (0, 1).
        test_images: Number of test images; None if unknown.

    Returns:
        One entry per block, in the order of the rows; empty if no block was removed alone.
    """
    rows = [row for row in rows if row.is_tested]
    dense = {row.seed: row for row in rows if row.kind == "dense"}
    alone: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row.is_single_block and row.seed in dense:
            alone[row.removed[0]][row.seed] = row
    found = []
    for block, without in alone.items():
        pairs = {seed: [(dense[seed], row)] for seed, row in sorted(without.items())}
        by_seed = {
            seed: round(_accuracy(a) - _accuracy(b), 12) for seed, ((a, b),) in pairs.items()
        }
        worth = accuracy_estimate(pairs, test_images)
        assert worth is not None  # all are tested
        found.append(BlockWorth(block=block, worth=worth.difference(confidence), by_seed=by_seed))
    return tuple(found)


def _accuracy(row: Row) -> float:
    assert row.test_accuracy is not None  # it is tested
    return row.test_accuracy


def rank_agreement(
    rows: Iterable[Row], worth: Sequence[BlockWorth], *, confidence: float = 0.95
) -> tuple[RankAgreement, ...]:
    """Compare the scores of every criterion, and two references, with the measured worth.

    The scores of a seed are compared with the worth in the same seed, so that the interval
    includes what one training varies. This variation brings tau closer to 0, so not even a perfect
    criterion reaches 1: `OTHER_SEEDS`, the mean worth in all other seeds, shows about how much is
    possible; its values share seeds, so it has no interval. `FIRST_TO_LAST` ranks later blocks
    higher, without any scores.

    Args:
        rows: Rows of the network that `worth` belongs to.
        worth: From `block_worth`, in the order of the network.
        confidence: Confidence of the intervals over seeds, in (0, 1).

    Returns:
        One entry per criterion whose tickets have scores, in the order of the rows, then the
        references; empty if no seed has the worth of two blocks or no criterion has scores.
    """
    seeds = sorted(set.intersection(*(set(one.by_seed) for one in worth))) if worth else []
    measured = {seed: {one.block: one.by_seed[seed] for one in worth} for seed in seeds}
    scores: dict[str, dict[int, Mapping[str, float]]] = defaultdict(dict)
    for row in rows:
        if row.role == "criterion" and row.scores:
            scores[row.method].setdefault(row.seed, row.scores)
    if scores:
        places = {one.block: float(place) for place, one in enumerate(worth)}
        scores[FIRST_TO_LAST] = dict.fromkeys(seeds, places)
    if scores and len(seeds) > 1:
        for seed in seeds:
            others = [measured[other] for other in seeds if other != seed]
            mean = {b: round(fmean(one[b] for one in others), 12) for b in measured[seed]}  # ties
            scores[OTHER_SEEDS][seed] = mean
    found = []
    swap = 4 / (len(worth) * (len(worth) - 1)) if len(worth) > 1 else 0.0  # of two neighbours
    for method, by_seed in scores.items():
        both = ((by_seed[seed], measured[seed]) for seed in seeds if seed in by_seed)
        taus = [tau for own, worths in both if (tau := tau_of(own, worths)) is not None]
        if taus:
            agreement = estimate(taus, resolution=swap).difference(confidence)
            if method == OTHER_SEEDS:
                agreement = Difference(mean=agreement.mean, n=agreement.n)
            found.append(RankAgreement(method=method, tau=agreement))
    return tuple(found)


def tau_of(scores: Mapping[str, float], worth: Mapping[str, float]) -> float | None:
    """Return Kendall's tau-b of scores and worth over common blocks; None if undefined.

    Concordant minus discordant pairs, over the geometric mean of the pairs without ties in either
    (Kendall, "The treatment of ties in ranking problems", Biometrika 1945).

    Example:
        >>> round(tau_of({"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 0.02, "b": 0.03, "c": 0.01}), 3)
        0.333
    """
    both = [block for block in worth if block in scores]
    x, y = (np.array([of[block] for block in both]) for of in (scores, worth))
    higher_x, higher_y = (np.sign(of[:, None] - of) for of in (x, y))  # of all pairs, twice
    ranked = np.sqrt(np.abs(higher_x).sum() * np.abs(higher_y).sum())
    return float((higher_x * higher_y).sum() / ranked) if ranked else None
