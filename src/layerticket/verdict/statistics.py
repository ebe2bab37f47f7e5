"""Many comparisons, and many random tickets. Enters: numbers. Leaves: numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from scipy import optimize, stats

from layerticket.errors import LayerticketError
from layerticket.verdict.judge import mean_interval

FEWEST_FOR_BOOTSTRAP = 5
_RESAMPLES = 9999


Outcome = Literal["wins", "loses", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean of paired differences with its intervals; all None where nothing is paired."""

    mean: float | None = None
    std: float | None = None
    """Standard deviation over seeds; None for one seed."""
    low: float | None = None
    """Lower end of the interval that judges; None for one seed."""
    high: float | None = None
    """Upper end."""
    n: int = 0
    """Seeds it rests on: those where the two networks differ."""
    over: Literal["seeds", "seeds and images"] = "seeds"
    """What the interval holds for: new seeds on these test images, or new seeds and new images."""
    images: int | None = None
    """Test images with a record of their own; None where it holds for these images only."""
    seeds_low: float | None = None
    """Lower end of the interval over seeds alone, on these test images."""
    seeds_high: float | None = None
    """Upper end of it."""


def bootstrap_interval(
    differences: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Estimate where a mean difference lies by drawing the paired seeds anew.

    Bias-corrected and accelerated (BCa) bootstrap of the mean, 9,999 draws of whole pairs. It
    assumes no normal distribution, but with few seeds it is narrower than it ought to be; the
    t-interval judges, this one is its second witness. Costs milliseconds.

    Args:
        differences: One per seed.
        confidence: Of the two-sided interval, in (0, 1).
        seed: Of the draws; the same seed gives the same interval.

    Returns:
        Lower and upper end; None below five seeds, and where all differences are equal.

    References:
        B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987), 171-185.

    Example:
        >>> bootstrap_interval([0.01, 0.02, 0.03, 0.02])
    """
    if len(differences) < FEWEST_FOR_BOOTSTRAP or len(set(differences)) == 1:
        return None
    found = stats.bootstrap(
        (np.asarray(differences, dtype=float),),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def p_margin(mean: float, spread: float | None, n: int, margin: float) -> float | None:
    """Compute the one-sided p-value of non-inferiority: paired t-test at the margin.

    The null hypothesis is that the ticket is worse by the margin or more. With mean m and
    deviation s of n differences, ``t = (m + margin) / (s / sqrt(n))`` and p is the probability
    that Student's t with n - 1 degrees of freedom exceeds it.

    Args:
        mean: Of the differences, as a fraction.
        spread: Their standard deviation, or the floor set by the resolution.
        n: How many there are.
        margin: How much worse the ticket may be, as a fraction.

    Returns:
        The p-value; None for one seed. Differences without spread give 0 or 1.
    """
    if spread is None or n < 2:
        return None
    gap = mean + margin
    if spread == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stats.t.sf(gap * math.sqrt(n) / spread, n - 1))


def minimum_detectable(
    spread: float | None, n: int, *, confidence: float = 0.95, power: float = 0.8
) -> float | None:
    """Find how far from the margin a true difference has to lie to be found.

    The smallest d for which the paired t-test, one-sided at ``(1 - confidence) / 2``, rejects
    with probability `power` if the truth lies d beyond the margin: the noncentral t distribution
    with n - 1 degrees of freedom and noncentrality ``d * sqrt(n) / s`` exceeds the critical value
    with that probability.

    Args:
        spread: Standard deviation s of the differences.
        n: Paired seeds.
        confidence: Of the two-sided interval that judges, in (0, 1).
        power: Wanted probability of a decision, in (0, 1).

    Returns:
        The distance, in the unit of `spread`; None for one seed.
    """
    if spread is None or n < 2:
        return None
    critical = float(stats.t.ppf((1 + confidence) / 2, n - 1))

    def lacking(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, n - 1, noncentrality)) - power

    high = critical + 2.0
    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0.0, high)) * spread / math.sqrt(n)


def ratio_interval(
    dense: Sequence[float], ticket: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Estimate a speed-up: dense over ticket of each seed, averaged as ratios are.

    The geometric mean of the ratios, with the t-interval of their logarithms taken back: twice
    as fast and half as fast then lie equally far from 1.

    Args:
        dense: Seconds of the dense network, one per seed.
        ticket: Seconds of the ticket, in the same order.
        confidence: Of the two-sided interval, in (0, 1).

    Returns:
        Mean, lower and upper end; the last two None for one seed.

    Raises:
        LayerticketError: If the lists are empty or differ in length, or a figure is not positive.

    Example:
        >>> ratio_interval([2.0], [1.0])
        (2.0, None, None)
    """
    if not dense or len(dense) != len(ticket) or min(*dense, *ticket) <= 0:
        raise LayerticketError(
            f"a ratio is asked for of {len(dense)} and {len(ticket)} figures. Give one positive "
            "figure of each for every seed, in the same order."
        )
    logs = [math.log(d / t) for d, t in zip(dense, ticket, strict=True)]
    if len(logs) == 1:
        return math.exp(fmean(logs)), None, None
    mean, _, low, high = mean_interval(logs, confidence=confidence)
    assert low is not None
    assert high is not None
    return math.exp(mean), math.exp(low), math.exp(high)


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
