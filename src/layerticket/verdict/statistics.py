"""Intervals, tests and power for paired seeds: over seeds alone, or over seeds and test images."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Outcome = Literal["wins", "loses", "undecided"]
Array = NDArray[np.float64]

POWER = 0.8
_MOST_SEEDS = 10_000


def t_quantile(probability: float, n: int) -> float:
    """Return a quantile of Student's t with n - 1 degrees of freedom."""
    return float(special.stdtrit(n - 1, probability))


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean of paired differences with its intervals; all None if there are no pairs."""

    mean: float | None = None
    std: float | None = None
    """Standard deviation over seeds; None for one seed."""
    low: float | None = None
    """Lower end of the deciding interval; None for one seed."""
    high: float | None = None
    """Upper end of the deciding interval."""
    n: int = 0
    """Number of seeds: those where the two networks differ."""
    over: Literal["seeds", "seeds and images"] = "seeds"
    """Scope of the interval: new seeds on these test images, or new seeds and new images."""
    images: int | None = None
    """Test images with recorded answers; None if the interval holds for these images only."""
    seeds_low: float | None = None
    """Lower end of the interval over seeds only, on these test images."""
    seeds_high: float | None = None
    """Upper end of the interval over seeds only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean of paired differences, with two standard errors: of seeds and of images."""

    mean: float
    n: int
    """Seeds."""
    std: float | None = None
    """Standard deviation over seeds (n - 1 below); None for one seed."""
    spread: float | None = None
    """Standard deviation that the interval uses, at least the floor set by the resolution."""
    images: int | None = None
    """Test images with recorded answers; None if there are none."""
    image_error: float = 0.0
    """Standard error from the choice of images; 0 without records."""
    chance: float = 0.0
    """Standard deviation over seeds whose answers differ by chance on single images only; 0
    without records."""

    @property
    def seed_error(self) -> float:
        """Standard error from the choice of seeds; 0 for one seed."""
        return 0.0 if self.spread is None else self.spread / math.sqrt(self.n)

    @property
    def chance_error(self) -> float:
        """Standard error of `chance`."""
        return self.chance / math.sqrt(self.n)

    def interval(
        self, confidence: float, *, seeds_only: bool = False
    ) -> tuple[float | None, float | None]:
        """Return the interval for new seeds and, if answers were recorded, new images.

        With `seeds_only` it holds for these test images only, and is never wider.
        """
        if self.spread is None:
            return None, None
        image_error = 0.0 if seeds_only else self.image_error
        tail = (1 - confidence) / 2
        half = half_width(self.seed_error, image_error, self.n, tail, self.chance_error)
        return self.mean - half, self.mean + half

    def difference(self, confidence: float) -> Difference:
        """Return both intervals, as in study.json."""
        low, high = self.interval(confidence)
        seeds_low, seeds_high = self.interval(confidence, seeds_only=True)
        return Difference(
            mean=self.mean,
            std=self.std,
            low=low,
            high=high,
            n=self.n,
            over="seeds" if self.images is None else "seeds and images",
            images=self.images,
            seeds_low=seeds_low,
            seeds_high=seeds_high,
        )


def half_width(
    seed_error: float, image_error: float, n: int, tail: float, chance_error: float = 0.0
) -> float:
    """Return half the width of an interval that leaves `tail` on each side.

    Seeds are few, so their part uses Student's t; images are many, so theirs uses the normal. A few
    seeds can agree by luck, so their part is at least that of seeds which differ by chance on
    single images. That error is known from many images, so it uses the normal too.
    """
    z = float(-special.ndtri(tail))
    of_seeds = max(t_quantile(1 - tail, n) * seed_error, z * chance_error)
    return math.hypot(of_seeds, z * image_error)


def estimate(
    differences: Sequence[float], *, resolution: float = 0.0, table: Array | None = None
) -> Estimate:
    """Estimate the mean of paired differences, one per seed.

    `table` has the difference on every image (seeds, images). The variance of images that all seeds
    share comes from the two-way table: ``image_error^2 = max(0, MS_image - MS_rest) / (S N)``.
    Seeds that differ by chance on single images only have the deviation ``sqrt(MS_rest / N)``.
    `resolution` is the step between two accuracies: the deviation used is never below
    ``resolution / sqrt(6)``, that of two uniform rounding errors.
    """
    n = len(differences)
    if n < 2:
        return Estimate(
            mean=fmean(differences), n=n, images=None if table is None else table.shape[1]
        )
    std = stdev(differences)
    images, image_error, chance = None if table is None else table.shape[1], 0.0, 0.0
    if table is not None and images is not None and images > 1:
        of_images, rest = _mean_squares(table)
        image_error = math.sqrt(max(0.0, of_images - rest) / (n * images))
        chance = math.sqrt(rest / images)
    return Estimate(
        mean=fmean(differences),
        n=n,
        std=std,
        spread=max(std, resolution / math.sqrt(6)),
        images=images,
        image_error=image_error,
        chance=chance,
    )


def _mean_squares(table: Array) -> tuple[float, float]:
    """Return the mean squares of images, and of what is left, of a two-way table (S, N)."""
    seeds, images = table.shape
    centred = table - table.mean()
    of_images = seeds * float(np.square(centred.mean(axis=0)).sum())  # sums of squares
    of_seeds = images * float(np.square(centred.mean(axis=1)).sum())
    rest = max(0.0, float(np.square(centred).sum()) - of_images - of_seeds)
    return of_images / (images - 1), rest / ((seeds - 1) * (images - 1))


def outcome_of(of: Estimate, margin: float, confidence: float) -> Outcome:
    """Return wins if the interval is above -margin, loses if below; one seed is undecided."""
    low, high = of.interval(confidence)
    if low is None or high is None:
        return "undecided"
    return "wins" if low > -margin else "loses" if high < -margin else "undecided"


def p_value(of: Estimate, margin: float) -> float | None:
    """Return the one-sided p-value of "worse by the margin or more"; None for one seed.

    It is the tail for which the interval just reaches the margin, so p < (1 - confidence) / 2 is
    equivalent to an interval above -margin. Without images this is the paired t-test.
    """
    if of.spread is None:
        return None
    gap = of.mean + margin
    if gap == 0:
        return 0.5
    return _tail(gap, of) if gap > 0 else 1.0 - _tail(-gap, of)


def _tail(gap: float, of: Estimate) -> float:
    """Return the tail whose half width equals the gap."""
    seeds = 0.0 if of.seed_error == 0 else float(special.stdtr(of.n - 1, -gap / of.seed_error))
    chance, images = (
        0.0 if error == 0 else float(special.ndtr(-gap / error))
        for error in (of.chance_error, of.image_error)
    )
    least = max(seeds, chance, images)
    if of.image_error == 0 or max(of.seed_error, of.chance_error) == 0 or least == 0:
        return least
    # All three are too small. On the scale of the normal quantile, the result is below them.
    high = float(-special.ndtri(least))

    def lacking(z: float) -> float:
        tail = float(special.ndtr(-z))
        half = half_width(of.seed_error, of.image_error, of.n, tail, of.chance_error)
        return half - gap

    return float(special.ndtr(-_root(lacking, 0.0, high)))


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Find the zero of a rising function by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


# Power: the mean is normal; the deviation is chi-square and is integrated out.


@functools.lru_cache(maxsize=256)
def _deviations(n: int) -> tuple[Array, Array]:
    """Return values of deviation / true deviation for n seeds, and their weights."""
    shares, weights = _quadrature()
    return np.sqrt(special.chdtri(n - 1, 1 - shares) / (n - 1)), weights


@functools.cache
def _quadrature() -> tuple[Array, Array]:
    """Return points in (0, 1) and weights that integrate a smooth function."""
    points, weights = np.polynomial.legendre.leggauss(200)
    return (points + 1) / 2, weights / 2


def power_of(
    gap: float,
    spread: float,
    n: int,
    confidence: float,
    image_error: float = 0.0,
    chance: float = 0.0,
) -> float:
    """Return the probability that n seeds decide if the truth is `gap` beyond the margin."""
    tail = (1 - confidence) / 2
    deviations, weights = _deviations(n)
    seed_error = spread / math.sqrt(n)
    t, z = t_quantile(1 - tail, n), float(-special.ndtri(tail))
    of_seeds = np.maximum(t * seed_error * deviations, z * chance / math.sqrt(n))
    halves = np.hypot(of_seeds, z * image_error)
    reached = special.ndtr((gap - halves) / math.hypot(seed_error, image_error))
    return float(weights @ reached)


def seeds_for(of: Estimate, margin: float, confidence: float) -> int | None:
    """Return the fewest seeds of a new study, more than now, that decide with 80 % power.

    None if no number up to ten thousand does. It uses the mean and deviation seen so far, so it is
    a plan for a new study: adding seeds until a comparison is decided makes false claims more
    likely.
    """
    gap = abs(of.mean + margin)
    if of.spread is None or min(gap, of.spread) <= 0:
        return None
    left = (gap / _both(confidence)) ** 2 - of.image_error**2
    if left <= 0:
        return None
    fewest = of.spread**2 / left  # with a known deviation; Student's t needs a few more
    if fewest > _MOST_SEEDS:
        return None
    needed = max(of.n + 1, math.floor(fewest))
    while power_of(gap, of.spread, needed, confidence, of.image_error, of.chance) < POWER:
        needed += 1
        if needed > _MOST_SEEDS:
            return None
    return needed


def images_for(of: Estimate, margin: float, confidence: float) -> int | None:
    """Return the minimum number of test images, if no number of seeds can decide on these.

    None if more seeds can decide, or nothing is known.
    """
    gap = abs(of.mean + margin)
    if of.images is None or gap == 0:
        return None
    ratio = (_both(confidence) * of.image_error / gap) ** 2
    return None if ratio < 1 else math.ceil(of.images * ratio) + 1


def _both(confidence: float) -> float:
    """Return the sum of the normal quantiles of the test and of its power."""
    return float(-special.ndtri((1 - confidence) / 2) + special.ndtri(POWER))


def minimum_detectable(of: Estimate, confidence: float) -> float | None:
    """Return the distance from the margin that is found with 80 % power."""
    if of.spread is None:
        return None
    if of.spread == 0:
        half = half_width(0.0, of.image_error, of.n, (1 - confidence) / 2, of.chance_error)
        return half + float(special.ndtri(POWER)) * of.image_error
    of_images, chance = of.image_error / of.spread, of.chance / of.spread
    return of.spread * _detectable(of.n, confidence, of_images, chance)


@functools.lru_cache(maxsize=1024)
def _detectable(n: int, confidence: float, image_error: float, chance: float) -> float:
    """Return the minimum detectable distance in units of the deviation over seeds."""

    def lacking(distance: float) -> float:
        return power_of(distance, 1.0, n, confidence, image_error, chance) - POWER

    high = 1.0
    while lacking(high) < 0:
        high *= 2
    return _root(lacking, 0.0, high)


# Multiple comparisons.


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values to bound the probability of one or more false claims.

    Holm's step-down: the i-th smallest of m is multiplied by m - i + 1 and is at least as large as
    the one before it. Valid for dependent comparisons, such as those that share one dense network.
    S. Holm, Scand. J. Statist. 6 (1979), 65-70.

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


def outcome_after(wins: float | None, loses: float | None, confidence: float) -> Outcome:
    """Return the outcome by the adjusted p-values of both directions, each with half the error."""
    allowed = (1 - confidence) / 2
    if wins is not None and wins < allowed:
        return "wins"
    return "loses" if loses is not None and loses < allowed else "undecided"


# Ratios, ranks and agreement.


def ratio_interval(
    dense: Sequence[float], ticket: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return the geometric mean of dense / ticket over seeds, with a t-interval of the logarithms.

    Twice as fast and half as fast are then equally far from 1. One seed has no interval.

    Example:
        >>> ratio_interval([2.0], [1.0])
        (2.0, None, None)
    """
    found = estimate([math.log(d / t) for d, t in zip(dense, ticket, strict=True)])
    low, high = found.interval(confidence)
    if low is None or high is None:
        return math.exp(found.mean), None, None
    return math.exp(found.mean), math.exp(low), math.exp(high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """Rank of a criterion's tickets among random ones of the same cost."""

    share: float
    """Share of random tickets that are less accurate, in [0, 1]; ties count half."""
    low: float | None
    """Lower end of the interval; None for one seed."""
    high: float | None
    """Upper end of the interval; None for one seed."""
    tickets: int
    """Number of random tickets trained, over all seeds."""
    seeds: int
    """Number of their seeds."""


def percentile(
    criterion: Sequence[float], random: Sequence[Sequence[float]], *, confidence: float = 0.95
) -> Percentile:
    """Rank a criterion among random tickets of the same seeds; ties count half.

    Seeds are averaged. The interval is Clopper and Pearson's for an effective number of tickets,
    since all random tickets of one seed are compared with the same run of the criterion: the number
    of independent tickets that would have the standard error seen over seeds, times the squared
    ratio of Student's t for tickets and for seeds. It is at most the number of tickets, and the
    number of seeds where all seeds have the same share. One seed has no interval.

    References:
        Korn and Graubard, "Confidence Intervals for Proportions with Small Expected Number of
        Positive Counts Estimated from Survey Data", Survey Methodology 24 (1998), 193-201. Differs:
        they leave the interval out if all shares are equal.

    Example:
        >>> percentile([0.9], [[0.8, 0.9, 0.95, 0.7]]).share
        0.625
    """
    shares = [
        fmean((value < own) + 0.5 * (value == own) for value in values)
        for own, values in zip(criterion, random, strict=True)
    ]
    found, tickets = estimate(shares), sum(map(len, random))
    low, high = None, None
    if found.std is not None:
        count = float(found.n)
        if found.std > 0:
            tail = (1 - confidence) / 2
            wider = t_quantile(tail, tickets) / t_quantile(tail, found.n)
            count = min(tickets, found.mean * (1 - found.mean) * (wider / found.seed_error) ** 2)
        low, high = _clopper_pearson(found.mean, count, confidence)
    return Percentile(share=found.mean, low=low, high=high, tickets=tickets, seeds=found.n)


def _clopper_pearson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the exact binomial interval, extended to fractions by the beta distribution."""
    tail, hits = (1 - confidence) / 2, share * n
    low = 0.0 if hits <= 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits >= n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def kendall_w(scores: Array) -> tuple[float, float]:
    """Return Kendall's W of rankings (judges, items), and the p-value of the agreement.

    W is 1 if all judges give the same ranking, about 1 / judges on average if their rankings are
    independent, and 0 if the rank sums of all items are equal. Tied items share their mean rank,
    and W is corrected for ties; it is 0 if all items are tied. The p-value is Friedman's test; for
    two judges, where its approximation is poor, it comes from 2,000 seeded permutations.
    """
    ranks = _mean_ranks(scores)
    judges, items = ranks.shape
    # The largest possible sum of squares of rankings with these ties.
    most = judges**2 * items * (items**2 - 1) / 12 - judges * _tied(ranks) / 12
    if most <= 0:
        return 0.0, 1.0

    def agreement(ranked: Array) -> Array:
        sums = ranked.sum(-2)
        squares: Array = np.square(sums - sums.mean(-1, keepdims=True)).sum(-1) / most
        return squares

    w = float(agreement(ranks))
    if judges > 2:
        return w, float(special.chdtrc(items - 1, judges * (items - 1) * w))
    generator, draws = np.random.default_rng(0), 2000
    drawn = agreement(generator.permuted(np.tile(ranks, (draws, 1, 1)), axis=-1))
    return w, float((1 + (drawn >= w - 1e-12).sum()) / (1 + draws))


def _mean_ranks(scores: Array) -> Array:
    """Return ranks from 1 within each row; tied values share their mean rank."""
    own, others = scores[:, :, None], scores[:, None, :]
    return (own > others).sum(-1) + ((own == others).sum(-1) + 1) / 2  # type: ignore[no-any-return]  # numpy's sum of booleans


def _tied(ranks: Array) -> float:
    """Return the sum of t^3 - t over all groups of t tied items."""
    counts = [np.unique(row, return_counts=True)[1].astype(float) for row in ranks]
    return float(sum((t**3 - t).sum() for t in counts))
