"""Intervals, p-values and power over paired differences. Enters: numbers. Leaves: numbers.

Each function takes the differences (or ratios) of runs that share a seed, one per seed, and
returns None where the seeds are too few to say anything. Refuses to know files and runs.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy import optimize, stats

from layerticket.errors import LayerticketError
from layerticket.study.statistics.verdict import mean_interval

__all__ = [
    "FEWEST_FOR_BOOTSTRAP",
    "bootstrap_interval",
    "minimum_detectable",
    "p_margin",
    "ratio_interval",
]

FEWEST_FOR_BOOTSTRAP = 5
_RESAMPLES = 9999


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
