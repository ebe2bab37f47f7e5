"""Figures and sentences: one spelling each, and nothing that was not measured is shown as 0."""

import pytest

from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison
from layerticket.verdict.statistics import Difference


@pytest.mark.parametrize(
    "write",
    [
        words.accuracy, words.difference, words.share, words.saving, words.duration, words.energy,
        words.carbon, words.memory, words.count, words.millions,
    ],
)  # fmt: skip
def test_what_was_not_measured_says_so(write):
    assert write(None) == "not measured"
    assert write(0.0) != "not measured"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.accuracy(0.91234), "91.23 %"),
        (words.mean_sd({"mean": 0.9, "std": None}), "90.00 %"),
        (words.difference(-0.0123), "-1.23 pp"),
        (words.points(0.005), "0.5 pp"),
        (words.saving(0.34), "34.0 % less"),
        (words.saving(-0.02), "2.0 % more"),
        (words.saving(0.0001), "none saved"),
        (words.speedup({"mean": 1.5, "low": None, "high": None}), "1.50×"),
        (words.speedup({"mean": 1.5, "low": 1.25, "high": 2}), "1.50× (1.25 to 2.00)"),
        (words.duration(0.123), "0.12 s"),
        (words.duration(90), "90.0 s"),
        (words.duration(600), "10.0 min"),
        (words.duration(9000), "2.5 h"),
        (words.energy(0.0123), "12.3 Wh"),
        (words.energy(2.0), "2 kWh"),
        (words.electricity(None, None), ""),
        (words.electricity(0.002, 0.001), ", 2 Wh, 1 g CO2e"),
        (words.memory(2**30), "1,024 MiB"),
        (words.count(1234567), "1,234,567"),
        (words.counted(1, "seed"), "1 seed"),
        (words.counted(0, "seed"), "0 seeds"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b"]), "a and b"),
        (words.failed_text([1, 2, 3]), "seeds 1, 2 and 3 failed"),
    ],
)
def test_figures_with_their_units(text, expected):
    assert text == expected


def ticket(method, outcome="undecided", n=5, images=None, **more):
    found = Difference(mean=-0.002, std=0.01, low=-0.012, high=0.008, n=n, images=images)
    more = {"n": n, "seeds": tuple(range(n)), "difference": found, "comparisons": 2} | more
    return Comparison(
        model="net", budget="remove 1", method=method, kind="ticket", role="criterion",
        reference=None, outcome=outcome, outcome_adjusted=outcome, **more,
    )  # fmt: skip


def said(*tickets):
    return words.study_verdict(tickets, 0.01, 0.95)


def test_an_open_verdict_names_the_seeds_or_the_images_that_would_decide():
    assert " A new study of 12 seeds, fixed in advance, would decide with 80 % power" in said(
        ticket("grasp", seeds_needed=12)
    )
    only = said(ticket("grasp", images_needed=1234, images=359))
    assert " Only more test images would decide (at least about 1,234), not more seeds." in only
    assert "over 5 paired seeds and 359 test images" in only
    both = said(ticket("a", seeds_needed=12), ticket("b", images_needed=1234))
    assert " For 1 of the undecided a new study of 12 seeds" in both
    assert " For 1 of the undecided only more test images" in both


def test_images_are_not_claimed_for_tickets_that_lack_them():
    text = said(ticket("a", images=359), ticket("b", n=4))
    assert "over 4 to 5 paired seeds, on these test images" in text


def test_a_win_from_two_seeds_is_flagged():
    flagged = said(ticket("grasp", "wins", n=2, caution=words.TWO_SEEDS))
    assert flagged.endswith(
        " A result from two seeds is weak: repeat it with more before you rely on it."
    )
    assert "wo seeds are few" not in said(ticket("grasp", "wins"))
