"""Published results are what was measured: each page is made from the record beside it."""

import json
from pathlib import Path

import pytest

from layerticket.report.page import study_page
from layerticket.report.table1 import lottery_page
from layerticket.report.tables import comparison_page

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def _report(record):
    """The report of a study, with its figures in a folder named like the page."""
    page = study_page(record).replace("](figures/", "](table3/")
    return page.replace("# Table 3", "## Table 3", 1)


PAGES = {"first-look": comparison_page, "table1": lottery_page, "table3": _report}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_made_from_the_record(name):
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert PAGES[name](record).strip() in page


def test_every_record_has_a_page_and_every_page_a_record():
    pages, records = ({f.stem for f in RESULTS.glob(f"*.{kind}")} for kind in ("md", "json"))
    assert pages == records
