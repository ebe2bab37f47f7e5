"""Numbers from anywhere: a CSV file becomes a study with the same page."""

import csv

import pytest

from layerticket.errors import LayerticketError
from layerticket.report.charts import drawings
from layerticket.report.numbers import CONTROLS, READERS, read_numbers
from layerticket.report.page import write_study
from layerticket.report.tables import runs_table
from layerticket.verdict import words
from layerticket.verdict.judge import judge

DENSE = [0.921, 0.924, 0.919, 0.925, 0.922]
TICKET = [0.920, 0.925, 0.916, 0.924, 0.923]


def table(**more):
    rows = []
    for method, accuracies in (("dense", DENSE), ("grasp", TICKET)):
        for seed, accuracy in enumerate(accuracies):
            rows.append({"method": method, "seed": seed, "accuracy": accuracy} | more)
    return rows


def write(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_outcome_is_that_of_judge(tmp_path):
    study = read_numbers(write(tmp_path / "results.csv", table()))
    (found,) = study.comparisons
    known = judge(DENSE, TICKET)
    assert found.outcome == known.outcome == "wins"
    assert found.difference == known.difference
    assert "on these test images" in study.verdict


def test_savings_come_from_the_columns_that_are_there(tmp_path):
    rows = table(macs=100, params=50, seconds=20.0, energy_kwh=0.5)
    for row in rows:
        if row["method"] == "grasp":
            row |= {"macs": 60, "params": 40, "seconds": 10.0, "energy_kwh": 0.4}
    (found,) = read_numbers(write(tmp_path / "r.csv", rows)).comparisons
    assert found.macs_saving == pytest.approx(0.4)
    assert found.params_saving == pytest.approx(0.2)
    assert found.speedup["mean"] == pytest.approx(2.0)
    assert found.co2_saving is None
    study = read_numbers(write(tmp_path / "r.csv", rows))
    text = write_study(study, tmp_path / "page", figures=False).page.with_suffix(".md").read_text()
    assert "energy: 20.0 % less" in text
    assert "Energy and carbon were not measured" not in text
    rows = [row | {"search_seconds": 10.0 * (row["method"] == "grasp")} for row in rows]
    (found,) = read_numbers(write(tmp_path / "r.csv", rows)).comparisons
    assert found.speedup["mean"] == pytest.approx(1.0)


def test_charts_and_costs_need_no_column_budget(tmp_path):
    rows = table(macs=100, seconds=20.0)
    for row in rows:
        row |= {"macs": 60, "seconds": 10.0} if row["method"] == "grasp" else {}
    drawn = {}
    for name, more in (("with", {"budget": "remove 3"}), ("without", {})):
        study = read_numbers(write(tmp_path / f"{name}.csv", [row | more for row in rows]))
        drawn[name] = {one.name.split("-")[0] for one in drawings(study)}
    assert drawn["without"] == drawn["with"] >= {"seeds", "cost"}
    page = write_study(study, tmp_path, figures=False).page.read_text(encoding="utf-8")
    assert "No method has a finished run" not in page


def test_unknown_columns_are_shown_as_they_are(tmp_path):
    rows = [row | {"lr": "0.1", "W&B <run>": f"run-{row['seed']}"} for row in table()]
    study = read_numbers(write(tmp_path / "r.csv", rows))
    assert study.columns == ("lr", "W&B <run>")
    written = write_study(study, tmp_path, tmp_path / "out", figures=False)
    text = (tmp_path / "out" / "tables" / "runs.csv").read_text(encoding="utf-8")
    shown = list(csv.DictReader(text.splitlines()))
    assert [row["W&B <run>"] for row in shown] == [row["W&B <run>"] for row in rows]
    assert "W&amp;B &lt;run&gt;" in written.page.read_text(encoding="utf-8")


def test_an_empty_accuracy_is_a_failed_run(tmp_path):
    rows = table()
    rows[-1] |= {"accuracy": "", "error": "out of memory"}
    rows[-2] |= {"accuracy": "nan"}
    study = read_numbers(write(tmp_path / "r.csv", rows))
    (found,) = study.comparisons
    assert (found.failed_seeds, found.outcome) == ((3, 4), "undecided")
    failed = [row.error for row in study.rows if row.status == "failed"]
    assert failed == [words.NAN_RESULT, "out of memory"]
    assert words.NAN_RESULT in write_study(study, tmp_path, figures=False).page.read_text("utf-8")


def test_controls_and_draws_are_told_from_tickets(tmp_path):
    rows = table(macs=60)
    for seed, accuracy in enumerate(DENSE):
        for draw in range(2):
            rows.append({"method": "random blocks", "seed": seed, "accuracy": accuracy - 0.02,
                         "draw": draw, "macs": 60})  # fmt: skip
    rows.append({"method": "filters", "seed": 0, "accuracy": 0.9, "macs": 60, "role": "baseline"})
    study = read_numbers(write(tmp_path / "r.csv", rows))
    roles = {one.method: one.role for one in study.comparisons}
    assert roles == {"grasp": "criterion", "random blocks": "control", "filters": "baseline"}
    grasp = study.comparisons[0]
    assert [one.method for one in grasp.controls] == ["random blocks"]
    assert grasp.percentile == 1.0
    assert "random blocks" in CONTROLS


def test_names_of_columns_may_be_spelled_as_in_a_sheet(tmp_path):
    text = "\ufeffMethod,Seed,Accuracy,Peak memory bytes\ndense,0,0.9,100\n\ngrasp,0,0.9,50\n"
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    study = read_numbers(tmp_path / "r.csv")
    assert [row.peak_memory_bytes for row in study.rows] == [100, 50]
    assert study.columns == ()


def test_every_known_column_is_one_of_the_table_of_runs_or_of_a_row(tmp_path):
    rows = [row | dict.fromkeys(READERS.keys() - row.keys(), "") for row in table()]
    study = read_numbers(write(tmp_path / "r.csv", rows))
    assert study.columns == ()
    assert len(runs_table(study).rows) == 10


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("method,seed,accuracy\n", "has no rows"),
        ("method,seed,top accuracy\ndense,0,0.9\n", "no column 'accuracy'. Is it 'top acc"),
        ("method;seed;accuracy\ndense;0;0.9\n", "separated by commas"),
        ("method,seed,seed,accuracy\n", "'seed' is named twice"),
        ("method,seed,accuracy\ngrasp,0,0.9\n", "no dense network of 'network'"),
        ("method,seed,accuracy\ndense,0,93.1\n", "line 2: accuracy is '93.1'; give a fraction"),
        ("method,seed,accuracy\ndense,a,0.9\n", "seed is 'a'; give a number"),
        ("method,seed,accuracy\ndense,0.5,0.9\n", "seed is '0.5'; give a whole number"),
        ("method,seed,accuracy\n,0,0.9\n", "method is empty"),
        ("method,seed,accuracy\ndense,0,0.9,1\n", "line 2 has 4 cells"),
        ("method,seed,accuracy\ndense,0,0.9\ndense,0,0.8\n", "line 3: .*dense, seed 0 of network"),
        ("method,seed,accuracy,macs\ndense,0,0.9,-1\n", "macs is '-1'; give a number from 0"),
        ("method,seed,accuracy,role\ndense,0,0.9,x\n", "allowed are criterion, control, baseline"),
        ("method,seed,accuracy,role\nlast blocks,0,0.9,baseline\n", "but its role is baseline"),
        ('method,seed,accuracy\n"dense,0,0.9\n', "line 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_line(text, match, tmp_path):
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    with pytest.raises(LayerticketError, match=match):
        read_numbers(tmp_path / "r.csv")


def test_no_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(LayerticketError, match="cannot be read as a CSV file"):
        read_numbers(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LayerticketError, match="cannot be read as a CSV file"):
        read_numbers(tmp_path / "b.csv")


def test_a_margin_meant_in_percentage_points_is_refused(tmp_path):
    with pytest.raises(LayerticketError, match=r"0.5 is too large.*0.005 is half a percentage"):
        read_numbers(write(tmp_path / "r.csv", table()), margin=0.5)
