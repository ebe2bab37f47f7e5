"""What pairs say about seeds and images, worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from layerticket.verdict.pairs import Row
from layerticket.verdict.statistics import Estimate
from seeds_and_images import LEAST, dense_disagreement, facts, on_images, page, pairs_of, span

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def row(kind, seed, accuracy, correct, training, **more):
    return Row(**{
        "id": training, "training": training, "model": "net", "budget": None, "method": kind,
        "kind": kind, "role": "dense" if kind == "dense" else "criterion", "seed": seed,
        "test_accuracy": accuracy, "correct": correct, "status": "done",
    } | more)  # fmt: skip


ROWS = [
    row("dense", 0, 6 / 8, "fc", "d0"),
    row("dense", 1, 4 / 8, "f0", "d1"),
    row("ticket", 0, 5 / 8, "f8", "t0", removed=("a",)),  # one image worse
    row("ticket", 1, 4 / 8, "e8", "t1", removed=("b",)),  # one image gained, one lost
]


def many(seeds=LEAST):
    """The same two seeds again and again."""
    return [
        row(one.kind, seed, one.test_accuracy, one.correct, f"{one.kind}{seed}", removed=("a",))
        for seed in range(seeds)
        for one in (ROWS[seed % 2], ROWS[2 + seed % 2])
    ]


def test_disagreement():
    (((model, method, other), pairs),) = pairs_of(ROWS).items()
    assert (model, method, other, len(pairs)) == ("net", "ticket", "dense", 2)
    found = facts(pairs, 8)
    assert found["mean"] == pytest.approx(-1 / 16)
    assert found["disagree"]["mean"] == pytest.approx((1 / 8 + 2 / 8) / 2)
    assert found["accuracy"]["std"] == pytest.approx((1 / 8) / 2**0.5)
    assert found["sets"] == 2
    assert found["over_seeds"] <= found["over_seeds_and_images"]
    assert dense_disagreement(ROWS, 8) == pytest.approx(2 / 8)  # fc against f0


def test_few_seeds_give_neither_correlation_nor_number_of_seeds():
    few, enough = (facts(next(iter(pairs_of(rows).values())), 8) for rows in (ROWS, many()))
    assert (few["correlation"], few["seeds"]) == (None, None)
    assert enough["correlation"] == pytest.approx(1.0)  # all seeds lie on one line
    assert enough["sets"] == 1


def test_with_other_images_only_the_part_of_single_images_changes():
    found = Estimate(
        mean=0.0, n=5, std=0.05, spread=0.05, images=100, image_error=0.02, chance=0.03
    )
    more = on_images(found, 400)
    assert (more.chance, more.image_error) == pytest.approx((0.015, 0.01))
    assert more.spread**2 == pytest.approx(0.04**2 + 0.015**2)
    assert on_images(found, 100).spread == pytest.approx(0.05)
    assert on_images(replace(found, chance=0.06), 400).spread == pytest.approx(0.03)


def test_the_same_training_is_no_pair():
    same = [row("ticket", seed, 6 / 8, "fc", f"d{seed}") for seed in (0, 1)]
    assert pairs_of([*ROWS[:2], *same]) == {}


def test_a_criterion_is_paired_with_its_controls():
    controls = [
        row("control", seed, 5 / 8, "f8", f"c{seed}", role="control", method="first")
        for seed in (0, 1)
    ]
    others = [
        row("ticket", seed, 5 / 8, "f8", f"o{seed}", role="control", method="new", reference="no")
        for seed in (0, 1)
    ]
    assert set(pairs_of([*ROWS, *controls, *others])) == {
        ("net", "ticket", "dense"), ("net", "ticket", "first"), ("net", "first", "dense"),
        ("net", "new", "dense"),
    }  # fmt: skip


def test_snip_is_paired_with_grasp_of_its_reading_and_a_ticket_with_its_filters():
    rows = [
        row("ticket", seed, 5 / 8, "f8", f"{name}{seed}", method=name)
        for name in ("snip sum", "grasp sum", "grasp mean")
        for seed in (0, 1)
    ] + [
        row("filters", seed, 5 / 8, "f8", f"f{seed}", role="baseline", reference="grasp sum")
        for seed in (0, 1)
    ]
    assert set(pairs_of(rows)) == {
        ("net", "snip sum", "grasp sum"), ("net", "grasp sum", "filters"),
    }  # fmt: skip


def test_intervals_are_those_that_decide():
    study = json.loads((RESULTS / "resnet20.json").read_text(encoding="utf-8"))
    found = json.loads((RESULTS / "seeds-and-images.json").read_text(encoding="utf-8"))["rows"]
    rows = {(one["method"], one["other"]): one for one in found}
    shown = 0
    for one in study["comparisons"]:
        for of, other in ((one, "dense"), *((of, of["method"]) for of in one["controls"])):
            difference = of["difference"]
            if difference["low"] is None:
                continue
            row, shown = rows[one["method"], other], shown + 1
            for half, low, high in (
                ("over_seeds_and_images", "low", "high"), ("over_seeds", "seeds_low", "seeds_high"),
            ):  # fmt: skip
                width = difference[high] - difference[low]
                assert 2 * row[half] == pytest.approx(width, abs=1e-12)
            if other != "dense":  # against dense the study corrects for several comparisons
                assert row["minimum_detectable"] == pytest.approx(of["minimum_detectable"])
    assert shown > 30
    assert {("snip sum", "grasp sum"), ("snip mean", "grasp mean")} <= rows.keys()
    assert ("grasp sum", "filters grasp (filters)") in rows


def test_a_smaller_gap_needs_more_seeds_and_images():
    found = facts(next(iter(pairs_of(many()).values())), 8)
    assert found["images"]["0.003"] > found["images"]["0.01"] > 0
    pairs = pairs_of(many(6))["net", "ticket", "dense"]
    table = facts(pairs, 8)
    assert table["image_error"] > 0
    # The error of one image's choice, scaled to N images, has to be below the gap / 2.80.
    least = (2.8016 * table["image_error"] * 8**0.5 / 0.003) ** 2
    assert table["images"]["0.003"] == pytest.approx(least, abs=2, rel=1e-3)


def test_the_page_shows_a_dash_below_five_seeds():
    def shown(rows):
        found = [
            {"model": m, "method": method, "other": other} | facts(pairs, 8)
            for (m, method, other), pairs in pairs_of(rows).items()
        ]
        for one in found:
            if one["seeds"] is not None:
                one["seeds"] |= {f"{gap} 8": 7 for gap in (0.01, 0.003)}
        return page(
            {"command": "c", "from": ["a.json"], "images": 8, "dense_disagree": None, "rows": found}
        )

    assert "nothing is said about seeds" in shown(ROWS)
    assert shown(ROWS).splitlines()[-1].endswith("| - | - |")
    assert "**A claim of 1 pp** needs 7 seeds with 8 test images." in shown(many())


def test_a_span_has_median_and_range():
    assert span([1, 5, 3], str, " seeds") == "3 seeds (median; 1 to 5)"
    assert span([2, 2], str, " seeds") == "2.0 seeds"


def test_the_published_page_is_made_from_its_record():
    record = json.loads((RESULTS / "seeds-and-images.json").read_text(encoding="utf-8"))
    assert page(record) == (RESULTS / "seeds-and-images.md").read_text(encoding="utf-8")
