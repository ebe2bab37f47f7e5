"""`train` in two processes: one run, written once, with the ticket that both were given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layerticket.cli.app import main
from layerticket.data.sources import load_data
from layerticket.files import exclusive, read_json
from layerticket.study.train import Networks, plan_training
from layerticket.tensors import load_tensors
from layerticket.training.recipe import Recipe
from toy_processes import TESTS, together

MODEL = "toy_processes:make_residual"
TRAIN = [MODEL, "--epochs", "1", "--device", "cpu", "--precision", "fp32", "--json"]

VERBS = """
import json, sys
from pathlib import Path
from layerticket.cli.app import main
from layerticket.training.distributed import processes
train, out = json.loads(sys.argv[1]), Path(sys.argv[2])
with processes("cpu") as team:
    for words in (
        ["train", *train, "--out", str(out / "two")],
        ["train", *train, "--out", str(out / "two")],
        ["train", *train, "--out", str(out / "held")],
        ["train", *train, "--out", str(out / "never"), "--seed", str(5 + team.rank)],
        ["train", *train, "--out", str(out / "never"), "--cpu-tdp", "10"],
        ["train", *train, "--out", str(out / "never"), "--dry-run"],
        ["find", train[0], "--remove", "1", "--out", str(out / "never")],
    ):
        code = main(words)
        print(f"code {code}", flush=True)
"""


def name_in_two_processes(ticket):
    data = load_data("digits")
    recipe = Recipe(epochs=1, precision="fp32")
    how = {"seed": 0, "ticket": ticket, "device": "cpu", "count": 2}
    return plan_training(Networks.of(data), MODEL, data, recipe, **how).identity.name


def test_train_is_one_run_of_all_processes(tmp_path, capsys):
    ticket = tmp_path / "ticket"
    find = ["find", MODEL, "--criterion", "random", "--remove", "1", "--out", str(ticket)]
    assert main(find) == 0
    train = [*TRAIN, "--ticket", str(ticket)]
    capsys.readouterr()
    assert main(["train", *train, "--out", str(tmp_path / "one")]) == 0
    one = json.loads(capsys.readouterr().out)
    (alone,) = (path.name for path in (tmp_path / "one").iterdir())
    name = name_in_two_processes(ticket)  # their number is part of it
    with exclusive(tmp_path / "held" / name):
        ends = together(VERBS, json.dumps(train), tmp_path)
    assert [code for code, _, _ in ends] == [0, 0], ends
    first, second = (out.splitlines() for _, out, _ in ends)
    answers = [json.loads(line) for line in first if line.startswith("{")]
    codes = [line for line in first if line.startswith("code")]
    assert codes == second == ["code 0"] * 2 + ["code 2"] * 5  # process 0 alone answers
    assert answers[0] == answers[1]
    result = read_json(tmp_path / "two" / name / "result.json")
    assert answers[0]["run"] == str(tmp_path / "two" / name)
    assert answers[0]["test_accuracy"] == result["test_accuracy"]
    assert (one["processes"], answers[0]["processes"]) == (1, 2)
    assert read_json(tmp_path / "two" / name / "run.json")["processes"] == 2
    weights = [
        load_tensors(tmp_path / out / folder / "model.safetensors")[0]
        for out, folder in (("one", alone), ("two", name))
    ]
    assert all(torch.allclose(weights[0][n], weights[1][n], rtol=0, atol=1e-5) for n in weights[0])
    assert abs(one["test_accuracy"] - answers[0]["test_accuracy"]) < 0.003  # one image of 359
    assert not (tmp_path / "never").exists()
    for said in (
        "is being written by another process",
        "process 1 of 2 differs from process 0 in: run. Give every process the same command.",
        "energy can be metered for one process",
        "`train --dry-run` runs in one process",
        "`layerticket find` runs in one process",
    ):
        assert ends[0][2].count(said) == 1, ends[0][2]
    # What process 0 has said is not said again.
    assert "being written" not in ends[1][2]
    assert "differs from" not in ends[1][2]


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node=2"),
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
                   "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_it(tmp_path, capsys, launcher):
    assert main(["train", *TRAIN, "--out", str(tmp_path / "one")]) == 0
    one = json.loads(capsys.readouterr().out)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
    }
    words = ["-m", *LAUNCHERS[launcher], "-m", "layerticket.cli", "train", *TRAIN]
    done = subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    assert (one["processes"], two["processes"]) == (1, 2)
    weights = [load_tensors(Path(end["run"]) / "model.safetensors")[0] for end in (one, two)]
    assert all(torch.allclose(weights[0][n], weights[1][n], rtol=0, atol=1e-5) for n in weights[0])
