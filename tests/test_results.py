"""Published results: every page has the record it was made from beside it."""

import json
from pathlib import Path

from layerticket.report.page import Report, text
from layerticket.report.tables import Study

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def test_the_page_of_a_study_is_made_from_its_record():
    record = json.loads((RESULTS / "resnet20.json").read_text(encoding="utf-8"))
    page = text(Report.of(Study.from_record(record))).replace("](figures/", "](resnet20/")
    assert page.strip() == (RESULTS / "resnet20.md").read_text(encoding="utf-8").strip()


def test_every_record_has_a_page_and_every_page_a_record():
    pages, records = ({f.stem for f in RESULTS.glob(f"*.{kind}")} for kind in ("md", "json"))
    assert pages - {"reproduction"} == records  # that page is made from several records
