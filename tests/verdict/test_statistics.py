import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from layerticket.verdict.statistics import (
    Estimate,
    estimate,
    holm,
    images_for,
    kendall_w,
    minimum_detectable,
    outcome_after,
    outcome_of,
    p_value,
    percentile,
    power_of,
    ratio_interval,
    seeds_for,
)

DIFFERENCES = [0.004, -0.002, 0.001, -0.006, 0.003, -0.001]
P = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@given(P)
def test_holm_lies_between_the_value_and_bonferroni(values):
    for p, adjusted in zip(values, holm(values), strict=True):
        assert p <= adjusted <= min(1, p * len(values)) or adjusted == pytest.approx(p)
    assert [a for _, a in sorted(zip(values, holm(values), strict=True))] == sorted(holm(values))


def test_outcome_after_shares_the_error_between_directions():
    assert outcome_after(0.0249, 0.9751, 0.95) == "wins"
    assert outcome_after(0.0251, 0.9749, 0.95) == "undecided"
    assert outcome_after(1.0, 0.001, 0.95) == "loses"
    assert outcome_after(None, None, 0.95) == "undecided"


def test_percentile_counts_ties_half_and_averages_seeds():
    found = percentile([0.9, 0.8], [[0.8, 0.9, 0.95, 0.7], [0.7, 0.7]])
    assert found.share == pytest.approx((2.5 / 4 + 1) / 2)
    assert (found.tickets, found.seeds) == (6, 2)


def test_one_seed_has_no_interval_however_many_were_drawn():
    found = percentile([0.9], [[0.1] * 20])
    assert (found.share, found.low, found.high) == (1.0, None, None)


def test_seeds_that_agree_count_as_one_ticket_each():
    found = percentile([0.5] * 4, [[0.1] * 4 + [0.9] * 4] * 4)
    exact = stats.binomtest(2, 4).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    edge = percentile([0.9] * 3, [[0.1] * 5] * 3)
    exact = stats.binomtest(3, 3).proportion_ci(0.95, method="exact")
    assert (edge.low, edge.high) == pytest.approx((exact.low, 1.0))


def test_the_interval_is_exact_for_the_effective_number_of_tickets():
    # Shares 1/4, 2/4 and 3/4: p (1 - p) / se^2 = 0.25 / (1/16 / 3) = 12 independent tickets.
    found = percentile([0.5] * 3, [[0.1] * k + [0.9] * (4 - k) for k in (1, 2, 3)])
    count = 12 * (stats.t.ppf(0.975, 11) / stats.t.ppf(0.975, 2)) ** 2
    low = stats.beta.ppf(0.025, count / 2, count / 2 + 1)
    assert (found.low, found.high) == pytest.approx((low, 1 - low))
    # Seeds that differ by less than chance: not more than all tickets.
    even = percentile([0.5] * 3, [[0.1] * k + [0.9] * (30 - k) for k in (15, 15, 16)])
    exact = stats.beta.ppf(0.025, 46, 45)
    assert even.low == pytest.approx(exact)


def test_seeds_that_disagree_widen_the_interval():
    alike = percentile([0.5] * 4, [[0.4] * 5 + [0.6] * 5] * 4)
    apart = percentile([0.5] * 4, [[0.4] * 10, [0.6] * 10] * 2)
    assert alike.share == apart.share == 0.5
    assert apart.low < alike.low
    assert alike.high < apart.high


# One comparison.


def test_p_of_the_margin_is_the_one_sided_paired_t_test():
    expected = stats.ttest_1samp(DIFFERENCES, -0.003, alternative="greater").pvalue
    assert p_value(estimate(DIFFERENCES), 0.003) == pytest.approx(expected, rel=1e-12)
    # By hand: differences 0 and 2, margin 1 -> t = (1 + 1) / (sqrt 2 / sqrt 2) = 2 with one
    # degree of freedom, where Student's t is Cauchy's: p = 1/2 - arctan(2) / pi.
    assert p_value(estimate([0.0, 2.0]), 1.0) == pytest.approx(0.5 - math.atan(2) / math.pi)


def test_p_without_spread_or_with_one_seed():
    assert p_value(estimate([0.0]), 0.01) is None
    assert p_value(estimate([0.0] * 3), 0.01) == 0.0
    assert p_value(estimate([-0.02] * 3), 0.01) == 1.0
    assert p_value(estimate([-0.01] * 3), 0.01) == 0.5  # exactly the margin decides nothing


def test_the_two_way_table_by_hand():
    # Rows are seeds: (1, 0, -1) and (1, 0, 0). Means of images 1, 0, -1/2, of seeds 0 and 1/3,
    # of all 1/6. MS_image = 2 (25 + 1 + 16) / 36 / 2 = 7/6. All squares 17/6, of images 7/3, of
    # seeds 3 (1 + 1) / 36 = 1/6, the rest 1/3, MS_rest = 1/3 / 2 = 1/6.
    # se_image^2 = (7/6 - 1/6) / (2 * 3) = 1/6.
    found = estimate([0.0, 1 / 3], table=np.array([[1.0, 0, -1], [1, 0, 0]]))
    assert found.image_error**2 == pytest.approx(1 / 6)
    assert (found.n, found.images, found.mean) == (2, 3, pytest.approx(1 / 6))
    t, z = stats.t.ppf(0.975, 1), stats.norm.ppf(0.975)
    half = math.sqrt((t * stats.sem([0, 1 / 3])) ** 2 + z**2 / 6)
    assert found.interval(0.95) == pytest.approx((1 / 6 - half, 1 / 6 + half))
    half = t * stats.sem([0, 1 / 3])
    assert found.interval(0.95, seeds_only=True) == pytest.approx((1 / 6 - half, 1 / 6 + half))


def test_images_that_answer_at_random_add_nothing():
    # The rest is larger than what images share: the variance of images is 0, never below.
    found = estimate([0.0, 0.0], table=np.array([[1.0, -1], [-1, 1]]))
    assert found.image_error == 0
    assert found.images == 2


def test_seeds_that_agree_by_luck_keep_the_error_of_single_images():
    # Both accuracies are 0 although every answer differs: MS_rest = 4, so by chance on single
    # images the deviation over seeds is sqrt(4 / 2), and the error of the mean 1.
    found = estimate([0.0, 0.0], table=np.array([[1.0, -1], [-1, 1]]))
    assert (found.spread, found.chance_error) == (0.0, pytest.approx(1.0))
    z = stats.norm.ppf(0.975)
    assert found.interval(0.95) == pytest.approx((-z, z))
    assert p_value(found, 1.0) == pytest.approx(stats.norm.sf(1.0))
    assert minimum_detectable(found, 0.95) == pytest.approx(z)


ESTIMATES = st.builds(
    lambda mean, spread, n, image_error, chance: Estimate(
        mean=mean, n=n, std=spread, spread=spread, images=100, image_error=image_error,
        chance=chance,
    ),
    st.floats(-0.05, 0.05),
    st.floats(0, 0.02).map(lambda value: round(value, 6)),
    st.integers(2, 30),
    st.floats(0, 0.01).map(lambda value: round(value, 6)),
    st.floats(0, 0.02).map(lambda value: round(value, 6)),
)  # fmt: skip


@given(ESTIMATES, st.floats(0, 0.03), st.floats(0.5, 0.99))
def test_p_and_interval_never_disagree(found, margin, confidence):
    outcome, p, tail = outcome_of(found, margin, confidence), p_value(found, margin), 1 - confidence
    if abs(p - tail / 2) > 1e-9 and abs(1 - p - tail / 2) > 1e-9:
        assert outcome == ("wins" if p < tail / 2 else "loses" if 1 - p < tail / 2 else "undecided")
    mirrored = p_value(replace(found, mean=-found.mean - 2 * margin), margin)
    if abs(found.mean + margin) > 1e-12:
        assert mirrored == pytest.approx(1 - p)


@given(ESTIMATES, st.floats(0, 0.01))
def test_more_variance_between_images_never_helps(found, more):
    wider = replace(found, image_error=found.image_error + more)
    assert p_value(wider, 0.06) >= p_value(found, 0.06) - 1e-12
    assert minimum_detectable(wider, 0.95) >= minimum_detectable(found, 0.95) - 1e-9


# Power.


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_minimum_detectable_has_eighty_percent_power(n):
    # Power by hand: the mean is normal, the deviation chi-square with n - 1 degrees of freedom.
    found = Estimate(mean=0.0, n=n, std=0.003, spread=0.003)
    shift = minimum_detectable(found, 0.95) * math.sqrt(n) / 0.003
    critical = stats.t.ppf(0.975, n - 1)

    def rejects(v):
        return stats.norm.cdf(shift - critical * math.sqrt(v / (n - 1))) * stats.chi2.pdf(v, n - 1)

    power, _ = integrate.quad(rejects, 0, np.inf, limit=200)
    assert power == pytest.approx(0.8, abs=1e-4)
    assert power_of(0.004, 0.003, n, 0.95) == pytest.approx(
        stats.nct.sf(critical, n - 1, 0.004 * math.sqrt(n) / 0.003), abs=1e-5
    )


@pytest.mark.parametrize("chance", [0.0, 0.01])
def test_power_with_images_agrees_with_a_simulation(chance):
    n, spread, image_error, gap, draws = 4, 0.004, 0.003, 0.01, 200_000
    generator = np.random.default_rng(3)
    means = gap + generator.normal(0, math.hypot(spread / math.sqrt(n), image_error), draws)
    errors = spread * np.sqrt(generator.chisquare(n - 1, draws) / (n - 1) / n)
    z = stats.norm.ppf(0.975)
    of_seeds = np.maximum(stats.t.ppf(0.975, n - 1) * errors, z * chance / math.sqrt(n))
    half = np.hypot(of_seeds, z * image_error)
    power = power_of(gap, spread, n, 0.95, image_error, chance)
    assert power == pytest.approx(float((means > half).mean()), abs=0.005)
    found = Estimate(
        mean=0.0, n=n, std=spread, spread=spread, images=9, image_error=image_error, chance=chance
    )
    distance = minimum_detectable(found, 0.95)
    assert power_of(distance, spread, n, 0.95, image_error, chance) == pytest.approx(0.8)


def test_minimum_detectable_of_textbook_size():
    # One-sample t-test, two-sided 5 %, 80 % power: 34 pairs find half a deviation
    # (the count every power table gives), 33 do not.
    fewer, enough = (Estimate(mean=0.0, n=n, std=1.0, spread=1.0) for n in (33, 34))
    assert minimum_detectable(enough, 0.95) < 0.5 < minimum_detectable(fewer, 0.95)
    assert minimum_detectable(estimate([0.5]), 0.95) is None


def test_where_only_more_images_decide_it_says_how_many():
    # Without any variance over seeds, 80 % power needs a gap of (1.96 + 0.84) errors of images.
    gap, error = 0.01, 0.005
    found = Estimate(mean=-gap, n=5, std=0.002, spread=0.002, images=400, image_error=error)
    assert seeds_for(found, 0.0, 0.95) is None
    images = images_for(found, 0.0, 0.95)
    assert images == math.ceil(400 * (2.8016 * error / gap) ** 2) + 1
    enough = replace(found, images=images, image_error=error * math.sqrt(400 / images))
    assert images_for(enough, 0.0, 0.95) is None
    assert power_of(gap, 0.002, 10_000_000, 0.95, enough.image_error) >= 0.8


@given(ESTIMATES)
def test_the_number_of_seeds_is_the_first_with_enough_power(found):
    needed = seeds_for(found, 0.01, 0.95)
    if needed is None:
        return
    gap = abs(found.mean + 0.01)

    def power(n):
        return power_of(gap, found.spread, n, 0.95, found.image_error, found.chance)

    assert needed > found.n
    assert power(needed) >= 0.8
    assert needed == found.n + 1 or power(needed - 1) < 0.8
    assert images_for(found, 0.01, 0.95) is None


# Ratios and ranks.


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


def test_kendalls_w_is_friedmans_statistic_with_ties():
    scores = np.random.default_rng(0).integers(0, 4, (5, 9)).astype(float)
    w, p = kendall_w(scores)
    theirs = stats.friedmanchisquare(*scores.T)
    assert w == pytest.approx(theirs.statistic / (5 * 8))
    assert p == pytest.approx(theirs.pvalue)


def test_kendalls_w_of_two_rankings_by_hand():
    assert kendall_w(np.array([[1.0, 2, 3], [3, 2, 1]]))[0] == 0
    assert kendall_w(np.array([[1.0, 2, 3], [4, 5, 6]]))[0] == 1
    # Ranks (1.5, 1.5, 3) and (3, 1.5, 1.5): sums 4.5, 3, 4.5, squares about their mean 4: 1.5.
    # At most 4 * 3 * 8 / 12 - 2 (6 + 6) / 12 = 6 with these ties: W = 1/4.
    assert kendall_w(np.array([[0.0, 0, 1], [1, 0, 0]]))[0] == pytest.approx(0.25)
    assert kendall_w(np.ones((2, 4))) == (0.0, 1.0)
