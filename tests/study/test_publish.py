"""What is published of a study: no times, and no figure that its page does not have."""

import re
import sys
from pathlib import Path

import pytest

from layerticket.files import read_json
from made_study import make_study

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))

from publish import without_times, write


def test_figures_that_the_page_does_not_have_are_deleted(tmp_path):
    pytest.importorskip("vl_convert")
    old, kept = tmp_path / "one" / "old.svg", tmp_path / "one" / "notes.txt"
    old.parent.mkdir()
    for path in (old, kept):
        path.write_text("old")
    write(make_study(seeds=2), tmp_path / "one")
    linked = re.findall(r"\]\(one/(.*?\.svg)\)", (tmp_path / "one.md").read_text("utf-8"))
    assert linked
    assert {path.name for path in old.parent.glob("*.svg")} == set(linked)
    assert kept.exists()
    assert read_json(tmp_path / "one.json")["title"] == make_study(seeds=2)["title"]


def test_figures_that_depend_on_other_jobs_are_left_out():
    record = make_study(seeds=2)
    for row in record["runs"]:
        row |= {"workers": 12, "jobs_beside": 11}
    record["environment"]["workers"] = 12
    published = without_times(record)
    names = ("train_seconds", "energy_kwh", "workers", "jobs_beside", "cost")
    assert {row[name] for row in published["runs"] for name in names} == {None}
    assert (published["environment"]["workers"], published["environment"]["threads"]) == (None, 2)
    accuracies = [row["test_accuracy"] for row in record["runs"]]
    assert [row["test_accuracy"] for row in published["runs"]] == accuracies
    assert all(one["energy_saving"] is None for one in published["comparisons"])
