"""How likely paired seeds are to decide, and how many would. Enters: numbers. Leaves: numbers."""

import math

from scipy import stats

__all__ = ["power_of", "seeds_for"]

_MOST_SEEDS = 10_000


def power_of(gap: float, spread: float, n: int, confidence: float) -> float:
    """Compute the probability that n paired seeds decide, if the truth lies so far from the margin.

    The paired t-test, one-sided at ``(1 - confidence) / 2``, rejects where the noncentral t with
    n - 1 degrees of freedom and noncentrality ``gap * sqrt(n) / spread`` exceeds the critical
    value.

    Args:
        gap: Distance of the true mean difference from the margin.
        spread: Standard deviation of the differences, above 0, in the same unit.
        n: Paired seeds, at least 2.
        confidence: Of the two-sided interval that judges, in (0, 1).

    Returns:
        The power, in [0, 1].
    """
    critical = stats.t.ppf((1 + confidence) / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, gap * math.sqrt(n) / spread))


def seeds_for(
    gap: float, spread: float, n: int, confidence: float, *, power: float = 0.8
) -> int | None:
    """Find the fewest seeds, more than n, that decide with a given power.

    Taken from few seeds, mean and spread are rough, and so is the number. It serves to plan a
    study anew: seeds that are added until a comparison is decided make false claims likelier.

    Args:
        gap: As in `power_of`.
        spread: As in `power_of`.
        n: Paired seeds there are.
        confidence: As in `power_of`.
        power: Wanted probability of a decision.

    Returns:
        Seeds in all; None beyond ten thousand, and where gap or spread is 0.
    """
    if min(gap, spread) <= 0:
        return None
    normal = float(stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power))
    fewest = (normal * spread / gap) ** 2  # with a known deviation; Student's t needs a few more
    if fewest > _MOST_SEEDS:
        return None
    needed = max(n + 1, math.floor(fewest))
    while power_of(gap, spread, needed, confidence) < power:
        needed += 1
    return needed
