"""The verdict: by hand, against scipy, and in what must hold for any figures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerticket.errors import LayerticketError
from layerticket.verdict.judge import sentence, verdict

FRACTIONS = st.lists(
    st.tuples(st.floats(0.3, 0.6), st.floats(0.3, 0.6)), min_size=2, max_size=6
)  # fmt: skip


def test_by_hand():
    # Differences -1, 0, 1 pp: mean 0, s = 1 pp, t(0.975, 2) = 4.302653,
    # half width 4.302653 / sqrt(3) = 2.484138 pp.
    found = verdict([0.90, 0.90, 0.90], [0.89, 0.90, 0.91])
    assert found.n == 3
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert found.std == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((-0.02484138, 0.02484138))
    assert found.outcome == "undecided"
    # One deviation from the margin: a one-sample t-test needs 10 for 80 % power (any table).
    assert found.seeds_needed == 10


@pytest.mark.parametrize(
    ("ticket", "outcome"),
    [
        ([0.900, 0.901, 0.902], "wins"),
        ([0.895, 0.896, 0.897], "wins"),  # a little worse, but surely within the margin
        ([0.870, 0.871, 0.872], "loses"),
        ([0.890, 0.889, 0.891], "undecided"),
        ([0.890, 0.890, 0.890], "undecided"),  # exactly the margin, no spread
    ],
)
def test_outcomes(ticket, outcome):
    found = verdict([0.9, 0.9, 0.9], ticket)
    assert found.outcome == outcome
    assert outcome == "undecided" or found.seeds_needed is None


def test_one_seed_decides_nothing():
    found = verdict([0.1], [0.9])
    assert (found.outcome, found.std, found.low, found.high) == ("undecided", None, None, None)
    assert found.seeds_needed is None
    assert "one seed decides nothing" in sentence(found)


@given(FRACTIONS, st.floats(0.5, 0.999))
def test_interval_is_scipys(pairs, confidence):
    dense, ticket = zip(*pairs, strict=True)
    found = verdict(dense, ticket, confidence=confidence)
    if found.std < 1e-6:
        return  # scipy loses its precision where all differences are all but equal
    theirs = stats.ttest_1samp(found.differences, 0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=1e-9)


def test_equal_differences_prove_no_more_than_the_test_set_can_tell():
    dense, ticket = [0.90, 0.91, 0.92], [0.895, 0.905, 0.915]
    sharp, honest = (verdict(dense, ticket, resolution=r) for r in (0.0, 1 / 100))
    assert sharp.high - sharp.low < 1e-12
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(6) / math.sqrt(3)
    assert honest.high - honest.mean == pytest.approx(half)
    assert (sharp.outcome, honest.outcome) == ("wins", "undecided")
    assert honest.std == sharp.std


@given(FRACTIONS, st.floats(0, 0.3))
def test_a_better_ticket_never_does_worse(pairs, lift):
    order = {"loses": 0, "undecided": 1, "wins": 2}
    dense, ticket = zip(*pairs, strict=True)
    resolution = 1e-4  # keeps rounding errors of the sums out of the comparison
    before = verdict(dense, ticket, resolution=resolution).outcome
    after = verdict(dense, [value + lift for value in ticket], resolution=resolution)
    assert order[after.outcome] >= order[before] or abs(lift) < 1e-9


@given(FRACTIONS, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_wider_margin_never_turns_a_win(pairs, one, two):
    dense, ticket = zip(*pairs, strict=True)
    narrow, wide = (verdict(dense, ticket, margin=m) for m in sorted((one, two)))
    assert narrow.outcome != "wins" or wide.outcome == "wins"
    assert wide.outcome != "loses" or narrow.outcome == "loses"


@given(FRACTIONS, st.randoms())
def test_order_of_seeds_does_not_matter(pairs, random):
    found = verdict(*zip(*pairs, strict=True), resolution=1e-4)
    random.shuffle(pairs)
    again = verdict(*zip(*pairs, strict=True), resolution=1e-4)
    assert (found.mean, found.low) == pytest.approx((again.mean, again.low), abs=1e-12)


@given(FRACTIONS)
def test_the_estimate_is_the_first_number_of_seeds_with_enough_power(pairs):
    found = verdict(*zip(*pairs, strict=True), resolution=1e-3)
    if found.seeds_needed is None:
        return
    assert found.seeds_needed > found.n
    spread, gap = max(found.std, 1e-3 / math.sqrt(6)), abs(found.mean + found.margin)

    def power(n):
        shift = gap * math.sqrt(n) / spread
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift)

    assert power(found.seeds_needed) >= 0.8
    assert found.seeds_needed == found.n + 1 or power(found.seeds_needed - 1) < 0.8


def test_a_mean_on_the_margin_has_no_estimate():
    assert verdict([0.5, 0.5], [0.25, 0.75], margin=0).seeds_needed is None


@pytest.mark.parametrize(
    ("dense", "ticket", "options"),
    [
        ([], [], {}),
        ([0.9], [0.9, 0.8], {}),
        ([90.0], [91.0], {}),
        ([-0.1], [0.5], {}),
        ([float("nan")], [0.5], {}),
        ([0.5], [float("inf")], {}),
        ([0.5], [0.5], {"margin": -0.01}),
        ([0.5], [0.5], {"margin": 1}),
        ([0.5], [0.5], {"confidence": 95}),
        ([0.5], [0.5], {"resolution": -1}),
    ],
)
def test_refuses_what_no_verdict_can_rest_on(dense, ticket, options):
    with pytest.raises(LayerticketError):
        verdict(dense, ticket, **options)


@pytest.mark.parametrize(
    ("ticket", "said"),
    [
        ([0.900, 0.901, 0.902], "The ticket wins: over 3 paired seeds it differs by +0.10 pp"),
        ([0.870, 0.871, 0.872], "so it is more than 1 pp worse."),
        ([0.890, 0.900, 0.910], "about 10 seeds in all would decide with 80 % power."),
    ],
)
def test_says_it_in_percentage_points(ticket, said):
    assert said in sentence(verdict([0.9, 0.9, 0.9], ticket))
