"""How likely paired seeds are to decide, and how many would. Enters: numbers. Leaves: numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy import stats

from layerticket.errors import LayerticketError

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Outcome of a comparison; accuracies and differences are fractions."""

    n: int
    """Paired seeds."""
    differences: tuple[float, ...]
    """Ticket minus dense, one per seed."""
    mean: float
    """Mean difference."""
    std: float | None
    """Standard deviation of the differences (n - 1 below); None for one seed."""
    spread: float | None
    """What the interval rests on: the deviation, or the floor set by the resolution if larger."""
    low: float | None
    """Lower end of the interval of the mean difference; None for one seed."""
    high: float | None
    """Upper end; None for one seed."""
    margin: float
    """How much worse the ticket may be and still win."""
    confidence: float
    """Confidence of the two-sided interval."""
    outcome: Literal["wins", "loses", "undecided"]
    """Wins: the interval lies above -margin; loses: it lies below; else undecided."""
    seeds_needed: int | None
    """Paired seeds in all that would decide with 80 % power; None if decided or not to be told."""


def verdict(
    dense: Sequence[float],
    ticket: Sequence[float],
    *,
    margin: float = 0.01,
    confidence: float = 0.95,
    resolution: float = 0.0,
) -> Verdict:
    """Judge a ticket by a t-interval over paired differences.

    With d = ticket - dense of n seeds, mean m and deviation s, the interval is
    ``m -+ t * s / sqrt(n)``, t the quantile of Student's t with n - 1 degrees of freedom. The
    ticket wins if ``low > -margin``, loses if ``high < -margin``. One seed decides nothing.

    Args:
        dense: Accuracies of the dense network, one per seed, in [0, 1].
        ticket: Accuracies of the ticket, in the same order of seeds.
        margin: Tolerated loss of accuracy, as a fraction: 0.01 is one percentage point.
        confidence: Of the two-sided interval, in (0, 1).
        resolution: 1 / number of test images, if known. An accuracy is known no finer than this,
            so the interval is never based on a deviation below ``resolution / sqrt(6)``, that of
            two uniform rounding errors; three equal differences prove less than they seem to.

    Returns:
        The verdict.

    Raises:
        LayerticketError: If the lists are empty or differ in length, or a figure is out of range.

    Example:
        >>> verdict([0.90, 0.91, 0.92], [0.905, 0.911, 0.921]).outcome
        'wins'
    """
    _check(dense, ticket, margin, confidence, resolution)
    # Rounded, so that 0.89 against 0.90 is a margin of 0.01 and not a rounding error beyond it.
    differences = tuple(round(t - d, 12) for d, t in zip(dense, ticket, strict=True))
    n, mean = len(differences), fmean(differences)
    std = stdev(differences) if n > 1 else None
    low = high = needed = spread = None
    outcome: Literal["wins", "loses", "undecided"] = "undecided"
    if std is not None:
        spread = _floored(std, resolution)
        half = _half_width(spread, n, confidence)
        low, high = mean - half, mean + half
        outcome = "wins" if low > -margin else "loses" if high < -margin else "undecided"
        if outcome == "undecided":
            needed = seeds_for(abs(mean + margin), spread, n, confidence)
    return Verdict(
        n=n,
        differences=differences,
        mean=mean,
        std=std,
        spread=spread,
        low=low,
        high=high,
        margin=margin,
        confidence=confidence,
        outcome=outcome,
        seeds_needed=needed,
    )


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, resolution: float = 0.0
) -> tuple[float, float | None, float | None, float | None]:
    """Estimate a mean of differences over seeds, with its t-interval.

    Args:
        values: One for each seed, at least one.
        confidence: Of the two-sided interval, in (0, 1).
        resolution: As in `verdict`.

    Returns:
        Mean, standard deviation, lower and upper end; the last three None for one seed.

    Example:
        >>> mean_interval([0.5])
        (0.5, None, None, None)
    """
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None, None
    std = stdev(values)
    half = _half_width(_floored(std, resolution), len(values), confidence)
    return mean, std, mean - half, mean + half


def sentence(verdict: Verdict) -> str:
    """Say a verdict in one sentence, in percentage points (pp).

    Args:
        verdict: The verdict.

    Returns:
        One English sentence.
    """
    mean, margin = f"{100 * verdict.mean:+.2f} pp", f"{100 * verdict.margin:g} pp"
    seeds = "1 seed" if verdict.n == 1 else f"{verdict.n} paired seeds"
    if verdict.low is None or verdict.high is None:
        return (
            f"Undecided: with {seeds} the ticket differs by {mean} from the dense network, "
            "and one seed decides nothing."
        )
    found = (
        f"over {seeds} it differs by {mean} ({100 * verdict.confidence:g} % interval "
        f"{100 * verdict.low:+.2f} to {100 * verdict.high:+.2f} pp)"
    )
    if verdict.outcome == "wins":
        return f"The ticket wins: {found}, so it is less than {margin} worse."
    if verdict.outcome == "loses":
        return f"The ticket loses: {found}, so it is more than {margin} worse."
    more = f"; about {verdict.seeds_needed} seeds in all would decide with 80 % power"
    more *= bool(verdict.seeds_needed)
    return f"Undecided: {found}, which holds the margin of {margin}{more}."


def _floored(std: float, resolution: float) -> float:
    """Return the deviation, or that of two uniform rounding errors if larger."""
    return max(std, resolution / math.sqrt(6))


def _half_width(spread: float, n: int, confidence: float) -> float:
    """Half of the t-interval of a mean of n values."""
    return float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread / math.sqrt(n)


def _check(
    dense: Sequence[float],
    ticket: Sequence[float],
    margin: float,
    confidence: float,
    resolution: float,
) -> None:
    """Refuse input that no verdict can rest on."""
    if not dense or len(dense) != len(ticket):
        raise LayerticketError(
            f"there are {len(dense)} dense and {len(ticket)} ticket accuracies, but seeds are "
            "paired. Give one of each for every seed, in the same order."
        )
    odd = [value for value in (*dense, *ticket) if not 0 <= value <= 1]
    if odd:
        raise LayerticketError(f"an accuracy is {odd[0]}. Give fractions in [0, 1], not percent.")
    for name, value, holds, allowed in (
        ("margin", margin, 0 <= margin < 1, "in [0, 1)"),
        ("confidence", confidence, 0 < confidence < 1, "in (0, 1)"),
        ("resolution", resolution, 0 <= resolution <= 1, "in [0, 1]"),
    ):
        if not holds:
            raise LayerticketError(f"{name} is {value}, but it must be {allowed}.")
