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


def test_the_advice_on_criteria_agrees_with_the_study():
    """If this fails, docs/how-to/which-criterion.md has to say what the study shows now."""
    record = json.loads((RESULTS / "resnet20.json").read_text(encoding="utf-8"))
    found = {one["method"]: one["outcome_adjusted"] for one in record["comparisons"]}
    assert {name: found[name] for name in ("grasp mean", "snip sum", "snip mean", "grasp sum")} == {
        "grasp mean": "wins", "snip sum": "wins", "snip mean": "loses", "grasp sum": "undecided",
    }  # fmt: skip
    rows = [row for row in record["runs"] if row["method"] == "grasp mean"]
    chosen = {tuple(row["removed"]) for row in rows if row["status"] == "done"}
    assert chosen == {("layer1.0", "layer1.1", "layer1.2")}  # the first blocks
