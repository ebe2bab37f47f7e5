"""What a table of scores says about places, worked out by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from layerticket.report.tables import Study
from layerticket.verdict.pairs import Row
from layerticket.verdict.worth import FIRST_TO_LAST, OTHER_SEEDS
from what_is_removed import (
    by_worth,
    conclusion,
    groups,
    is_neighbour,
    mixtures,
    page,
    removed,
    saved_by,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results"

NAMES = ["a.0", "a.1", "b.0", "b.1"]


def test_scores_that_are_a_rule_of_place():
    found = removed(np.array([[1.0, 2.0, 3.0, 4.0]] * 3), NAMES)
    one, three = found["goes"]["1"], found["goes"]["3"]
    assert found["kendall_w"] == 1.0
    assert one["share_of_seeds"] == {"a.0": 1.0, "a.1": 0.0, "b.0": 0.0, "b.1": 0.0}
    assert (one["identical"], one["rule"], one["chance"]) == (1.0, 1.0, 0.25)
    assert three["share_of_seeds"]["b.1"] == 0.0
    assert one["fixed"]["first"] == 1.0
    assert one["fixed"]["last"] == 0.0
    assert "5" not in found["goes"]  # there are four blocks


def test_the_rule_knows_the_other_seeds_only():
    # Seeds 0 and 1 remove a.0, seed 2 removes b.1: it is not foreseen from the other two.
    scores = np.array([[1.0, 2, 3, 4], [1.0, 2, 3, 4], [4.0, 3, 2, 1]])
    one = removed(scores, NAMES)["goes"]["1"]
    assert one["identical"] == pytest.approx(2 / 3)
    # For seed 0 the others rank a.0 0 + 3, a.1 1 + 2, b.0 2 + 1, b.1 3 + 0: a tie, the first wins.
    assert one["rule"] == pytest.approx(2 / 3)
    # The last of each stage in turn are a.1, b.1: one block is a.1, which no seed removes.
    assert one["fixed"]["last of each stage in turn"] == 0.0


BLOCKS = ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]


def test_blocks_next_to_a_down_sampling():
    beside = [name for name in BLOCKS if is_neighbour(name, BLOCKS)]
    assert beside == ["layer1.2", "layer2.1", "layer2.2", "layer3.1"]


def test_memory_saved_by_a_reading():
    one = {"p": 2, "share_of_one_block": [10.0, 5.0, 2.5]}
    # Of layer1.0, layer1.1 and layer3.2 the two lowest go; the others stay, however low.
    row = {"scores": [[3, 2, 0, 0, 0, 0, 1], [1, 2, 0, 0, 0, 0, 3]]}
    assert saved_by(row, BLOCKS, one) == [12.5, 20.0]


def test_mixtures_of_stages_that_tie_are_all_named():
    one = {"p": 2, "paper": 14.9, "share_of_one_block": [10.0, 5.001, 4.999]}
    # 1 + 1 + 0 and 1 + 0 + 1 save 15.00 (all but layer1.0, layer1.1 and layer3.2 are neighbours).
    assert mixtures(one, BLOCKS) == {
        15.0: ["1 + 0 + 1", "1 + 1 + 0*"], 20.0: ["2 + 0 + 0"],
        10.0: ["0 + 0 + 2*", "0 + 1 + 1*", "0 + 2 + 0*"],
    }  # fmt: skip
    assert next(iter(mixtures(one, BLOCKS))) == 15.0


def test_what_the_memory_column_says():
    record = {"memory": [{"paper": 10.0}, {"paper": 20.0}]}

    def said(*means):
        names = [("grasp", "sum", 200.0), ("grasp", "mean", 200.0),
                 ("snip", "sum", 1.0), ("snip", "mean", 1.0)]  # fmt: skip
        return conclusion(record, [dict(zip(names, [[m], [m], [n], [0.0]], strict=True))
                                   for m, n in means])  # fmt: skip

    assert "does not tell `sum` from `mean`, and none" in said((11, 1), (30, 1))
    assert said((1, 11), (2, 30)).endswith("so the column is nearest to `sum`.")
    assert "`grasp` with `sum` 1 (mean distance 5.5 points, above the paper in 2)" in said(
        (11, 1), (30, 1)
    )


def test_mean_ranks_are_compared_with_the_worth_of_every_seed():
    # Worth: a < b < c in seed 0, a < c < b in seed 1. Mean ranks: a < b < c, one seed against two.
    rows = [
        Row(id="x", model="net", budget=None, method=kind, kind=kind, role=role, seed=seed,
            removed=tuple(block), test_accuracy=0.9 - lost)
        for seed, worths in enumerate(((1, 2, 3), (1, 3, 2)))
        for kind, role, block, lost in (
            ("dense", "dense", "", 0.0),
            *(("control", "baseline", b, w / 100) for b, w in zip("abc", worths, strict=True)),
        )
    ]  # fmt: skip
    way = {"criterion": "snip", "reduction": "sum", "temperature": 1.0}
    case = {"blocks": list("abc"), "rows": [way | {"scores": [[1, 2, 3], [1, 2, 3], [3, 2, 1]]}]}
    study = SimpleNamespace(rows=rows, test_images=100)
    *_, own, order, others = by_worth({"cases": {"net, CIFAR-10 (JPEG)": case}}, study).splitlines()
    assert own == "| snip, sum, T = 1 | 2 | +0.67 (-1.00 to +1.00) |"
    assert order == own.replace("snip, sum, T = 1", FIRST_TO_LAST)
    assert others == f"| {OTHER_SEEDS} | 2 | +0.33 |"


def test_the_page_is_made_from_its_record():
    record, worth = (
        json.loads((RESULTS / name).read_text(encoding="utf-8"))
        for name in ("what-is-removed.json", "resnet20.json")
    )
    made = page(record, Study.from_record(worth))
    assert made == (RESULTS / "what-is-removed.md").read_text(encoding="utf-8")
    sizes = {title: len(group) for title, group in groups(record).items()}
    assert sizes == {"Networks with batch normalization": 7, "Transformers": 2}
