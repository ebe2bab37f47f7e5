"""The worth of single blocks: the accuracy lost without each, and how criteria rank them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from layerticket.verdict.pairs import Row, unpack_correct
from layerticket.verdict.statistics import Difference, estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockWorth:
    """Accuracy of the dense network minus that of the network without one block, over seeds."""

    block: str
    worth: Difference
    """Difference; above 0, the network is better with the block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAgreement:
    """Agreement of a criterion's scores with the measured worth of blocks."""

    method: str
    tau: Difference
    """Kendall's tau-b, the mean over seeds: 1 the same order, 0 as by chance, -1 the reverse."""


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
        if row.kind == "control" and row.role == "baseline" and row.seed in dense:
            alone[row.removed[0]][row.seed] = row
    found = []
    for block, without in alone.items():
        pairs = [(dense[seed], row) for seed, row in sorted(without.items())]
        answers = [_on_images(*pair, test_images) for pair in pairs]
        known = [one for one in answers if one is not None]
        worth = estimate(
            [round(_accuracy(one) - _accuracy(two), 12) for one, two in pairs],
            resolution=1 / test_images if test_images else 0.0,
            table=np.stack(known) if len(known) == len(pairs) else None,
        )
        found.append(BlockWorth(block=block, worth=worth.difference(confidence)))
    return tuple(found)


def _accuracy(row: Row) -> float:
    assert row.test_accuracy is not None  # it is tested
    return row.test_accuracy


def _on_images(one: Row, two: Row, images: int | None) -> np.ndarray | None:
    """Return the difference on every image; None if a row has no recorded answers."""
    if one.correct is None or two.correct is None or len(one.correct) != len(two.correct):
        return None
    first, second = (unpack_correct(row.correct or "", images) for row in (one, two))
    return first.astype(float) - second


def rank_agreement(
    rows: Iterable[Row], worth: Sequence[BlockWorth], *, confidence: float = 0.95
) -> tuple[RankAgreement, ...]:
    """Compare the scores of every criterion with the measured worth.

    Args:
        rows: Rows of the network that `worth` belongs to.
        worth: From `block_worth`.
        confidence: Confidence of the intervals over seeds, in (0, 1).

    Returns:
        One entry per criterion whose tickets have scores, in the order of the rows.
    """
    measured = {one.block: one.worth.mean for one in worth if one.worth.mean is not None}
    scores: dict[str, dict[int, Mapping[str, float]]] = defaultdict(dict)
    for row in rows:
        if row.role == "criterion" and row.scores:
            scores[row.method].setdefault(row.seed, row.scores)
    found = []
    for method, by_seed in scores.items():
        taus = [tau for own in by_seed.values() if (tau := tau_of(own, measured)) is not None]
        if taus:
            agreement = estimate(taus).difference(confidence)
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
