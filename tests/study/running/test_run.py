"""Studies as they run: nothing twice, nothing lost, failures told, and all executors agree."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
import torch

from layerticket.criteria import registry
from layerticket.errors import LayerticketError
from layerticket.files import exclusive
from layerticket.study import folder as folder_module
from layerticket.study.folder import Context, StudyFolder
from layerticket.study.results import load_study, repeat_command
from layerticket.study.running import engine
from layerticket.study.running.engine import forecast_study, run_study
from layerticket.study.running.executors import Workers, cores
from layerticket.study.status import study_status
from layerticket.study.toml import study_of
from layerticket.tensors import load_tensors
from toy_jobs import until
from toy_study import FILE, WHOM, study_table

INLINE = Workers(executor="inline")
SAME = ("id", "method", "seed", "test_accuracy", "validation_accuracy", "macs", "params", "removed")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have it
    yield
    torch.set_num_threads(before)


def run(out, workers=INLINE, only=(), **changes):
    return run_study(study_of(study_table(**changes)), out, workers=workers, only=only)


def ends(record):
    """What has to be the same however a study came to its end."""
    curves = [[e["train_loss"] for e in row["curve"]] for row in record["runs"]]
    return [{key: row[key] for key in SAME} for row in record["runs"]], curves


def weights(out, record):
    return [load_tensors(out / row["folder"] / "model.safetensors")[0] for row in record["runs"]]


def equal_weights(one, other):
    return all(
        torch.equal(mine[name], theirs[name])
        for mine, theirs in zip(one, other, strict=True)
        for name in mine
    )


def tries(out):
    """How often each job was begun."""
    logs = (out / "jobs").glob("*/log.txt")
    return {log.parent.name: log.read_text().count("begins:") for log in logs}


def test_leaves_one_record_and_one_table(tmp_path):
    record = run(tmp_path, evaluate=["fgsm"], conditions={"images": 20})
    assert record == load_study(tmp_path) == json.loads((tmp_path / "study.json").read_text())
    assert (record["environment"]["threads"], record["environment"]["workers"]) == (1, 1)
    places = [(one["task"], one["seeds"], one["runs"]) for one in record["environments"]]
    assert places == [("training", [0], 2), ("evaluation", [0], 2)]
    assert all(one["environment"]["torch"] == torch.__version__ for one in record["environments"])
    dense, ticket = record["runs"]
    assert (dense["method"], dense["budget"], dense["removed"]) == ("dense", None, [])
    assert (ticket["method"], ticket["budget"], ticket["kind"]) == ("snip", "remove 1", "ticket")
    network = record["networks"]["toy_study:residual"]
    assert dense["macs"] == network["macs"] > ticket["macs"]
    assert dense["params"] == network["params"] > ticket["params"]
    assert len(network["blocks"]) == 3 == len(ticket["kept"]) + len(ticket["removed"])
    assert dense["kept"] == [block["name"] for block in network["blocks"]]
    assert ticket["search_seconds"] > 0
    for row in record["runs"]:
        assert row["status"] == "done"
        assert row["error"] is row["energy_kwh"] is row["similarity"] is None
        assert [point["epoch"] for point in row["curve"]] == [1, 2]
        assert row["evaluations"]["fgsm"]["images"] == 20
        assert (tmp_path / row["log"]).exists()
        assert (
            json.loads((tmp_path / row["folder"] / "run.json").read_text())["config"]
            == (row["config"])
        )
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["dense", "snip"]
    assert float(rows[1]["test_accuracy"]) == ticket["test_accuracy"]
    assert float(rows[1]["accuracy on fgsm"]) == ticket["evaluations"]["fgsm"]["accuracy"]
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "runs.parquet")
    assert parquet.column("test_accuracy").to_pylist()[1] == ticket["test_accuracy"]


def test_a_training_resumed_elsewhere_is_listed_in_both_environments(tmp_path):
    begun = tmp_path / run(tmp_path)["runs"][1]["folder"] / "run.json"
    record = json.loads(begun.read_text())
    elsewhere = {"environment": record["environment"] | {"cpu": "another"}}
    begun.write_text(json.dumps(record | {"resumed": [elsewhere]}))
    first, second = run(tmp_path)["environments"]
    assert (first["runs"], second["runs"], second["environment"]["cpu"]) == (2, 1, "another")


def test_what_is_finished_is_not_done_again(tmp_path):
    first = run(tmp_path)
    before = tries(tmp_path)
    assert ends(run(tmp_path)) == ends(first)
    assert tries(tmp_path) == before
    more = run(tmp_path, seeds=2)
    assert [row["seed"] for row in more["runs"]] == [0, 0, 1, 1]
    assert before.items() <= tries(tmp_path).items()
    assert set(tries(tmp_path).values()) == {1}
    assert len(list((tmp_path / "trainings").glob("*/result.json"))) == 4


def test_a_failure_is_told_and_stops_nothing_else(tmp_path):
    record = run(tmp_path, models=["toy_study:broken", "toy_study:residual"])
    rows = {(row["model"].partition(":")[2], row["method"]): row for row in record["runs"]}
    assert {key: row["status"] for key, row in rows.items()} == {
        ("broken", "dense"): "failed",
        ("broken", "snip"): "failed",
        ("residual", "dense"): "done",
        ("residual", "snip"): "done",
    }
    assert rows["broken", "dense"]["error"] == "RuntimeError: this layer is on strike"
    log = (tmp_path / rows["broken", "dense"]["log"]).read_text()
    assert "Traceback" in log
    assert "this layer is on strike" in log
    standing = study_status(tmp_path)
    assert (standing["done"], standing["failed"], standing["waiting"]) == (2, 2, 0)
    assert set(standing["failures"]) == {row["id"] for key, row in rows.items() if key[0][0] == "b"}


def test_what_is_not_tried_again_stays_failed(tmp_path):
    both = {"models": ["toy_study:broken", "toy_study:residual"]}
    first = run(tmp_path, **both)["runs"]
    again = run(tmp_path, only=(first[2]["id"],), **both)["runs"]
    assert [row["status"] for row in again] == ["failed", "failed", "done", "done"]
    assert [row["error"] for row in again] == [row["error"] for row in first]


def test_what_comes_after_a_failure_names_its_cause(tmp_path, monkeypatch):
    import toy_study

    built = []

    def fails_in_training(num_classes, in_channels):
        built.append(0)
        if len(built) > 1:  # the first is only looked at
            raise MemoryError("no room")
        return toy_study.residual(num_classes, in_channels)

    monkeypatch.setattr(toy_study, "late", fails_in_training, raising=False)
    lottery = [{"method": "lottery", "criterion": "magnitude"}]
    record = run(tmp_path, models=["toy_study:late"], methods=lottery)
    dense, after = record["runs"]
    assert dense["error"] == "MemoryError: no room"
    assert after["status"] == "failed"
    assert after["error"].endswith("failed: MemoryError: no room")
    assert after["log"] == dense["log"]
    monkeypatch.setattr(toy_study, "late", toy_study.residual)
    again = run(tmp_path, models=["toy_study:late"], methods=lottery)  # failures are tried again
    assert [row["status"] for row in again["runs"]] == ["done", "done"]


def test_a_job_of_another_process_is_waited_for(tmp_path):
    study = study_of(study_table())
    whole = run(tmp_path / "whole")
    run(tmp_path / "shared", only=(whole["runs"][0]["id"],))  # writes the plan
    folder = StudyFolder(tmp_path / "shared")
    name = next(r.jobs["train"] for r in folder.read_plan().rows if r.method == "snip")
    seen = []
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder.job(name)))

        def tell(standing):
            seen.append(standing)
            stack.close()

        record = run_study(study, folder.root, workers=INLINE, report=tell)
    assert seen[0].running == 1
    assert ends(record) == ends(whole)


def test_an_older_version_of_a_study_leaves_the_newer_its_record(tmp_path):
    older, newer = study_of(study_table()), {"seeds": 2, "margin": 0.02}
    begun = []

    def tell(_):
        if not begun:  # while the older runner is at work, the newer comes and ends
            begun.append(run(tmp_path, **newer))

    mine = run_study(older, tmp_path, workers=INLINE, report=tell)
    assert [row["seed"] for row in mine["runs"]] == [0, 0]
    assert load_study(tmp_path) == begun[0]
    assert [row["seed"] for row in load_study(tmp_path)["runs"]] == [0, 0, 1, 1]
    with (tmp_path / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert run(tmp_path, margin=0.03) == load_study(tmp_path)  # a changed margin is a version too


def test_a_runner_that_is_waited_for_is_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(folder_module, "LOG_AFTER", 0.0)
    folder = StudyFolder(tmp_path)

    def wait():
        with folder.held():
            pass

    with exclusive(tmp_path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: caplog.messages)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    (said,) = caplog.messages
    assert f"pid {os.getpid()}" in said


def settled(folder, threads=None, share=1, workers=1):
    return folder.save_context(Context(), threads=threads, share=share, workers=workers)


def test_a_study_keeps_its_threads(tmp_path):
    folder = StudyFolder(tmp_path)
    assert settled(folder, None, 3).threads == 3
    assert settled(folder, None, 1).threads == 3
    assert settled(folder, 3, 1).threads == 3
    with pytest.raises(LayerticketError, match=r"started with 3 threads .* Leave out --threads"):
        settled(folder, 2, 1)
    assert folder.read_context().threads == 3


def test_the_most_workers_are_noted(tmp_path):
    folder = StudyFolder(tmp_path)
    assert folder.read_context().workers is None  # nobody has worked
    for count, most in ((2, 2), (1, 2), (4, 4), (None, None), (1, None)):
        assert settled(folder, workers=count).workers == most
        assert folder.read_context().workers == most


def test_a_command_that_repeats_a_row_says_what_decides_its_end():
    context = Context(
        data_dir=Path("/images"),
        shift_dirs=(Path("/shifted"), Path("/images")),
        device="cpu",
        threads=3,
    )
    assert repeat_command(context, "abc").endswith(
        "--threads 3 --device cpu --data-dir /images --shift-dir /shifted"
    )


def test_single_rows_and_wrong_wishes(tmp_path):
    with pytest.raises(LayerticketError, match="no run of this study"):
        run(tmp_path, only=("nothing",))
    first = [asdict(row) for row in StudyFolder(tmp_path).read_plan().rows]
    record = run(tmp_path, only=(first[0]["id"],))
    first = record["runs"]
    assert [row["status"] for row in record["runs"]] == ["done", "waiting"]
    assert first[1]["id"] in first[1]["repeat"]
    with pytest.raises(LayerticketError, match="has no study"):
        study_status(tmp_path / "nowhere")


def test_trackers_of_the_study_file_reach_every_training(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    table = {"track": ["tensorboard"], "track_dir": "curves"}
    record = run(tmp_path / "study", tracking=table)
    assert record["study"]["tracking"] == table
    names = {row["folder"].rpartition("/")[2] for row in record["runs"]}
    assert {path.name for path in (tmp_path / "curves").iterdir()} == names
    assert len(list((tmp_path / "curves").rglob("events.out.tfevents.*"))) >= 2
    with pytest.raises(LayerticketError, match="Did you mean 'tensorboard'"):
        run(tmp_path / "other", tracking={"track": ["tensorbord"]})


def test_counters_of_the_whole_processor_serve_one_job_at_a_time(tmp_path):
    workers = Workers(workers=2, device="cpu")
    with pytest.raises(LayerticketError, match="Use --workers 1"):
        run(tmp_path, workers=workers, energy={"country": "DEU"})
    assert not (tmp_path / "trainings").exists()


def test_the_counter_of_a_gpu_serves_one_job_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    energy = {"country": "DEU", "cpu_tdp": 100.0}
    for workers in (Workers(jobs_per_gpu=2), Workers(jobs_per_gpu=2, workers=3)):
        with pytest.raises(LayerticketError, match="Use --jobs-per-gpu 1"):
            run(tmp_path, workers=workers, energy=energy)
    assert not (tmp_path / "trainings").exists()
    assert not Workers(jobs_per_gpu=2, workers=2).share_gpus  # one GPU each
    assert not Workers(jobs_per_gpu=2, device="cpu").share_gpus
    assert not Workers(jobs_per_gpu=2, executor="inline").share_gpus
    assert Workers(jobs_per_gpu=2, executor="ray", ray_address="auto").share_gpus


def test_nothing_is_trained_when_an_evaluation_does_not_fit(tmp_path):
    with pytest.raises(LayerticketError, match="Did you mean 'fgsm'"):
        run(tmp_path, evaluate=["fgsmm"])
    assert not (tmp_path / "trainings").exists()


@pytest.mark.parametrize(
    ("shallower", "said"),
    [
        ({}, "no shallower network is known for 'toy_study:residual'"),
        ({"model": "timm:no_such_net"}, "'timm:no_such_net' is not known"),
    ],
)
def test_nothing_is_trained_when_there_is_no_shallower_network(tmp_path, shallower, said):
    pytest.importorskip("timm")
    methods = [{"method": "ticket", "criterion": "snip"}, {"method": "shallower", **shallower}]
    with pytest.raises(LayerticketError, match=said):
        run(tmp_path, methods=methods)
    assert not (tmp_path / "trainings").exists()


OWN_CRITERION = """
import layerticket as lt

@lt.criterion("own_depth", cites="mine", uses=(), order=0)
def depth(model, blocks, batch):
    return {block.name: float(block.position) for block in blocks}
"""


def test_workers_import_the_module_of_a_criterion(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_depth.py").write_text(OWN_CRITERION)
    importlib.import_module("own_depth")
    methods = [{"method": "ticket", "criterion": "own_depth"}]
    record = run(tmp_path / "out", Workers(workers=1), methods=methods)
    assert [row["status"] for row in record["runs"]] == ["done", "done"]
    assert record["runs"][1]["removed"] == ["blocks.0"]


def test_a_criterion_of_a_script_needs_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))

    @registry.criterion("early", cites="mine", uses=(), order=0)
    def early(model, blocks, batch):
        return {block.name: -float(block.position) for block in blocks}

    methods = [{"method": "ticket", "criterion": "early"}]
    with pytest.raises(LayerticketError, match="register a criterion in a module"):
        run(tmp_path, Workers(workers=1), methods=methods)
    assert not list(tmp_path.iterdir())
    record = run(tmp_path, methods=methods, version="1")
    assert record["runs"][1]["removed"] == ["blocks.2"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv(FILE, str(tmp_path / "killed"))
    changes = {"models": ["toy_study:mortal", "toy_study:broken"]}
    record = run(tmp_path / "killed-once", Workers(workers=cores()), **changes)
    assert (tmp_path / "killed").exists()
    assert [row["status"] for row in record["runs"]] == ["done", "done", "failed", "failed"]
    assert sorted(tries(tmp_path / "killed-once").values())[-1] == 2
    resumed = [
        path
        for path in (tmp_path / "killed-once" / "trainings").glob("*/run.json")
        if "resumed" in json.loads(path.read_text())
    ]
    assert len(resumed) == 1  # it went on from the checkpoint
    whole = run(tmp_path / "whole", **changes)
    assert ends(record) == ends(whole)
    done = [{**r, "runs": r["runs"][:2]} for r in (record, whole)]
    assert equal_weights(
        weights(tmp_path / "killed-once", done[0]), weights(tmp_path / "whole", done[1])
    )


def test_a_worker_that_always_dies_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("layerticket.study.running.executors.attempt", lambda *_: -signal.SIGKILL)
    record = run(tmp_path / "study", Workers(executor="inline", retries=1))
    assert record["runs"][0]["status"] == "failed"
    assert record["runs"][0]["error"] == "its process ended with SIGKILL, in 2 of 2 attempts"


def command(tmp_path, out, **changes):
    file = tmp_path / "toy.toml"
    file.write_text(tomli_w.dumps(study_table(**changes)))
    return [
        *(sys.executable, "-m", "layerticket.cli", "study", "run", str(file)),
        *("--out", str(out), "--workers", "1", "--json"),
    ]


def surroundings(**more):
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_runner_that_is_killed_loses_nothing(tmp_path, monkeypatch):
    changes = {"models": ["toy_study:mortal"]}
    words = command(tmp_path, tmp_path / "cut", **changes)
    env = surroundings(**{FILE: str(tmp_path / "killed"), WHOM: "runner"})
    ended = subprocess.run(words, env=env, capture_output=True, timeout=800)
    assert ended.returncode == -signal.SIGKILL
    assert study_status(tmp_path / "cut")["done"] == 0
    again = run(tmp_path / "cut", **changes)  # its worker is gone too, or this would wait
    whole = run(tmp_path / "whole", **changes)
    assert ends(again) == ends(whole)
    assert equal_weights(weights(tmp_path / "cut", again), weights(tmp_path / "whole", whole))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runners_share_the_work(tmp_path):
    words = command(tmp_path, tmp_path / "both", seeds=3)
    pair = [
        subprocess.Popen(words, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=800) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    records = [json.loads(out) for out, _ in told]  # exactly one object each
    assert ends(records[0]) == ends(records[1])
    alone = run(tmp_path / "alone", seeds=3)
    assert ends(records[0]) == ends(alone)
    began = "".join(log.read_text() for log in (tmp_path / "both" / "jobs").glob("*/log.txt"))
    assert began.count("done\n") == began.count("begins:") == len(tries(tmp_path / "both"))


def test_a_forecast_shares_the_trainings_among_the_workers(monkeypatch):
    """By hand: 2 trainings of 2 epochs of 5 steps of 2 s, two at a time."""
    timed = SimpleNamespace(steps_per_epoch=5, seconds={"dense": [2.0]})
    monkeypatch.setattr(engine, "measure_steps", lambda *_: timed)
    study = study_of(study_table())
    for workers in (Workers(workers=1, device="cpu"), INLINE):
        assert forecast_study(study, workers=workers)["train_seconds"] == 40.0
    found = forecast_study(study, workers=Workers(workers=2, device="cpu"))
    assert (found["parallel"], found["train_seconds"]) == (2, 20.0)


def test_a_module_that_a_foreign_folder_names_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "foreign.py").write_text("open(__file__ + '.ran', 'w').close()\n")
    run(tmp_path / "study")
    context = tmp_path / "study" / "context.json"
    record = json.loads(context.read_text())
    context.write_text(json.dumps(record | {"modules": ["foreign"]}))
    study_status(tmp_path / "study")
    run(tmp_path / "study", seeds=[0, 1, 2])
    assert json.loads(context.read_text())["modules"] == []
    assert not (tmp_path / "foreign.py.ran").exists()
