"""Table 4: seven rows, the paper's savings in FLOPs, resumed row by row."""

import json
from pathlib import Path

import pytest
import torch

import table4
from layerticket.blocks.find import find_blocks
from layerticket.data.dataset import noise
from layerticket.evaluation.memory import PeakMemory
from layerticket.models.load import build_model
from layerticket.study.measured_budget import TimingSetup
from layerticket.training.device import Where
from layerticket.training.recipe import Recipe
from table4 import PAPER

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("network", ["resnet32", "resnet56"])
def test_macs_agree_with_the_paper(network):
    dense = build_model(f"{network}-projection", classes=10, channels=3, seed=0)
    blocks = find_blocks(dense, torch.zeros(1, 3, 32, 32))
    assert len({block.macs for block in blocks}) == 1  # so it does not matter which go
    for (name, removed), paper in PAPER.items():
        if name == network:
            saved = 100 * removed * blocks[0].macs / blocks.macs
            assert abs(saved - paper["flops"]) <= 0.05


def test_rows_are_measured_once_and_written(tmp_path, monkeypatch):
    asked = []

    def peak(request):
        asked.append(request)
        return PeakMemory(peak_bytes=300 - 50 * bool(request.removed), before_bytes=100)

    monkeypatch.setattr(table4, "peak_memory", peak)
    setup = TimingSetup(
        dataset=noise((3, 32, 32), classes=10, images=100),
        recipe=Recipe(batch_size=2, precision="fp32", compile="off"),
        where=Where(device="cpu"),
        rounds=1,
    )
    rows = (("resnet32", 5),)
    found = table4.table4(setup, tmp_path, rows=rows, command="this one")
    row = found["rows"][0]
    assert row["saved"]["training_memory"] == 0.25
    assert row["saved"]["peak_memory"] == pytest.approx(1 / 6)
    assert row["saved"]["energy"] is None
    assert 0 <= row["others_cpu_share"] <= 1
    assert abs(100 * row["saved"]["macs"] - 34.13) <= 0.05
    assert len(row["blocks"]) == 5
    assert 0.3 < row["saved"]["held_bytes"] < 0.5
    assert json.loads((tmp_path / "table4.json").read_text()) == found
    text = (tmp_path / "table4.md").read_text()
    assert "`this one`" in text
    assert "5 (the paper's row 4) | 34.13 (34.13)" in text
    assert "null (33.33)" in text
    assert table4.busy_text(found["rows"]) in text
    waits = row["timing"]["data_wait_share"]
    assert f" | {100 * waits['dense']:.1f} / {100 * waits['ticket']:.1f} | null (" in text
    assert table4.table4(setup, tmp_path, rows=rows)["rows"] == found["rows"]
    assert len(asked) == 2


def test_the_published_table_is_made_from_its_record():
    record = json.loads((RESULTS / "table4.json").read_text(encoding="utf-8"))
    page = (RESULTS / "table4.md").read_text(encoding="utf-8").splitlines()
    made = [line for line in table4.table4_text(record).splitlines()[1:] if line]
    assert [line for line in page if line in made] == made
    assert record["command"] in page


def test_a_busy_machine_is_named():
    def said(*shares):
        return table4.busy_text([{"others_cpu_share": share} for share in shares])

    assert said(0.001, 0.02) == (
        "Other processes used 0.1 to 2.0 % of the processor time while a row was timed."
    )
    assert said(0.001, 0.5).endswith("the machine was busy.")
    assert "not recorded" in said(0.001, None)
    assert "not recorded" in table4.busy_text([{}])
