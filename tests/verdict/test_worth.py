"""What blocks are worth, and how criteria rank them, worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, t

from layerticket.verdict.pairs import Row
from layerticket.verdict.worth import (
    FIRST_TO_LAST,
    OTHER_SEEDS,
    block_worth,
    rank_agreement,
    tau_of,
)


def row(kind, seed, accuracy, **more):
    role = {"dense": "dense", "control": "baseline", "ticket": "criterion"}[kind]
    return Row(
        id=f"{kind}-{seed}-{more.get('removed', '')}", model="net", budget=None, method=kind,
        kind=kind, role=role, seed=seed, test_accuracy=accuracy, status="done", **more,
    )  # fmt: skip


ROWS = [
    row("dense", 0, 0.90, correct="ff"),
    row("dense", 1, 0.92, correct="ff"),
    row("control", 0, 0.89, removed=("a",), correct="fe"),
    row("control", 1, 0.90, removed=("a",), correct="fe"),
    row("control", 0, 0.90, removed=("b",), correct="ff"),
    row("control", 1, 0.93, removed=("b",), correct="ff"),
    row("control", 0, 0.80, removed=("c",), correct="f0"),
    row("control", 1, 0.82, removed=("c",), correct="f0"),
]


def test_worth_is_the_accuracy_lost():
    a, b, c = block_worth(ROWS, test_images=8)
    assert [one.block for one in (a, b, c)] == ["a", "b", "c"]
    assert [one.worth.mean for one in (a, b, c)] == pytest.approx([0.015, -0.005, 0.10])
    assert a.worth.n == 2
    assert a.worth.over == "seeds and images"
    assert a.worth.low < 0.015 < a.worth.high


def test_no_worth_is_known_better_than_to_one_image():
    # Both seeds lose one image of 8; two rounding errors have the deviation 1/8 / sqrt(6).
    rows = [row("dense", seed, 0.5) for seed in (0, 1)]
    rows += [row("control", seed, 0.375, removed=("a",)) for seed in (0, 1)]
    (found,) = block_worth(rows, test_images=8)
    half = t.ppf(0.975, 1) / 8 / math.sqrt(6) / math.sqrt(2)
    assert (found.worth.low, found.worth.high) == pytest.approx((0.125 - half, 0.125 + half))


def test_no_agreement_is_known_better_than_to_one_swap():
    # Both rankings agree. One swap of two neighbours of three blocks moves tau by 2/3.
    tickets = [row("ticket", seed, 0.9, scores={"b": 1.0, "a": 2.0, "c": 3.0}) for seed in (0, 1)]
    found, *_ = rank_agreement([*ROWS, *tickets], block_worth(ROWS))
    half = t.ppf(0.975, 1) * 2 / 3 / math.sqrt(6) / math.sqrt(2)
    assert (found.tau.low, found.tau.high) == pytest.approx((1 - half, 1 + half))


def test_answers_of_other_numbers_of_images_are_no_basis():
    rows = [*ROWS[:1], row("dense", 1, 0.92, correct="ffff"), *ROWS[2:3]]
    (found,) = block_worth([*rows, row("control", 1, 0.90, removed=("a",), correct="fefe")])
    assert (found.worth.n, found.worth.over) == (2, "seeds")


def test_a_seed_without_dense_is_left_out_and_nothing_alone_is_nothing():
    assert block_worth([*ROWS, row("control", 9, 0.1, removed=("a",))])[0].worth.n == 2
    assert block_worth([one for one in ROWS if one.kind == "dense"]) == ()


def test_agreement_is_the_mean_of_kendalls_tau():
    right, reverse = {"b": 1.0, "a": 2.0, "c": 3.0}, {"b": 3.0, "a": 2.0, "c": 1.0}
    one_swap = {"b": 2.0, "a": 1.0, "c": 3.0}  # two of three pairs agree: tau = 1/3
    tickets = [row("ticket", seed, 0.9, scores=s) for seed, s in enumerate((right, one_swap))]
    found, *_ = rank_agreement([*ROWS, *tickets], block_worth(ROWS))
    assert found.tau.mean == pytest.approx((1 + 1 / 3) / 2)
    assert found.tau.n == 2
    found, *_ = rank_agreement([row("ticket", 0, 0.9, scores=reverse)], block_worth(ROWS))
    assert found.tau.mean == pytest.approx(-1.0)
    assert found.tau.n == 1
    assert rank_agreement(ROWS, block_worth(ROWS)) == ()  # nobody scored


def test_scores_of_a_seed_are_compared_with_the_worth_in_that_seed():
    # Seed 0 ranks b < a < c; in seed 1, where a is worth less than b, the order is a < b < c.
    changed = {("a", 1): 0.93, ("b", 1): 0.90}
    rows = [
        replace(one, test_accuracy=changed.get((*one.removed, one.seed), one.test_accuracy))
        for one in ROWS
    ]
    scores = {"b": 1.0, "a": 2.0, "c": 3.0}
    tickets = [row("ticket", seed, 0.9, scores=scores) for seed in (0, 1)]
    own, order, others = rank_agreement([*rows, *tickets], block_worth(rows))
    assert own.tau.mean == pytest.approx((1 + 1 / 3) / 2)
    assert (order.method, order.tau.mean) == (FIRST_TO_LAST, pytest.approx((1 / 3 + 1) / 2))
    assert (others.method, others.tau.mean) == (OTHER_SEEDS, pytest.approx(1 / 3))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9))
def test_tau_is_that_of_scipy(pairs):
    scores, worth = ({str(i): float(pair[side]) for i, pair in enumerate(pairs)} for side in (0, 1))
    theirs = kendalltau(*zip(*pairs, strict=True)).statistic if len(pairs) > 1 else math.nan
    ours = tau_of(scores, worth)
    assert ours is None if math.isnan(theirs) else ours == pytest.approx(theirs)
