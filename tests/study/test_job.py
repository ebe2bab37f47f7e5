"""Jobs of a study: what they share, what a user's own training needs, what weights are kept."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import toy_study
from layerticket.errors import LayerticketError
from layerticket.evaluation import robustness
from layerticket.files import read_json
from layerticket.study.folder import StudyFolder
from layerticket.study.job import (
    JobRunner,
    _clear,
    dataset_of,
    function_of,
    run_job,
    scored_on,
)
from layerticket.study.methods import ControlMethod, TicketMethod
from layerticket.study.plan import unfold
from layerticket.study.running.engine import run_study
from layerticket.study.running.executors import Workers
from layerticket.study.spec import StudyFile
from layerticket.study.status import study_status
from layerticket.study.toml import study_of, study_text
from layerticket.tensors import load_tensors, save_tensors
from toy_study import study_table

INLINE = Workers(executor="inline")
SYNFLOW = {"method": "ticket", "criterion": "synflow"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out, **changes):
    return run_study(study_of(study_table(**changes)), out, workers=INLINE)


def trainings(out):
    return {path.parent.name for path in (out / "trainings").glob("*/result.json")}


def begun(out):
    """How often each job was begun."""
    logs = (out / "jobs").glob("*/log.txt")
    return {log.parent.name: log.read_text().count("begins:") for log in logs}


def test_rows_that_come_to_one_training_share_it(tmp_path):
    """Three ways to the same two blocks of three: one training, one folder, one cost."""
    methods = [
        {"method": "ticket", "criterion": "snip", "label": "one"},
        {"method": "ticket", "criterion": "snip", "label": "two", "balanced": False},
        {"method": "control", "control": "each"},
    ]
    record = run(tmp_path, methods=methods, budgets=[{"remove": 1}])
    rows = {(row["method"], row["draw"]): row for row in record["runs"]}
    assert all(row["status"] == "done" for row in rows.values())
    assert len(rows) == 1 + 2 + 3
    names = {row["training"] for row in rows.values()}
    assert trainings(tmp_path) == names
    assert len(names) == 4  # dense, and every block alone; the tickets are two of those
    for label in ("one", "two"):
        ticket = rows[label, None]
        twin = next(r for r in rows.values() if r["draw"] is not None
                    and r["removed"] == ticket["removed"])  # fmt: skip
        assert twin["training"] == ticket["training"]
        assert twin["train_seconds"] == ticket["train_seconds"]
    trained = {row["training"]: row["train_seconds"] for row in rows.values()}
    assert record["cost"]["train_seconds"] == pytest.approx(sum(trained.values()))
    # Every block alone was not drawn at random, and is no choice that a ticket has to beat.
    assert {row["role"] for row in rows.values() if row["draw"] is not None} == {"baseline"}
    for comparison in record["comparisons"]:
        assert comparison["controls"] == []
        assert comparison["percentile"] is None
    for row in rows.values():
        assert row["cost"]["train_seconds"] == row["train_seconds"]
        assert not (tmp_path / row["folder"] / "ticket").exists()


def test_costs_of_a_row_are_what_it_needs_to_exist(tmp_path):
    methods = [
        {"method": "ticket", "criterion": "snip"},
        {"method": "lottery", "criterion": "magnitude", "rewind": "1", "score_at": "1"},
        {"method": "lottery", "criterion": "magnitude", "label": "late"},
        {"method": "imp", "rounds": 2},
        {"method": "control", "control": "last"},
    ]
    record = run(tmp_path, methods=methods)
    rows = {row["method"]: row for row in record["runs"]}
    own = {label: row["train_seconds"] for label, row in rows.items()}
    cost = {label: row["cost"]["train_seconds"] for label, row in rows.items()}
    assert cost["snip"] == own["snip"]
    assert rows["snip"]["cost"]["search_seconds"] == rows["snip"]["search_seconds"] > 0
    assert own["late"] + own["dense"] == pytest.approx(cost["late"])
    early = cost["lottery magnitude 1"] - own["lottery magnitude 1"]
    assert 0 < early < own["dense"]  # the dense training up to the epoch that was scored
    assert cost["last blocks"] == own["last blocks"]  # what sets its size is not on its bill
    between = cost["weights imp"] - own["weights imp"] - own["dense"]
    assert between > 0  # the training of the round
    distinct = {row["training"]: row["train_seconds"] for row in rows.values()}
    assert record["cost"]["train_seconds"] == pytest.approx(sum(distinct.values()) + between)


def test_what_a_lottery_added_later_goes_back_to_is_trained_again(tmp_path):
    first = run(tmp_path, similarity=True)
    before = begun(tmp_path)
    methods = [
        *study_table()["methods"],
        {"method": "lottery", "criterion": "magnitude", "rewind": "1"},
    ]
    more = run(tmp_path, methods=methods, similarity=True)
    assert [row["status"] for row in more["runs"]] == ["done"] * 3
    assert before.items() <= begun(tmp_path).items()  # nothing else was done again
    assert more["runs"][0] == first["runs"][0]
    assert more["runs"][2]["epochs"] == 1
    assert len(trainings(tmp_path)) == 3


def test_a_lottery_added_later_that_goes_back_to_the_first_weights_repeats_no_training(tmp_path):
    run(tmp_path)
    before = begun(tmp_path)
    methods = [*study_table()["methods"], {"method": "lottery", "criterion": "magnitude"}]
    more = run(tmp_path, methods=methods)
    assert [row["status"] for row in more["runs"]] == ["done"] * 3
    assert before.items() <= begun(tmp_path).items()
    assert not list(tmp_path.glob("trainings/*/epoch-*"))  # a repeated training would have kept one
    dense = next(tmp_path.glob("trainings/dense-*"))
    (dense / "first.safetensors").unlink()
    later = {"method": "lottery", "criterion": "magnitude", "label": "other", "score_at": "1"}
    run(tmp_path, methods=[*methods, later])
    assert sorted(path.stem for path in dense.glob("epoch-*")) == ["epoch-0000", "epoch-0001"]


def test_a_training_that_an_earlier_version_named_otherwise_is_not_mixed_in(tmp_path):
    run(tmp_path)
    dense = next(tmp_path.glob("trainings/dense-*"))
    old = dense.rename(dense.with_name("dense-of-an-earlier-version"))
    for path in tmp_path.glob("rows/*.json"):
        path.write_text(path.read_text().replace(dense.name, old.name))
    (old / "model.safetensors").unlink()
    methods = [*study_table()["methods"], {"method": "lottery", "criterion": "magnitude"}]
    more = run(tmp_path, methods=methods)
    failed = more["runs"][-1]
    assert failed["status"] == "failed"
    assert f"names that training {dense.name}. Run the study in a new folder." in failed["error"]


def test_what_began_at_a_snapshot_that_was_replaced_is_done_again(tmp_path):
    """As when weights were deleted, and another machine trains them again to other bits."""
    methods = [{"method": "lottery", "criterion": "magnitude", "rewind": "1"}]
    first = run(tmp_path, methods=methods)
    dense, ticket = first["runs"]
    place = tmp_path / dense["folder"]
    weights, facts = load_tensors(place / "epoch-0001.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 0.5
    save_tensors(place / "epoch-0001.safetensors", weights, facts)
    result = read_json(place / "result.json")
    result["snapshots"]["1"] = "e" * 64
    (place / "result.json").write_text(json.dumps(result))
    again = run(tmp_path, methods=methods)
    assert [row["status"] for row in again["runs"]] == ["done", "done"]
    assert again["runs"][1]["training"] == ticket["training"]  # named by training and epoch
    assert again["runs"][1]["curve"] != ticket["curve"]
    assert run(tmp_path, methods=methods)["runs"] == again["runs"]


@pytest.mark.parametrize("passes", [1, 4])
def test_what_a_run_itself_makes_undone_is_done_in_the_same_run(
    tmp_path, caplog, monkeypatch, passes
):
    """An evaluation added later trains the dense network again, here to other bits than before."""
    monkeypatch.setattr("layerticket.study.running.engine.PASSES", passes)
    methods = [{"method": "lottery", "criterion": "magnitude"}]
    first = run(tmp_path, methods=methods, keep_weights="none")
    dense = read_json(tmp_path / first["runs"][0]["folder"] / "result.json")["weights"]
    for path in (*tmp_path.rglob("record.json"), *tmp_path.rglob("result.json")):
        path.write_text(path.read_text().replace(dense, "e" * 64))
    more = run(
        tmp_path, methods=methods, keep_weights="none", evaluate=["test"], conditions={"images": 20}
    )
    if passes == 1:
        assert "failed" in {row["status"] for row in more["runs"]}
        assert "replaced 1 times while the study ran. Run the study again" in str(more["runs"])
        more = run(tmp_path, methods=methods, evaluate=["test"], conditions={"images": 20})
        assert [row["status"] for row in more["runs"]] == ["done", "done"]
        return
    assert [row["status"] for row in more["runs"]] == ["done", "done"]
    assert "What 3 jobs had used was replaced in the meantime: they are done again." in caplog.text
    search = next((tmp_path / "searches").glob("*/record.json"))
    assert dense in search.read_text()
    assert study_status(tmp_path)["done"] == 2


def test_figures_of_pairs_are_recorded_with_their_device(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "layerticket.study.evaluate.environment", lambda device=None: {"device": device}
    )
    record = run(tmp_path, similarity=True, timing=True)
    pairs = read_json(tmp_path / record["runs"][1]["folder"] / "pairs.json")
    seen = {
        name: [pair["environment"]["device"] for pair in of.values()] for name, of in pairs.items()
    }
    assert seen == {"similarity": [None], "timing": ["auto"]}


def test_weights_are_dropped_when_nobody_needs_them_any_more(tmp_path):
    changes = {"keep_weights": "none", "evaluate": ["fgsm"], "similarity": True, "timing": True}
    changes["conditions"] = {"images": 20}
    record = run(tmp_path, **changes)
    assert [row["status"] for row in record["runs"]] == ["done"] * 2
    assert not list((tmp_path / "trainings").rglob("*.safetensors"))
    dense, ticket = record["runs"]
    assert ticket["similarity"]["mean"] > 0
    assert ticket["evaluations"]["timing"]["speedup"]["value"] > 0
    assert ticket["evaluations"]["fgsm"]["images"] == 20
    assert len(dense["correct"]) == 90  # 359 test images, one bit each
    # A row added later trains again what it needs, to the same bits, and nothing else.
    methods = [*study_table()["methods"], {"method": "control", "control": "last"}]
    more = run(tmp_path, methods=methods, **changes)
    assert more["runs"][:2] == record["runs"]
    assert more["runs"][2]["status"] == "done"
    assert not list((tmp_path / "trainings").rglob("*.safetensors"))


def test_compilation_is_resolved_once_and_kept(tmp_path, monkeypatch):
    table = {"recipe": {**study_table()["recipe"], "compile": "auto"}}
    run(tmp_path, **table)
    assert read_json(tmp_path / "precision.json")["compile"] == "off"  # on a CPU
    monkeypatch.setattr("layerticket.study.job.compile_pays", lambda *_: 1 / 0)
    record = run(tmp_path, seeds=2, **table)
    assert [row["status"] for row in record["runs"]] == ["done"] * len(record["runs"])


def test_one_study_never_mixes_precisions_or_versions_of_training(tmp_path):
    run(tmp_path)
    kept = read_json(tmp_path / "precision.json")
    assert kept["precision"] == "fp32"
    (tmp_path / "precision.json").write_text(json.dumps(kept | {"precision": "bf16"}))
    record = run(tmp_path, seeds=2)
    assert "must not mix precisions" in record["runs"][-1]["error"]
    (tmp_path / "precision.json").write_text(json.dumps(kept | {"revision": -1}))
    record = run(tmp_path, seeds=2)
    assert "another version of the training code" in record["runs"][-1]["error"]


FIT = '''
"""A network and a training of one's own: no data set, no epochs, nothing that can be counted."""
import json, os, signal
from pathlib import Path
import torch
from toy_study import Net

def net(num_classes, in_channels):
    return Net(num_classes, in_channels)

def fit(model, seed, folder):
    """Three steps, of which it remembers how many are done."""
    place = Path(folder) / "mine.json"
    steps = json.loads(place.read_text()) if place.exists() else 0
    for step in range(steps, 3):
        if step == 2 and os.environ.get("KILL_FIT") and seed == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        place.write_text(json.dumps(step + 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    blocks = sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) - 1
    right = [image % 4 < blocks for image in range(16)]
    with (Path(folder) / "called.txt").open("a") as file:
        file.write(f"{steps}\\n")
    return {"accuracy": sum(right) / 16, "correct": right, "perplexity": 3.5}
'''

STUDY = """
title = "My own training"
models = ["{module}:net"]
fit = "{module}:fit"
input_shape = [3, 8, 8]
classes = 3
seeds = 2
budgets = [{{ remove = 1 }}]
[[methods]]
method = "ticket"
criterion = "synflow"
[[methods]]
method = "control"
control = "random"
"""


def own(tmp_path, module, monkeypatch):
    """A folder with a module of one's own, and the study file about it."""
    (tmp_path / f"{module}.py").write_text(FIT)
    (tmp_path / "mine.toml").write_text(STUDY.format(module=module))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "out"


def command(out, **more):
    paths = os.pathsep.join([str(out.parent), os.path.dirname(toy_study.__file__), *sys.path])
    words = [sys.executable, "-m", "layerticket.cli", "study", "run", "mine.toml"]
    words += ["--out", str(out), "--executor", "inline", "--json"]
    return subprocess.run(
        words, cwd=out.parent, env={**os.environ, "PYTHONPATH": paths, **more},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_an_own_training_is_killed_resumed_and_reported(tmp_path, monkeypatch):
    out = own(tmp_path, "mine_killed", monkeypatch)
    assert command(out, KILL_FIT="1").returncode == -signal.SIGKILL
    assert not trainings(out)
    done = command(out)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [row["status"] for row in record["runs"]] == ["done"] * 6
    dense = record["runs"][0]
    folder = out / dense["folder"]
    assert (folder / "called.txt").read_text() == "2\n"  # it went on from its own checkpoint
    assert dense["test_accuracy"] == 12 / 16
    assert dense["correct"] == "eeee"
    assert dense["epochs"] is dense["images_per_second"] is dense["precision"] is None
    assert dense["curve"] == []
    assert record["data"] is record["test_images"] is None
    for row in record["runs"]:
        assert (row["test_accuracy"] == 12 / 16) == (row["kind"] == "dense")
        assert row["train_seconds"] > 0
    assert read_json(folder / "result.json")["figures"] == {"perplexity": 3.5}
    again = command(out)
    assert json.loads(again.stdout)["runs"] == record["runs"]
    assert (folder / "called.txt").read_text() == "2\n"  # and is not called again
    report = subprocess.run(
        [sys.executable, "-m", "layerticket.cli", "report", str(out), "--no-figures"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert report.returncode == 0, report.stderr


def test_another_text_is_another_training_and_a_worker_that_has_it_refuses(tmp_path, monkeypatch):
    out = own(tmp_path, "mine_text", monkeypatch)
    study = study_of(study_table(models=["mine_text:net"], fit="mine_text:fit", recipe={},
                                 methods=[SYNFLOW]))  # fmt: skip
    first = run_study(study, out, workers=INLINE)["runs"]
    assert [row["status"] for row in first] == ["done", "done"]
    (tmp_path / "mine_text.py").write_text(FIT + "\nSTEPS = 4\n")
    job = next(iter(StudyFolder(out).read_plan().jobs))
    (StudyFolder(out).record_path(job)).unlink()
    with pytest.raises(LayerticketError, match="differs from when the study was planned"):
        run_job(out, job)
    # This process goes on with what it imported, so it must not do the jobs of the new text.
    refused = run_study(study, out, workers=INLINE)["runs"]
    assert "the old code would run" in refused[0]["error"]
    monkeypatch.delitem(sys.modules, "mine_text")
    second = run_study(study, out, workers=INLINE)["runs"]
    assert {row["id"] for row in first}.isdisjoint(row["id"] for row in second)
    assert [row["status"] for row in second] == ["done", "done"]
    assert {row["training"] for row in first}.isdisjoint(row["training"] for row in second)


def calls_of(fit):
    """Count the calls of a training."""
    made = []

    def counted(model, seed, folder):
        made.append(seed)
        return fit(model, seed, folder)

    return counted, made


def python_study(model, fit, **more):
    methods = (TicketMethod(criterion="magnitude"), ControlMethod(control="last"))
    return StudyFile(
        title="Functions", models=(model,), fit=fit, input_shape=(3, 8, 8), classes=3, seeds=(0,),
        methods=methods, **more,
    )  # fmt: skip


def test_python_functions_run_in_the_process_that_was_given_them(tmp_path, caplog):
    fit, calls = calls_of(lambda model, seed, folder: 0.5)

    def make(num_classes, in_channels):
        return toy_study.Net(num_classes, in_channels)

    named = python_study(make, fit, version="1")
    record = run_study(named, tmp_path / "named", workers=INLINE)
    assert [row["test_accuracy"] for row in record["runs"]] == [0.5] * 3
    assert record["runs"][0]["model"].endswith("make")
    count = len(calls)
    assert count == len({row["training"] for row in record["runs"]})
    run_study(named, tmp_path / "named", workers=INLINE)
    assert len(calls) == count  # named by a version: reused
    run_study(dataclasses.replace(named, version="2"), tmp_path / "named", workers=INLINE)
    assert len(calls) == 2 * count
    with pytest.raises(LayerticketError, match="exist only in this process"):
        run_study(named, tmp_path / "other", workers=Workers(workers=1))


def test_functions_without_a_version_are_never_reused_and_that_is_said(tmp_path, caplog):
    def make(num_classes, in_channels):
        return toy_study.Net(num_classes, in_channels)

    for count in (1, 2):
        fit, calls = calls_of(lambda model, seed, folder: 0.5)
        run_study(python_study(make, fit), tmp_path, workers=INLINE)
        assert len(calls) >= 2, count
    assert "no earlier result is reused" in caplog.text


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "it must return an accuracy"),
        ({"loss": 1.0}, "it must return an accuracy"),
        (True, "it must return an accuracy"),
        ("0.5", "it must return an accuracy"),
        (93.2, "Give a fraction, not percent"),
        (float("nan"), "Give a fraction, not percent"),
        ({"accuracy": -0.1}, "Give a fraction, not percent"),
        ({"accuracy": 0.5, "correct": "EE"}, "two digits of 0-9a-f"),
        ({"accuracy": 0.5, "correct": "eee"}, "two digits of 0-9a-f"),
    ],
)
def test_what_fit_returns_is_checked(tmp_path, returned, said):
    def make(num_classes, in_channels):
        return toy_study.Net(num_classes, in_channels)

    study = python_study(make, lambda model, seed, folder: returned, version="1")
    record = run_study(study, tmp_path, workers=INLINE)
    assert record["runs"][0]["status"] == "failed"
    assert said in record["runs"][0]["error"]
    assert study_status(tmp_path)["failed"] == len(record["runs"])


def test_an_accuracy_may_be_a_number_of_numpy(tmp_path):
    def make(num_classes, in_channels):
        return toy_study.Net(num_classes, in_channels)

    study = python_study(make, lambda model, seed, folder: np.float32(0.5), version="1")
    record = run_study(study, tmp_path, workers=INLINE)
    assert record["runs"][0]["test_accuracy"] == 0.5


def test_an_error_of_the_system_is_told_in_words(tmp_path):
    def make(num_classes, in_channels):
        return toy_study.Net(num_classes, in_channels)

    def fit(model, seed, folder):
        raise FileNotFoundError(2, "No such file or directory", "weights.bin")

    record = run_study(python_study(make, fit, version="1"), tmp_path, workers=INLINE)
    assert record["runs"][0]["error"] == "weights.bin: No such file or directory."


def test_a_worker_reads_plan_and_study_of_one_version(tmp_path, monkeypatch):
    """Another runner writes its version of the study while a worker starts."""
    older, newer = (study_of(study_table(recipe={"epochs": n})) for n in (1, 2))
    data = scored_on(older, dataset_of(older, None))
    folder, plan = StudyFolder(tmp_path), unfold(older, data)
    folder.write_plan(plan, study_text(older))

    def check(self):
        with folder.held():
            folder.write_plan(unfold(newer, data), study_text(newer))

    monkeypatch.setattr(JobRunner, "_check_texts", check)
    name = plan.rows[0].jobs["train"]
    run_job(tmp_path, name)
    assert folder.result(folder.record(name)["training"])["epochs"] == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:fit", "fit 'no_such_module:fit': there is no module 'no_such_module'"),
        ("toy_study:fit", "'toy_study' has no function 'fit'"),
        ("toy_study", "has no function ''. Write package.module:function"),
    ],
)
def test_a_fit_that_is_not_there_is_named(name, said):
    with pytest.raises(LayerticketError, match=re.escape(said)):
        function_of(name)


def test_a_parameter_that_fit_leaves_as_it_was_is_noted(tmp_path):
    def still(num_classes, in_channels):
        return toy_study.Net(num_classes, in_channels)

    def moved(model, seed, folder):
        nn.init.zeros_(model.head.bias)
        return 0.5

    lazy = python_study(still, lambda model, seed, folder: 0.5, version="1")
    record = run_study(lazy, tmp_path / "a", workers=INLINE)
    assert record["runs"][0]["config"]["parameters_unchanged"] is True
    record = run_study(python_study(still, moved, version="1"), tmp_path / "b", workers=INLINE)
    assert record["runs"][0]["config"]["parameters_unchanged"] is False


def test_a_search_that_finds_something_else_now_has_its_row_done_again(tmp_path):
    """Also where the training starts at the draw, and so reads no weights of what was scored."""
    changes = {
        "methods": [{"method": "lottery", "criterion": "magnitude"}],
        "budgets": [{"remove": 1}],
        "evaluate": ["fgsm"],
        "conditions": {"images": 20},
    }
    first = run(tmp_path, **changes)
    dense, ticket = first["runs"]
    place = tmp_path / dense["folder"]
    weights, facts = load_tensors(place / "model.safetensors")
    for name, tensor in weights.items():
        if name.startswith(f"{ticket['removed'][0]}."):
            weights[name] = tensor * 1000 if tensor.is_floating_point() else tensor
    save_tensors(place / "model.safetensors", weights, facts)
    result = read_json(place / "result.json") | {"weights": "e" * 64}
    (place / "result.json").write_text(json.dumps(result))
    row = run(tmp_path, **changes)["runs"][1]
    assert row["status"] == "done"
    assert row["removed"] != ticket["removed"]
    assert row["training"] != ticket["training"]
    assert row["config"]["removed"]["removed"] == row["removed"]
    judged = next((tmp_path / "jobs").glob(f"evaluate-{row['id']}*/record.json"))
    assert read_json(judged)["training"] == row["training"]


def test_a_ticket_whose_snapshot_was_dropped_keeps_its_name(tmp_path):
    """An evaluation added later trains again what it needs: dense first, then from its snapshot."""
    changes = {"methods": [{"method": "lottery", "criterion": "magnitude", "rewind": "1"}]}
    first = run(tmp_path, keep_weights="none", **changes)
    changes |= {"evaluate": ["fgsm"], "conditions": {"images": 20}}
    more = run(tmp_path, keep_weights="none", **changes)
    assert [row["status"] for row in more["runs"]] == ["done"] * 2
    names = [row["training"] for row in first["runs"]]
    assert [row["training"] for row in more["runs"]] == names
    assert trainings(tmp_path) == set(names)
    assert more["runs"][1]["evaluations"]["fgsm"]["images"] == 20


def test_what_was_measured_on_other_images_is_never_mixed(tmp_path, monkeypatch):
    changes = {"evaluate": ["fgsm", "test"], "conditions": {"images": 20}, "similarity": True}
    first = run(tmp_path, **changes)
    names = {path.name for path in (tmp_path / "jobs").iterdir()}
    assert run(tmp_path, **changes) == first
    with monkeypatch.context() as other:
        other.setattr(robustness, "REVISION", robustness.REVISION + 1)
        said = r"'fgsm' .* with revision 1, .* with 2 now; .* delete jobs/evaluate-\*"
        with pytest.raises(LayerticketError, match=said):
            run(tmp_path, **changes, seeds=[0, 1])
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == names
    assert run(tmp_path, **changes) == first
    monkeypatch.setattr(robustness, "REVISION", robustness.REVISION + 1)
    for folder in (tmp_path / "jobs").glob("evaluate-*"):
        shutil.rmtree(folder)
    again = run(tmp_path, **changes)
    assert [row["status"] for row in again["runs"]] == ["done"] * 2
    settings = [row["evaluations"]["fgsm"]["settings"] for row in again["runs"]]
    assert [one["revision"] for one in settings] == [2, 2]


def test_rounds_of_pruning_are_dropped_like_any_training(tmp_path):
    methods = [*study_table()["methods"], {"method": "imp", "rounds": 2}]
    record = run(tmp_path, methods=methods, keep_weights="none")
    assert [row["status"] for row in record["runs"]] == ["done"] * 3
    assert len(trainings(tmp_path)) == 4
    left = {path.name for path in (tmp_path / "trainings").rglob("*.safetensors")}
    assert left == {"masks.safetensors"}


def test_two_searches_that_find_one_ticket_are_both_on_the_bill(tmp_path):
    record = run(tmp_path, budgets=[{"remove": 1}, {"save_macs": 0.1}])
    _, one, two = record["runs"]
    assert one["training"] == two["training"]
    total = one["search_seconds"] + two["search_seconds"]
    assert record["cost"]["search_seconds"] == pytest.approx(total)


def test_two_functions_of_one_name_are_refused():
    def made(offset):
        return lambda num_classes, in_channels: toy_study.residual(num_classes, in_channels)

    with pytest.raises(LayerticketError, match="two models are named"):
        StudyFile(title="Twice", models=(made(0), made(1)), methods=(TicketMethod(),))


def test_figures_that_are_known_bring_no_weights_back(tmp_path, monkeypatch):
    """A second way to a network whose weights were dropped: all that is asked was measured."""
    twin = {"method": "ticket", "criterion": "snip", "label": "two", "balanced": False}
    changes = {"keep_weights": "none", "similarity": True, "budgets": [{"remove": 1}]}
    changes |= {"evaluate": ["fgsm"], "conditions": {"images": 20}}
    first = run(tmp_path, **changes)
    monkeypatch.setattr("layerticket.study.train.fit", lambda *_, **__: 1 / 0)
    more = run(tmp_path, methods=[*study_table()["methods"], twin], **changes)
    assert more["runs"][2]["training"] == first["runs"][1]["training"]
    assert [row["status"] for row in more["runs"]] == ["done"] * 3
    for figure in ("evaluations", "similarity"):
        assert more["runs"][2][figure] == first["runs"][1][figure]


def test_a_search_that_was_cut_off_is_cleared_of_what_we_wrote_alone(tmp_path):
    out = tmp_path / "searches" / "a"
    (out / "rounds" / "ticket-1").mkdir(parents=True)
    for name in ("ticket.json", "init.safetensors", "bill.json", "rounds/ticket-1/ticket.json"):
        (out / name).write_text("{}")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(LayerticketError, match=r"has 'notes.txt', which does not belong"):
        _clear(out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    (out / "ticket.json").write_text("{}")
    _clear(out)
    assert not out.exists()
    _clear(out)
