"""The table of speeds: its arithmetic by hand, and its cheapest row from end to end."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import load
import speed
import speed_gpu
import speed_rows
from layerticket.data.dataset import noise
from layerticket.files import read_json
from layerticket.training import device
from layerticket.training.recipe import Recipe
from layerticket.training.steps import Trainer
from speed_row import Row, in_turns

RUN = "python benchmarks/speed.py"
ROWS = {row.name: row for row in (*speed_rows.ROWS, *speed_gpu.GPU_ROWS)}
FASTER = Row(name="a", what="ours", against="theirs", measure=lambda n: [2.0, 3.0, 4.0], least=3)
FOUND = {"value": 3.0, "values": [2.0, 3.0, 4.0], "n": 3, "others_cpu_share": 0.0,
         "machine": "one", "command": f"{RUN} a"}  # fmt: skip
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_targets():
    assert FASTER.target == ">= 3"
    assert (FASTER.reached(3.0), FASTER.reached(2.9)) == (True, False)
    small = replace(FASTER, least=None, most=1.2, unit="MB")
    assert small.target == "<= 1.2 MB"
    assert (small.reached(1.2), small.reached(1.21)) == (True, False)
    free = replace(FASTER, least=None)
    assert (free.target, free.reached(9.0)) == ("-", None)


def test_ratios_divide_times_of_one_round(monkeypatch):
    clock = iter([0, 6, 10, 12, 20, 23, 30, 40])  # above 6, below 2; reversed: below 3, above 10
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert in_turns(list, list, 2, warmup=0) == [3.0, 10 / 3]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_row_that_cannot_be_run_says_why(no_gpu):
    lacking = replace(FASTER, packages=("no_such_package",))
    assert speed.run(lacking) == {"skipped": "needs the package no_such_package"}
    assert "needs a GPU" in speed.run(replace(FASTER, gpu=True))["skipped"]


def test_rows_are_chosen_by_name_or_its_first_part():
    rows = [replace(FASTER, name=name) for name in ("grasp", "grasp-vit", "graspable", "snip")]
    assert [row.name for row in speed.chosen(rows, ["grasp"])] == ["grasp", "grasp-vit"]
    assert speed.chosen(rows, []) == rows
    with pytest.raises(SystemExit, match="no row is named 'gras'"):
        speed.chosen(rows, ["gras"])
    assert len(ROWS) == len(speed_rows.ROWS) + len(speed_gpu.GPU_ROWS)  # each name once


def test_what_this_process_uses_is_not_its_neighbours(monkeypatch):
    seconds = iter([(10.0, 100.0, 2.0), (16.0, 120.0, 6.0)])  # busy, in all, of this process
    monkeypatch.setattr(load, "_processor_seconds", lambda: next(seconds))
    with load.neighbours() as others:
        pass
    assert others == {"share": (6 - 4) / 20}


BURNS = """
import os, sys, time
while time.process_time() < 0.5:
    pass
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
time.sleep(60)
"""
ENDS_BEFORE_ITS_CHILD = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_an_orphaned_descendant_uses_counts_as_ours(tmp_path):
    note = tmp_path / "pid"
    with load._adopting_orphans():
        before = load._processor_seconds()[2]
        words = [sys.executable, "-c", ENDS_BEFORE_ITS_CHILD, BURNS, str(note)]
        subprocess.run(words, check=True)
        while not (note.exists() and note.read_text()):
            time.sleep(0.05)
        living = load._processor_seconds()[2]
        os.kill(int(note.read_text()), signal.SIGKILL)
        os.waitpid(int(note.read_text()), 0)  # it is our child
        ended = load._processor_seconds()[2]
    assert living - before >= 0.5
    assert ended >= living - 0.1  # rounded to clock ticks


def test_a_quadratic_cost_misses_the_target_of_the_row_that_can_fail(monkeypatch):
    # ResNet-1202 has 600 blocks, ResNet-110 has 54: per block, a quadratic cost is 600 / 54 = 11.1
    # times as high.
    blocks = {depth: [0] * (depth // 2 - 1) for depth in (110, 1202)}
    monkeypatch.setattr(speed_rows, "scoring", lambda depth, _: (None, blocks[depth], None))
    row = ROWS["depth-per-block"]
    for power, found in ((1, 1.0), (2, 600 / 54)):
        monkeypatch.setattr(speed_rows, "seconds_of", lambda case, p=power: len(case[1]) ** p)
        assert speed_rows.depth_per_block(2) == pytest.approx([found] * 2)
        assert row.reached(found) is (power == 1)


def test_training_takes_turns_with_another_loop():
    pytest.importorskip("codecarbon")
    data = noise((3, 8, 8), classes=10, images=64)
    other, plain = iter(range(100)), Trainer.step
    recipe = Recipe(epochs=3, batch_size=16, compile="off")  # 4 steps, 2 turns an epoch
    values = speed_rows.beside_training(data, recipe, other, 2)
    assert next(other) == 3 * 2
    assert len(values) == 2  # the first epoch is left out
    assert all(0 < value < 1 for value in values)  # the other loop does nothing
    assert Trainer.step is plain


def test_the_page_by_hand(no_gpu):
    missed, gone = replace(FASTER, name="b", least=5, limit="Because."), replace(FASTER, name="c")
    never = replace(FASTER, name="d")
    results = {
        "a": FOUND,
        "b": FOUND | {"machine": "two", "others_cpu_share": 0.5, "command": f"{RUN} b --rounds 7"},
        "c": {"skipped": "needs a GPU", "machine": "one"},
    }
    results["b"]["values"] = [2.0, 3.0, 6.0]
    page = speed.page([FASTER, missed, gone, never], results)
    assert (
        "| a | ours | theirs | >= 3 | 3.00 | 2.00 to 4.00 | 3 | yes, not in every round | 1 |"
        in page
    )
    assert "| 3 | no, but in some rounds, measured on a busy machine | 2 |" in page
    assert "1. one\n2. two" in page
    assert "**b.** Because." in page
    assert "- c (ours): needs a GPU." in page
    assert "- d (ours): not measured yet." in page
    assert "\n\n**b.** python benchmarks/speed.py ROW --rounds 7.\n" in page
    assert "**a.**" not in page


def test_the_page_says_what_a_figure_is_absolutely_and_what_to_know():
    rows = [
        replace(FASTER, name="base", unit="images/s", note="Know this."),
        replace(FASTER, name="ratio", times="base", note="Know this."),
        replace(FASTER, name="step", times=lambda: 1.5),
        replace(FASTER, name="lost", times="never"),
        replace(FASTER, name="never"),
    ]
    once = FOUND | {
        "values": [2.0],
        "value": 2.0,
        "n": 1,
        "command": f"an earlier form of {RUN} base --rounds 1",
    }
    page = speed.page(rows, {"base": once, "ratio": FOUND, "step": FOUND, "lost": FOUND})
    assert "| 2.00 images/s | - | 1 |" in page
    assert "| 3.00 (6.00 images/s) | 2.00 to 4.00 |" in page
    assert "| 3.00 (4.50x) |" in page
    assert page.count("| 3.00 | 2.00 to 4.00 |") == 1  # lost
    assert "**base, ratio.** Know this." in page
    assert f"**base.** an earlier form of {RUN} ROW --rounds 1; n = 1, no spread." in page
    moved = {"base": once, "ratio": FOUND | {"machine": "two"}}
    assert "images/s)" not in speed.page(rows, moved)


def test_the_published_page_is_made_from_its_record():
    rows = [*speed_rows.ROWS, *speed_gpu.GPU_ROWS]
    made = speed.page(rows, read_json(RESULTS / "speed.json")["rows"])
    published = (RESULTS / "speed.md").read_text(encoding="utf-8")
    # What could not be run, and why, depends on the machine.
    assert made.partition("## Not run")[0] == published.partition("## Not run")[0]


def test_the_cheapest_row_from_end_to_end(tmp_path, capsys, monkeypatch, no_gpu):
    out = tmp_path / "speed"
    small = Row(
        name="discovery-resnet20", what="discovery", against="one gradient", most=1e9,
        measure=lambda n: in_turns(
            lambda: speed_rows.find_blocks(model, batch[0][:1]),
            speed_rows.gradient(model, batch),
            n,
        ),
    )  # fmt: skip
    model, _, batch = speed_rows.scoring(20, images=10)
    monkeypatch.setattr(speed, "ROWS", (small,))
    monkeypatch.setattr(speed, "GPU_ROWS", (replace(small, name="no", gpu=True),))
    assert speed.main(["--rounds", "2", "--out", str(out)]) == 0
    found = read_json(out.with_suffix(".json"))["rows"]["discovery-resnet20"]
    assert found["n"] == 2
    assert 0 < found["value"] == pytest.approx(sum(found["values"]) / 2)
    assert found["command"] == "python benchmarks/speed.py --rounds 2"
    assert "| discovery-resnet20 | discovery | one gradient |" in out.with_suffix(".md").read_text()


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(speed_gpu, "STEPS", 2)
    monkeypatch.setattr(speed_gpu, "BATCH", 2)


def test_steps_of_the_rows_for_gpus_train(monkeypatch, small_steps):
    plain, trained = Trainer.step, []

    def step(trainer, *batch):
        trained.append(trainer.trained)
        return plain(trainer, *batch)

    monkeypatch.setattr(Trainer, "step", step)
    network = speed_gpu.network(20)
    with speed_gpu.several({"a": network}, "eager", "cpu") as sides:
        sides["a"]()
    assert len(trained) == 2 * 2  # once before it is lent
    assert {id(one) for one in trained}.isdisjoint({id(network)})
    with pytest.raises(RuntimeError, match="is not a CUDA graph"):
        speed_gpu.several({"a": network}, "graph", "cpu").__enter__()


def test_processes_train_until_one_moment(small_steps):
    try:
        assert speed_gpu.together(20, "eager", 2, device="cpu", seconds=0.2) > 0
        assert speed_gpu.together(20, "eager", 2, device="cpu", seconds=-1) == 0
    finally:
        for number in range(2):
            with speed_gpu.worker(number) as process:  # closes its pipes
                process.kill()
        speed_gpu.worker.cache_clear()


def test_the_break_even_of_compilation_is_the_highest_measured():
    measured = read_json(RESULTS / "speed.json")["rows"]["compile"]["values"]
    assert device._BREAK_EVEN["cpu"] == round(max(measured))


def test_rows_for_a_cpu_are_not_measured_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "hide the GPUs" in FASTER.obstacle()
    assert replace(FASTER, gpu=True).obstacle() == ""
