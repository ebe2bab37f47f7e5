import math

import numpy as np
import pytest
from scipy import integrate, stats

from layerticket.errors import LayerticketError
from layerticket.verdict.judge import verdict
from layerticket.verdict.statistics import (
    bootstrap_interval,
    minimum_detectable,
    p_margin,
    ratio_interval,
)

DIFFERENCES = [0.004, -0.002, 0.001, -0.006, 0.003, -0.001]


def test_bootstrap_needs_five_seeds_and_some_spread():
    assert bootstrap_interval(DIFFERENCES[:4]) is None
    assert bootstrap_interval([0.01] * 6) is None


def test_bootstrap_repeats_itself_and_brackets_the_mean():
    low, high = bootstrap_interval(DIFFERENCES)
    assert (low, high) == bootstrap_interval(DIFFERENCES)
    assert low < np.mean(DIFFERENCES) < high
    narrow = bootstrap_interval(DIFFERENCES, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_agrees_with_the_percentile_bootstrap_of_symmetric_figures():
    # Without skew BCa is the plain percentile interval; drawn here by hand.
    values = np.array([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    draws = np.random.default_rng(5).choice(values, (200_000, 7)).mean(axis=1)
    expected = np.quantile(draws, [0.025, 0.975])
    assert bootstrap_interval(values.tolist()) == pytest.approx(expected, abs=0.08)


def test_p_of_the_margin_is_the_one_sided_paired_t_test():
    mean, spread = np.mean(DIFFERENCES), np.std(DIFFERENCES, ddof=1)
    expected = stats.ttest_1samp(DIFFERENCES, -0.003, alternative="greater").pvalue
    assert p_margin(mean, spread, 6, 0.003) == pytest.approx(expected, rel=1e-12)
    # By hand: differences 0 and 2, margin 1 -> t = (1 + 1) / (sqrt 2 / sqrt 2) = 2 with one
    # degree of freedom, where Student's t is Cauchy's: p = 1/2 - arctan(2) / pi.
    assert p_margin(1.0, math.sqrt(2), 2, 1.0) == pytest.approx(0.5 - math.atan(2) / math.pi)


def test_p_without_spread_or_with_one_seed():
    assert p_margin(0.0, None, 1, 0.01) is None
    assert p_margin(0.0, 0.0, 3, 0.01) == 0.0
    assert p_margin(-0.01, 0.0, 3, 0.01) == 1.0


@pytest.mark.parametrize("margin", [0.0, 0.001, 0.004, 0.01])
def test_p_and_interval_never_disagree(margin):
    judged = verdict([0.9] * 6, [0.9 + d for d in DIFFERENCES], margin=margin)
    p = p_margin(judged.mean, judged.spread, judged.n, margin)
    assert (p < 0.025) == (judged.outcome == "wins")


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_minimum_detectable_has_eighty_percent_power(n):
    # Power by hand: the mean is normal, the deviation chi-square with n - 1 degrees of freedom.
    distance = minimum_detectable(0.003, n)
    shift, critical = distance * math.sqrt(n) / 0.003, stats.t.ppf(0.975, n - 1)

    def rejects(v):
        return stats.norm.cdf(shift - critical * math.sqrt(v / (n - 1))) * stats.chi2.pdf(v, n - 1)

    power, _ = integrate.quad(rejects, 0, np.inf, limit=200)
    assert power == pytest.approx(0.8, abs=1e-4)


def test_minimum_detectable_of_textbook_size():
    # One-sample t-test, two-sided 5 %, 80 % power: 34 pairs find half a deviation
    # (the count every power table gives), 33 do not.
    assert minimum_detectable(1.0, 34) < 0.5 < minimum_detectable(1.0, 33)
    assert minimum_detectable(None, 1) is None


def test_ratio_by_hand():
    # Ratios 4 and 1: geometric mean 2; logs have deviation ln 4 / sqrt 2, t(1) = 12.706.
    mean, low, high = ratio_interval([4.0, 1.0], [1.0, 1.0])
    half = 12.7062047362 * math.log(4) / math.sqrt(2) / math.sqrt(2)
    assert mean == pytest.approx(2)
    assert (low, high) == pytest.approx((2 * math.exp(-half), 2 * math.exp(half)))


def test_a_ratio_reads_the_same_both_ways():
    mean, low, high = ratio_interval([3.0, 2.0, 2.5], [1.0, 1.1, 0.9])
    back = ratio_interval([1.0, 1.1, 0.9], [3.0, 2.0, 2.5])
    assert back == pytest.approx((1 / mean, 1 / high, 1 / low))


@pytest.mark.parametrize(("dense", "ticket"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_ratios_of_nothing_are_refused(dense, ticket):
    with pytest.raises(LayerticketError, match="positive"):
        ratio_interval(dense, ticket)
