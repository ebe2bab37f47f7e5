"""Many comparisons, and many random tickets. Enters: numbers. Leaves: numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from scipy import stats

from layerticket.errors import LayerticketError
from layerticket.study.statistics.verdict import mean_interval

__all__ = ["Percentile", "holm", "outcome_after", "percentile"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of even one false claim among them stays bounded.

    Holm's step-down: the i-th smallest of m is multiplied by m - i + 1, and none may be smaller
    than the one before it. Valid however the comparisons depend on each other, as they do when
    all share one dense network.

    Args:
        p_values: One for each comparison.

    Returns:
        The adjusted values, in the same order, at most 1.

    References:
        S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6
        (1979), 65-70.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def outcome_after(
    wins: float | None, loses: float | None, confidence: float
) -> Literal["wins", "loses", "undecided"]:
    """Judge by adjusted p-values, with half of the error for each direction.

    Args:
        wins: Adjusted p-value of "worse by the margin or more"; None for one seed.
        loses: Adjusted p-value of the opposite.
        confidence: That of the study; both directions together err with 1 - confidence.

    Returns:
        The outcome that stands after the correction.
    """
    allowed = (1 - confidence) / 2
    if wins is not None and wins < allowed:
        return "wins"
    if loses is not None and loses < allowed:
        return "loses"
    return "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """Where a criterion's tickets stand among random ones of the same cost."""

    share: float
    """Share of random tickets that are less accurate, ties counted half, in [0, 1]."""
    low: float | None
    """Lower end of its interval; None for one seed."""
    high: float | None
    """Upper end; None for one seed."""
    tickets: int
    """Random tickets trained, over all seeds."""
    seeds: int
    """Seeds they are spread over."""


def percentile(
    criterion: Sequence[float], random: Sequence[Sequence[float]], *, confidence: float = 0.95
) -> Percentile:
    """Rank a criterion among random tickets of the same seeds.

    Within a seed the rank is the share of random tickets that are less accurate, ties counted
    half (mid-rank); seeds are averaged. The interval is the wider of two: Clopper and Pearson's
    for so many independent tickets, and the t-interval over seeds, since the random tickets of
    one seed are all held against the same run of the criterion. For that reason one seed gives no
    interval, however many random tickets it has.

    Args:
        criterion: Accuracy of the criterion's ticket, one per seed.
        random: Accuracies of the random tickets of each seed, at least one.
        confidence: Of the two-sided interval, in (0, 1).

    Returns:
        The percentile with its interval.

    Raises:
        LayerticketError: If there are no seeds, or one without random tickets.

    Example:
        >>> percentile([0.9], [[0.8, 0.9, 0.95, 0.7]]).share
        0.625
    """
    if not criterion or len(criterion) != len(random) or not all(random):
        raise LayerticketError(
            f"there are {len(criterion)} tickets of the criterion and random ones for "
            f"{sum(map(bool, random))} seeds. Give both for every seed."
        )
    shares = [
        fmean((value < own) + 0.5 * (value == own) for value in values)
        for own, values in zip(criterion, random, strict=True)
    ]
    share, tickets = fmean(shares), sum(map(len, random))
    _, _, seeds_low, seeds_high = mean_interval(shares, confidence=confidence)
    low = high = None
    if seeds_low is not None and seeds_high is not None:
        exact = _clopper_pearson(share, tickets, confidence)
        low, high = max(0.0, min(exact[0], seeds_low)), min(1.0, max(exact[1], seeds_high))
    return Percentile(share=share, low=low, high=high, tickets=tickets, seeds=len(shares))


def _clopper_pearson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Exact binomial interval, continued to half successes by the beta distribution."""
    tail, hits = (1 - confidence) / 2, share * n
    low = 0.0 if hits <= 0 else float(stats.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits >= n else float(stats.beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high
