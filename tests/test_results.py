"""Published results: every page has the record it was made from beside it."""

import json
from pathlib import Path

import pytest

from layerticket.report.page import Report, text
from layerticket.report.tables import Study

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("resnet*.json")))
def test_the_page_of_a_study_is_made_from_its_record(name):
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    page = text(Report.of(Study.from_record(record))).replace("](figures/", f"]({name}/")
    assert page.strip() == (RESULTS / f"{name}.md").read_text(encoding="utf-8").strip()


def test_a_ticket_of_one_of_several_budgets_is_named_with_it():
    page = (RESULTS / "resnet32.md").read_text(encoding="utf-8")
    for budget in ("remove 1", "remove 5"):
        assert f"\ngrasp mean, {budget} is undecided: " in page


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


def test_the_advice_after_training_agrees_with_the_study():
    """If this fails, docs/how-to/which-criterion.md has to say what the study shows now."""
    record = json.loads((RESULTS / "resnet20-after-training.json").read_text(encoding="utf-8"))
    found = {one["method"].split()[1]: one for one in record["comparisons"]}
    assert {name: one["outcome_adjusted"] for name, one in found.items()} == {
        "pls": "wins", "kl": "wins", "random": "wins", "hrank": "undecided",
        "expect_abs": "undecided",
    }  # fmt: skip
    for name in ("hrank", "expect_abs"):
        rows = [row for row in record["runs"] if row["method"] == f"lottery {name} 0"]
        assert {row["removed"][0].split(".")[0] for row in rows} == {"layer3"}
