"""The contract of the command line: one JSON object on stdout, exit codes, errors of one line."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from layerticket.cli.app import VERBS, main
from layerticket.ticket.ticket import Ticket

FIND = ["find", "resnet20", "--remove", "3", "--seed", "1"]
TRAIN = ["train", "resnet20", "--epochs", "1", "--seed", "1"]


@pytest.fixture
def run(capsys):
    def call(*words, code=0):
        assert main([str(word) for word in words]) == code, capsys.readouterr().err
        return capsys.readouterr()

    return call


def answer(captured):
    lines = captured.out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_blocks_lists_what_can_go_and_why_the_rest_stays(run):
    record = answer(run("blocks", "resnet32-projection", "--json"))
    assert set(record) == {"model", "params", "macs", "input", "blocks", "rejected"}
    assert len(record["blocks"]) == 13
    assert {"name", "stage", "params", "macs"} <= set(record["blocks"][0])
    assert record["macs"] == pytest.approx(69.12e6, abs=0.01e6)
    assert {r["name"] for r in record["rejected"]} == {"layer2.0", "layer3.0"}
    assert record["rejected"][0]["reason"] == "changes shape (16, 32, 32) -> (32, 16, 16)"


def test_blocks_takes_the_shape_of_a_data_set_or_the_one_given(run):
    digits = answer(run("blocks", "resnet20", "--data", "digits", "--json"))
    same = answer(run("blocks", "resnet20", "--input-shape", "1,8,8", "--json"))
    assert digits["macs"] == same["macs"] < 3e6


def test_find_answers_with_the_fields_scripts_rely_on(run, tmp_path):
    record = answer(run(*FIND, "--criterion", "snip", "--out", tmp_path / "t", "--json"))
    assert set(record) == {
        "ticket", "criterion", "removed", "kept", "scores", "macs", "params", "score_seconds",
        "rounds", "origin", "search_seconds", "search_energy_kwh", "search_co2_kg",
        "energy_method", "measured", "forecast", "cuts", "input",
    }  # fmt: skip
    assert record["origin"] is None
    (cut,) = record["cuts"]
    assert cut["gap"] == record["scores"][cut["kept"]] - record["scores"][cut["removed"]]
    assert [sorted(names) for names in record["rounds"]] == [record["removed"]]
    assert (record["ticket"], record["criterion"]) == (str(tmp_path / "t"), "snip")
    lowest = sorted(record["scores"], key=record["scores"].get)[:3]
    assert sorted(lowest) == record["removed"]
    assert set(record["removed"]) | set(record["kept"]) == set(record["scores"])
    assert Ticket.load(tmp_path / "t").removed == tuple(record["removed"])


def test_the_same_search_twice_is_the_same_ticket(run, tmp_path):
    run(*FIND, "--out", tmp_path / "t")
    first = Ticket.load(tmp_path / "t").digest
    run(*FIND, "--out", tmp_path / "t")
    assert Ticket.load(tmp_path / "t").digest == first


def test_how_sure_the_cut_is_is_told_and_costs_nothing_if_not_wanted(tmp_path):
    words = ["find", "resnet20", "--remove", "3", "--images", "20", "--out"]
    find = [sys.executable, "-m", "layerticket.cli", *words]
    told = subprocess.run([*find, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert "a noise of" in told.stdout
    assert "over two halves of the batch (scored in" in told.stdout
    assert told.stderr.startswith("layerticket: the scores of ")
    assert len(told.stderr.splitlines()) == 1
    silent = subprocess.run(
        [*find, tmp_path / "b", "--no-noise"], capture_output=True, text=True, check=True
    )
    assert "noise" not in silent.stdout + silent.stderr


def test_share_of_macs_is_met(run, tmp_path):
    words = ["find", "resnet20", "--save-macs", "0.3", "--out", tmp_path / "t", "--json"]
    macs = answer(run(*words))["macs"]
    assert 0.3 <= 1 - macs["ticket"] / macs["dense"] < 0.3 + 1 / 7


def test_train_then_evaluate_a_ticket_and_the_dense_net(run, tmp_path):
    run(*FIND, "--out", tmp_path / "t")
    runs = tmp_path / "runs"
    dense = answer(run(*TRAIN, "--out", runs, "--json"))
    ticket = answer(run(*TRAIN, "--ticket", tmp_path / "t", "--out", runs, "--json"))
    for record in (dense, ticket):
        assert {
            "run", "test_accuracy", "epochs", "train_seconds", "images_per_second",
            "energy_kwh", "co2_kg", "peak_memory_bytes",
        } <= set(record)  # fmt: skip
        assert record["energy_kwh"] is None
        evaluated = answer(run("evaluate", record["run"], "--on", "test", "--json"))
        assert evaluated["run"] == record["run"]
        assert evaluated["results"]["test"]["accuracy"] == record["test_accuracy"]
    assert ticket["params"] < dense["params"]
    assert dense["run"] != ticket["run"]
    again = answer(run(*TRAIN, "--out", runs, "--json"))
    assert again == dense  # finished work is not done twice
    error = run("evaluate", runs, code=2).err
    assert "contains 2 runs" in error
    path = Path(dense["run"]) / "run.json"
    written = json.loads(path.read_text())
    written["config"]["data"] = None  # as a training of one's own without data
    path.write_text(json.dumps(written))
    assert "names no data" in run("evaluate", dense["run"], code=2).err


def test_a_ticket_at_a_theta_0_of_another_seed_is_said(run, tmp_path):
    run(*FIND, "--out", tmp_path / "t")
    words = ["train", "resnet20", "--epochs", "1", "--seed", "2", "--ticket", tmp_path / "t"]
    captured = run(*words, "--out", tmp_path / "runs", "--json")
    assert "its own theta_0" in captured.err
    assert json.loads(captured.out)["epochs"] == 1


def test_demo_is_a_study_and_its_report(run, tmp_path):
    words = ["demo", "--model", "resnet20", "--remove", "3", "--seeds", "2", "--epochs", "1"]
    words += ["--criteria", "grasp", "random", "--out", tmp_path]
    summary = answer(run(*words, "--json"))
    assert [one["method"] for one in summary["comparisons"]] == ["grasp", "random"]
    study = json.loads((tmp_path / "study.json").read_text())
    rows = {(row["method"], row["seed"]): row for row in study["runs"]}
    expected = fmean(
        rows["grasp", seed]["test_accuracy"] - rows["dense", seed]["test_accuracy"]
        for seed in (0, 1)
    )
    assert summary["comparisons"][0]["difference"]["mean"] == pytest.approx(expected)
    assert summary["verdict"] == study["verdict"]
    assert Path(summary["report"]).read_text().startswith("<!")
    text = run(*words).out
    assert study["verdict"] in text
    assert summary["report"] in text


def test_demo_takes_images_of_ones_own(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 12, 10), dtype=np.uint16)
    np.savez(tmp_path / "scans.npz", images=pixels, labels=np.arange(40) % 2)
    words = ["demo", "--data", f"arrays:{tmp_path / 'scans.npz'}", "--value-range", "0,4095"]
    words += ["--image-size", "8", "--model", "resnet14", "--remove", "1", "--seeds", "1"]
    answer(run(*words, "--epochs", "1", "--out", tmp_path / "demo", "--json"))
    study = json.loads((tmp_path / "demo" / "study.json").read_text())
    assert study["study"]["image_size"] == [8, 8]
    assert {row["status"] for row in study["runs"]} == {"done"}
    assert "scans" in study["data"]  # not the digits
    assert str(tmp_path) not in study["title"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bloks"], "Did you mean"),
        (["blocks", "resnet21"], "resnet20"),
        (["blocks", "resnet20", "--input-shape", "3x"], "channels,height,width"),
        (["blocks", "resnet20", "--input-shape", "3,8,8", "--data", "digits"], "choose one"),
        (["find", "resnet20", "--remove", "3"], "--out"),
        ([*FIND, "--out", "x", "--criterion", "grap"], "Did you mean 'grasp'?"),
        ([*FIND, "--out", "x", "--save-macs", "0.1"], "exactly one"),
        (["find", "resnet20", "--remove", "8", "--out", "x"], "at most 7 of 7"),
        ([*FIND, "--out", "x", "--data", "cifar10"], "--data-dir"),
        ([*FIND, "--out", "x", "--protect", "nothing.*"], "matches no removable block"),
        ([*FIND, "--out", "x", "--criterion", "magnitude", "--temperature", "2"], "temperature"),
        (["train", "resnet20", "--epochs", "0"], "epochs"),
        (["train", "resnet20", "--ticket", "absent"], "not a ticket"),
        (["train", "resnet20", "--epoch", "1"], "--epochs"),
        (["evaluate", "absent"], "not a run"),
        (["demo", "--seeds", "0"], "seeds"),
    ],
)
def test_bad_input_is_answered_in_one_line_with_code_2(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    captured = run(*words, code=2)
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not list(tmp_path.iterdir())


def test_evaluations_that_are_not_known_are_refused_before_any_work(run, tmp_path):
    trained = answer(run(*TRAIN, "--out", tmp_path, "--json"))
    assert "tset" in run("evaluate", trained["run"], "--on", "tset", code=2).err


def test_a_failure_while_running_ends_with_1(run, tmp_path, monkeypatch):
    monkeypatch.setattr("layerticket.training.fit.learning_rate_at", lambda *_: 1e30)
    words = ["train", "resnet20", "--epochs", "1", "--out", tmp_path]
    error = run(*words, "--warmup-epochs", "0", code=1).err
    assert "the loss is" in error.splitlines()[-1]


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(run, tmp_path, monkeypatch):
    from layerticket.training import fit

    train_epoch = fit.train_epoch

    def interrupted(trainer, state, tell):
        if state.epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(trainer, state, tell)

    words = ["train", "resnet20", "--epochs", "2", "--out", tmp_path]
    monkeypatch.setattr(fit, "train_epoch", interrupted)
    assert "to resume" in run(*words, code=130).err
    monkeypatch.undo()
    assert answer(run(*words, "--json"))["epochs"] == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_every_verb_teaches_by_example(run):
    for verb in VERBS:
        assert f"layerticket {verb}" in run(verb, "--help").out.split("Examples")[1]


def test_the_installed_program_separates_answer_and_progress(tmp_path):
    words = ["-m", "layerticket.cli", *TRAIN, "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("resnet20: test accuracy")
    assert "images/s" in done.stderr


def test_find_tells_a_command_that_can_be_typed(run, tmp_path, cifar10_dir):
    words = ["find", "resnet20", "--remove", "1", "--out", tmp_path / "t", "--data", "cifar10"]
    told = run(*words, "--data-dir", cifar10_dir).out
    assert told.endswith(f"--ticket {tmp_path / 't'} --data cifar10 --data-dir {cifar10_dir}\n")
