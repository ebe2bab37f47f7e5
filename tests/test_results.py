"""Published results are what was measured: the page is made from the record beside it."""

import json
from pathlib import Path

import pytest

from layerticket.report import comparison_page

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.mark.parametrize("name", ["first-look"])
def test_the_page_is_made_from_the_record(name):
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert comparison_page(record).strip() in page
    assert all(run["test_accuracy"] for row in record["rows"] for run in row["runs"])
