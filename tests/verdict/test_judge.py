"""The verdict: by hand, against scipy, and in what must hold for any figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerticket.errors import LayerticketError
from layerticket.verdict.judge import judge

FRACTIONS = st.lists(
    st.tuples(st.floats(0.3, 0.6), st.floats(0.3, 0.6)), min_size=2, max_size=6
)  # fmt: skip


def test_by_hand():
    # Differences -1, 0, 1 pp: mean 0, s = 1 pp, t(0.975, 2) = 4.302653,
    # half width 4.302653 / sqrt(3) = 2.484138 pp.
    found = judge([0.90, 0.90, 0.90], [0.89, 0.90, 0.91])
    assert found.difference.n == 3
    assert found.difference.mean == pytest.approx(0, abs=1e-12)
    assert found.difference.std == pytest.approx(0.01)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.02484138, 0.02484138))
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
    found = judge([0.9, 0.9, 0.9], ticket)
    assert found.outcome == outcome
    assert outcome == "undecided" or found.seeds_needed is None


def test_one_seed_decides_nothing():
    found = judge([0.1], [0.9])
    assert (found.outcome, found.difference.std, found.difference.low, found.difference.high) == (
        "undecided",
        None,
        None,
        None,
    )
    assert found.seeds_needed is None
    assert "one seed decides nothing" in found.sentence


@given(FRACTIONS, st.floats(0.5, 0.999))
def test_interval_is_scipys(pairs, confidence):
    dense, ticket = zip(*pairs, strict=True)
    found = judge(dense, ticket, confidence=confidence)
    if found.difference.std < 1e-6:
        return  # scipy loses its precision where all differences are all but equal
    theirs = stats.ttest_1samp(found.differences, 0).confidence_interval(confidence)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(theirs), abs=1e-9)


def test_equal_differences_prove_no_more_than_the_test_set_can_tell():
    dense, ticket = [0.90, 0.91, 0.92], [0.895, 0.905, 0.915]
    sharp, honest = (judge(dense, ticket, resolution=r) for r in (0.0, 1 / 100))
    assert sharp.difference.high - sharp.difference.low < 1e-12
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(6) / math.sqrt(3)
    assert honest.difference.high - honest.difference.mean == pytest.approx(half)
    assert (sharp.outcome, honest.outcome) == ("wins", "undecided")
    assert honest.difference.std == sharp.difference.std


@given(FRACTIONS, st.floats(0, 0.3))
def test_a_better_ticket_never_does_worse(pairs, lift):
    order = {"loses": 0, "undecided": 1, "wins": 2}
    dense, ticket = zip(*pairs, strict=True)
    resolution = 1e-4  # keeps rounding errors of the sums out of the comparison
    before = judge(dense, ticket, resolution=resolution).outcome
    after = judge(dense, [value + lift for value in ticket], resolution=resolution)
    assert order[after.outcome] >= order[before] or abs(lift) < 1e-9


@given(FRACTIONS, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_wider_margin_never_turns_a_win(pairs, one, two):
    dense, ticket = zip(*pairs, strict=True)
    narrow, wide = (judge(dense, ticket, margin=m) for m in sorted((one, two)))
    assert narrow.outcome != "wins" or wide.outcome == "wins"
    assert wide.outcome != "loses" or narrow.outcome == "loses"


@given(FRACTIONS, st.randoms())
def test_order_of_seeds_does_not_matter(pairs, random):
    found = judge(*zip(*pairs, strict=True), resolution=1e-4)
    random.shuffle(pairs)
    again = judge(*zip(*pairs, strict=True), resolution=1e-4)
    assert (found.difference.mean, found.difference.low) == pytest.approx(
        (again.difference.mean, again.difference.low), abs=1e-12
    )


@given(FRACTIONS)
def test_the_estimate_is_the_first_number_of_seeds_with_enough_power(pairs):
    found = judge(*zip(*pairs, strict=True), resolution=1e-3)
    if found.seeds_needed is None:
        return
    assert found.seeds_needed > found.difference.n
    spread, gap = found.spread, abs(found.difference.mean + found.margin)
    assert spread == max(found.difference.std, 1e-3 / math.sqrt(6))

    def power(n):
        shift = gap * math.sqrt(n) / spread
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift)

    assert power(found.seeds_needed) >= 0.8 - 1e-5
    assert (
        found.seeds_needed == found.difference.n + 1 or power(found.seeds_needed - 1) < 0.8 + 1e-5
    )


def test_a_mean_on_the_margin_has_no_estimate():
    assert judge([0.5, 0.5], [0.25, 0.75], margin=0).seeds_needed is None


def test_two_seeds_that_win_are_flagged():
    found = judge([0.90, 0.91], [0.905, 0.9151])
    assert found.outcome == "wins"
    assert "two seeds is weak" in found.caution
    assert found.caution in found.sentence
    assert judge([0.90, 0.91, 0.92], [0.905, 0.915, 0.9251]).caution is None


# Other figures than accuracies.


def test_lower_can_be_better_and_the_margin_has_the_unit_of_the_figures():
    dense, ticket = {3: 2.31, 1: 2.35, 2: 2.33}, {1: 2.40, 2: 2.37, 3: 2.36}
    lower = judge(dense, ticket, margin=0.2, lower_is_better=True, unit="nats")
    higher = judge(dense, ticket, margin=0.2, unit="nats")
    assert lower.differences == pytest.approx((0.05, 0.04, 0.05))  # by seed, not by place
    assert lower.outcome == higher.outcome == "wins"
    assert lower.p_value > higher.p_value
    strict = judge(dense, ticket, margin=0.01, lower_is_better=True, unit="nats")
    assert strict.outcome == "loses"
    assert "+0.04667 nats (95 % interval" in strict.sentence
    assert "more than 0.01 nats worse (one-sided 2.5 %, non-inferiority at 0.01 nats)" in (
        strict.sentence
    )
    assert "test images" not in strict.sentence
    unclear = judge(dense, ticket, margin=0.05, lower_is_better=True, unit="nats")
    assert "; the interval contains +0.05 nats, the margin (" in unclear.sentence


def test_a_loss_is_the_mirror_image_of_a_gain():
    dense, ticket = [0.5, 0.52, 0.51, 0.55], [0.48, 0.53, 0.50, 0.55]
    up = judge(dense, ticket, margin=0.02, unit="u")
    down = judge(
        [-d for d in dense], [-t for t in ticket], margin=0.02, unit="u", lower_is_better=True
    )
    assert (up.outcome, up.p_value, up.seeds_needed) == (
        down.outcome, down.p_value, down.seeds_needed,
    )  # fmt: skip
    assert up.difference.low == pytest.approx(-down.difference.high)


# Single images.


def answers(seed, right, images=40):
    order = np.random.default_rng(seed).permutation(images)
    return [int(order[image] < right) for image in range(images)]


def test_answers_on_single_images_widen_the_interval():
    # The ticket is always wrong on images 0 and 1, dense on image 2: a difference of -1/40 that no
    # further seed changes.
    dense = [[1, 1, 0] + [1] * 37] * 4
    ticket = [[0, 0, 1] + [1] * 37] * 4
    figures = [39 / 40] * 4, [38 / 40] * 4
    alone = judge(*figures, margin=0.05, resolution=1 / 40)
    both = judge(*figures, margin=0.05, resolution=1 / 40, correct=(dense, ticket))
    assert (alone.outcome, both.outcome) == ("wins", "undecided")
    assert (alone.difference.over, both.difference.over) == ("seeds", "seeds and images")
    assert both.difference.seeds_low == alone.difference.low > both.difference.low
    # MS_image = S var of (-1, -1, 1, 0, ...) with variance (3 - 1/40) / 39, no rest.
    error = math.sqrt((3 - 1 / 40) / 39 / 40)
    seeds = stats.t.ppf(0.975, 3) / 40 / math.sqrt(6) / 2
    half = math.hypot(seeds, stats.norm.ppf(0.975) * error)
    assert both.difference.high == pytest.approx(-1 / 40 + half)
    assert (both.seeds_needed, both.difference.images) == (None, 40)
    assert "only more test images would decide" in both.sentence
    assert "over 4 paired seeds and 40 test images" in both.sentence
    assert "on these test images" in alone.sentence


def test_seeds_may_be_named_with_answers_too():
    right = {7: answers(1, 30), 9: answers(2, 32)}
    figures = {9: 0.8, 7: 0.75}
    found = judge(figures, figures, correct=(right, right))
    assert found.differences == (0.0, 0.0)
    assert found.difference.images == 40


def test_a_notebook_shows_the_outcome_first_and_safely():
    lost = judge([1.0, 2.0], [1.0, 2.1], margin=9.0, unit="loss (nats)")
    assert " loss (nats) (95 % interval " in lost.sentence
    assert lost.sentence.count("95 % interval") == 1
    found = judge([1.0, 2.0], [1.0, 2.1], margin=9.0, unit="<b>")
    assert found._repr_html_().startswith("<b>Wins</b> <svg")
    assert "&lt;b&gt;" in found._repr_html_()
    assert str(found) == found.sentence


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
        ([0.5], [0.5], {"margin": float("nan")}),
        ([0.5], [0.5], {"unit": "nats"}),
        ([True], [0.5], {}),
        (["0.5"], [0.5], {}),
        ({0: 0.5, 1: 0.5}, {0: 0.5, 2: 0.5}, {}),
        ([0.5], [0.5], {"correct": ([[1, 0]], [[1, 1]])}),
        ([0.5], [0.5], {"correct": ([[1, 0]], [[1, 1, 0, 0]])}),
        ([0.5], [0.5], {"correct": ([[1, 0]] * 2, [[1, 0]] * 2)}),
        ([0.5], [0.5], {"confidence": 95}),
        ([0.5], [0.5], {"resolution": -1}),
    ],
)
def test_refuses_what_no_verdict_can_rest_on(dense, ticket, options):
    with pytest.raises(LayerticketError):
        judge(dense, ticket, **options)


@pytest.mark.parametrize(
    ("dense", "options", "said"),
    [
        ([float("nan")], {}, "a result is NaN: the run failed"),
        ([0.5], {"margin": 0.5}, "0.005 is half a percentage point"),
        ([0.5], {"unit": "nats"}, "Give how much worse the ticket may be, in nats"),
        ([50.0], {}, "not percent"),
        ({3: 0.5}, {}, r"\(seeds 0 and 3 have no partner\)"),
    ],
)
def test_a_refusal_says_what_to_do(dense, options, said):
    with pytest.raises(LayerticketError, match=said):
        judge(dense, [0.5], **options)


@pytest.mark.parametrize(
    ("ticket", "said"),
    [
        ([0.900, 0.901, 0.902], "The ticket wins: over 3 paired seeds it differs by +0.10 pp"),
        ([0.870, 0.871, 0.872], "so it is more than 1 pp worse (one-sided 2.5 %, non-inf"),
        (
            [0.890, 0.900, 0.910],
            "a new study of 10 seeds, fixed in advance, would decide with",
        ),
        ([0.890, 0.900, 0.910], "; the interval contains -1 pp, the margin (one-sided 2.5 %, "),
    ],
)
def test_says_it_in_percentage_points(ticket, said):
    assert said in judge([0.9, 0.9, 0.9], ticket).sentence


def test_answers_that_are_no_numbers_are_refused():
    with pytest.raises(LayerticketError, match="answers of seed 0 are not numbers"):
        judge([0.5, 0.5], [0.5, 0.5], correct=(["ff00", "ff00"], ["ff00", "ff00"]))


def test_a_sentence_keeps_to_what_is_possible():
    found = judge([0.9, 0.1], [0.1, 0.9])
    assert found.difference.low < -1
    assert found.difference.high > 1
    assert "(95 % interval -100.00 to +100.00 pp" in found.sentence
