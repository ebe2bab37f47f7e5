"""The table in the form of the paper's Table 1: pairs, resumes, and shares its folder."""

import dataclasses
import json

import pytest

from layerticket.errors import LayerticketError
from layerticket.report.table1 import lottery_page
from layerticket.selection import Budget
from layerticket.study.tables import table1
from layerticket.study.tables.table1 import PAPER_TABLE_1, Table1, lottery_table
from layerticket.training.recipe import Recipe
from toy_lottery import few_digits

WHAT = Table1(
    model="resnet20",
    recipe=Recipe(epochs=2, batch_size=64, precision="fp32"),
    budget=Budget(remove=1),
    points=("0", "1"),
)


def make(out, *, seeds=(0, 1), criteria=("magnitude", "random"), what=WHAT, **options):
    options = {"device": "cpu", "progress": False} | options
    return lottery_table(what, few_digits(), criteria=criteria, seeds=seeds, out=out, **options)


def test_pairs_resumes_and_shares_a_folder(tmp_path, monkeypatch):
    alone = make(tmp_path, seeds=(1,), command="python table")
    assert [cell["n"] for cell in alone["cells"]] == [1] * 4
    said = []
    summary = make(tmp_path, seeds=(0,), tell=said.append)
    assert said[0] == "seed 0: dense"
    assert len(said) == 5
    assert summary["seeds"] == [0, 1]  # the other call's too
    cells = {(cell["criterion"], cell["rewind"]): cell for cell in summary["cells"]}
    assert set(cells) == {(c, p) for c in ("magnitude", "random") for p in ("0", "1")}
    cell = cells["random", "1"]
    assert (cell["n"], cell["epoch"], cell["epochs_trained"]) == (2, 1, 1)
    dense = summary["dense"]["test_accuracy"]
    expected = [t - d for t, d in zip(cell["test_accuracy"], dense, strict=True)]
    assert cell["differences"] == pytest.approx(expected)
    assert cell["mean"] == pytest.approx(sum(expected) / 2)
    assert all(len(names) == 1 for names in cell["removed"])
    assert sum(summary["verdicts"].values()) == 4
    assert json.loads((tmp_path / "table1.json").read_text())["cells"][0]["n"] == 2
    monkeypatch.setattr(table1, "find_in_run", lambda *_, **__: 1 / 0)
    monkeypatch.setattr("layerticket.study.record.fit", lambda *_, **__: 1 / 0)
    assert make(tmp_path)["cells"] == summary["cells"]  # nothing is done twice
    page = lottery_page(make(tmp_path, command="python table"))
    assert page.startswith("```bash\npython table\n```")
    assert f"{100 * cell['mean']:+.2f} ± {100 * cell['std']:.2f}, n = 2" in page
    assert "paper" in page.split("| random |")[1].splitlines()[0]
    with pytest.raises(LayerticketError, match="table of other settings"):
        make(tmp_path, what=dataclasses.replace(WHAT, budget=Budget(remove=2)))


def test_the_papers_figures_stand_at_their_points():
    assert PAPER_TABLE_1["kl"] == (0.74, 0.46, -0.03, -0.17)
    seed = {"seed": 0, "dense": {"test_accuracy": 0.9}}
    run = {"test_accuracy": 0.91, "epochs": 3, "removed": [], "score_seconds": 0.0}
    seeds = [{**seed, "cells": {"kl 25%": run, "snip 25%": run, "kl 1": run}}]
    plan = {"margin": 0.01, "recipe": {"epochs": 4}}
    found = {name: table1._cell(name, seeds, plan, 100) for name in seeds[0]["cells"]}
    assert found["kl 25%"]["paper_pp"] == 0.46
    assert found["snip 25%"]["paper_pp"] is found["kl 1"]["paper_pp"] is None


@pytest.mark.parametrize("points", [(), ("0", "10%"), ("2",), ("0", "0")])
def test_points_that_are_no_columns_are_refused(points):
    with pytest.raises(LayerticketError, match="different ones before the last"):
        dataclasses.replace(WHAT, points=points)


def test_names_and_seeds_are_checked_before_anything_is_trained(tmp_path):
    with pytest.raises(LayerticketError, match="criterion 'magnitud' is not"):
        make(tmp_path, criteria=("magnitud",))
    with pytest.raises(LayerticketError, match="seeds are"):
        make(tmp_path, seeds=(1, 1))
    assert not list(tmp_path.iterdir())
