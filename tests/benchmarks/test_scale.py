"""Scale: ratios and fits by hand, and the published page."""

import json
from pathlib import Path

import pytest

import scale

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_a_fit_has_r2():
    rows = [{"blocks": x, "line": 3 * x + 1, "bent": y} for x, y in ((1, 0), (2, 1), (3, 0))]
    assert scale.fit(rows, "line") == pytest.approx(1)
    assert scale.fit(rows, "bent") == pytest.approx(0)


def test_the_cost_of_a_further_block():
    rows = [{"blocks": x, "line": 3 * x + 1, "square": x**2} for x in (1, 2, 3, 10)]
    assert scale.bend(rows, "line") == pytest.approx(1)
    assert scale.bend(rows, "square") == pytest.approx((91 / 7) / (8 / 2))


def test_costs_are_divided_by_the_same_network_or_the_smallest():
    names = ["net20", "net56", "net56, 40 images", "llama 4 layers", "llama 8 layers",
             "llama 1.1 billion, float32", "llama 1.1 billion, bfloat16"]  # fmt: skip
    rows = [{"network": name} for name in names]
    assert [scale.base_of(row, rows)["network"] for row in rows] == [
        "net20", "net20", "net56", "llama 4 layers", "llama 4 layers",
        "llama 1.1 billion, float32", "llama 1.1 billion, float32",
    ]  # fmt: skip


def test_the_page_is_made_from_its_record():
    record = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
    page = scale.page(record)
    assert page == (RESULTS / "scale.md").read_text(encoding="utf-8")
    assert "| llama 4 layers to llama 64 layers | 4 to 64 | 5 |" in page
    assert "was not recorded" in page
    busy = [row | {"others_cpu_share": 0.5} for row in record["rows"]]
    assert "the machine was busy" in scale.page(record | {"rows": busy})
