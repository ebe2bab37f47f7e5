"""What pairs say about seeds and images, worked out by hand."""

import pytest

from layerticket.verdict.pairs import Row
from seeds_and_images import facts, pairs_of


def row(kind, seed, accuracy, correct, training, **more):
    return Row(
        id=training, training=training, model="net", budget=None, method=kind, kind=kind,
        role="dense" if kind == "dense" else "criterion", seed=seed, test_accuracy=accuracy,
        correct=correct, status="done", **more,
    )  # fmt: skip


ROWS = [
    row("dense", 0, 6 / 8, "fc", "d0"),
    row("dense", 1, 4 / 8, "f0", "d1"),
    row("ticket", 0, 5 / 8, "f8", "t0"),  # one image worse
    row("ticket", 1, 4 / 8, "e8", "t1"),  # one image gained, one lost
]


def test_correlation_and_disagreement():
    (((model, method), pairs),) = pairs_of(ROWS).items()
    assert (model, method, len(pairs)) == ("net", "ticket", 2)
    found = facts(pairs, 8)
    assert found["mean"] == pytest.approx(-1 / 16)
    assert found["correlation"] == pytest.approx(1.0)  # two seeds lie on a line
    assert found["disagree"] == pytest.approx((1 / 8 + 2 / 8) / 2)
    assert found["over_seeds"] <= found["over_seeds_and_images"]


def test_the_same_training_is_no_pair():
    assert pairs_of([ROWS[0], row("ticket", 0, 6 / 8, "fc", "d0")]) == {}


def test_a_smaller_gap_needs_more_seeds():
    ((_, pairs),) = pairs_of(ROWS).items()
    seeds = facts(pairs, 8)["seeds"]
    assert (seeds["0.01 50000"] or 10**9) <= (seeds["0.003 50000"] or 10**9)
