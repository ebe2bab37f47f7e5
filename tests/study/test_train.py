"""Trainings: named by all they depend on, done once, resumable, and never another's."""

import contextlib
import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError
from layerticket.files import FolderInUse, exclusive, in_use, remove_written
from layerticket.study import train as train_module
from layerticket.study.record import Bill, Cost, Provenance, Result, printed
from layerticket.study.train import Networks, plan_training, train, train_network
from layerticket.tensors import load_tensors, tensor_digest
from layerticket.training.checkpoint import CHECKPOINT, METRICS, snapshot_path
from layerticket.training.device import Energy, Metering, Where
from layerticket.training.distributed import processes
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers
from toy_training import make_data, make_model

QUIET = Where(device="cpu", progress=False)
RECIPE = Recipe(epochs=2, batch_size=16, precision="fp32")
FILES = {".lock", "run.json", "first.safetensors", METRICS, "model.safetensors", "result.json"}


def toy(num_classes, in_channels):
    return make_model(torch.initial_seed() % 1000)


def plan(data=None, seed=3, **options):
    data = data or make_data()
    networks = dataclasses.replace(Networks.of(data), functions={"toy": toy}, version="1")
    how = {"seed": seed, "device": "cpu", "validation_fraction": 0.2} | options
    return plan_training(networks, "toy", data, options.pop("recipe", RECIPE), **how)


def run(out, training=None, **options):
    return train(training or plan(), out, **{"where": QUIET} | options)


def test_leaves_the_files_and_figures(tmp_path):
    training = plan()
    folder, result = run(tmp_path, provenance=Provenance(command="layerticket train", workers=2))
    assert folder == tmp_path / training.identity.name
    assert result == Result.load(folder)
    assert result.params == sum(p.numel() for p in make_model().parameters())
    assert result.energy_kwh is None
    assert result.validation_accuracy * 20 == pytest.approx(round(result.validation_accuracy * 20))
    bits = bin(int(result.correct, 16)).count("1")  # 30 images, filled up to 32 bits
    assert len(result.correct) == 8
    assert bits / 30 == result.test_accuracy
    assert result.workers == 2
    assert result.environment["torch"] == torch.__version__
    assert {path.name for path in folder.iterdir()} == FILES
    record = json.loads((folder / "run.json").read_text())
    assert record["name"] == training.identity.name
    assert record["command"] == "layerticket train"
    assert record["config"]["data_fingerprint"] == "f" * 64
    assert load_tensors(folder / "model.safetensors")[0].keys() == make_model().state_dict().keys()
    first = load_tensors(folder / "first.safetensors")[0]
    assert all(torch.equal(first[k], v) for k, v in training.build().state_dict().items())


def test_finished_work_is_not_done_twice(tmp_path):
    folder, first = run(tmp_path)
    training = dataclasses.replace(plan(), build=lambda: 1 / 0)
    with exclusive(folder):  # reading needs no lock
        assert run(tmp_path, training) == (folder, first)


def test_interrupted_work_resumes_to_the_same_end(tmp_path, monkeypatch):
    _, whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = []

        def fail(*args, **kwargs):
            calls.append(0)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        real = train_module.judged
        patch.setattr(train_module, "judged", fail)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    folder = tmp_path / "cut" / plan().identity.name
    assert (folder / CHECKPOINT).exists()
    assert not (folder / "result.json").exists()
    _, resumed = run(tmp_path / "cut")
    same = ("test_accuracy", "validation_accuracy", "correct", "weights", "epochs", "params")
    assert [getattr(resumed, k) for k in same] == [getattr(whole, k) for k in same]
    one = (folder / "model.safetensors").read_bytes()
    assert one == (tmp_path / "whole" / folder.name / "model.safetensors").read_bytes()
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == 1


def test_without_a_validation_split_the_figure_is_null(tmp_path):
    data = make_data()
    none = Split(images=data.test.images[:0], labels=data.test.labels[:0])
    _, result = run(tmp_path, plan(dataclasses.replace(data, validation=none)))
    assert result.validation_accuracy is None


def test_a_folder_in_use_is_refused(tmp_path):
    with exclusive(tmp_path / plan().identity.name), pytest.raises(FolderInUse):
        run(tmp_path)


def test_a_refused_training_is_removed_before_another_process_can_begin_it(tmp_path, monkeypatch):
    training = plan()

    def refused():
        raise LayerticketError("no such network")

    locked = []

    def remove(folder, patterns):
        locked.append(in_use(folder))
        return remove_written(folder, patterns)

    monkeypatch.setattr(train_module, "remove_written", remove)
    with pytest.raises(LayerticketError, match="no such network"):
        run(tmp_path / "out", dataclasses.replace(training, build=refused))
    assert locked == [True]
    assert not (tmp_path / "out").exists()


def test_the_processes_are_joined_once(tmp_path, monkeypatch):
    joined = []

    @contextlib.contextmanager
    def join(device):
        joined.append(device)
        with processes(device) as group:
            yield group
        joined.pop()

    def planned(*given, **options):
        assert joined == ["cpu"]
        return plan()

    monkeypatch.setattr(train_module, "processes", join)
    monkeypatch.setattr(train_module, "plan_training", planned)
    train_network("toy", make_data(), RECIPE, seed=3, out=tmp_path, where=QUIET)
    assert not joined


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", "cannot be read"),
        ("run.json", '{"identity": {"seed": 1}}', "another run"),
        ("result.json", "{}", "damaged or foreign"),
        ("result.json", "[", "cannot be read"),
    ],
)
def test_foreign_and_damaged_folders_are_refused(tmp_path, file, content, message):
    folder, _ = run(tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(LayerticketError, match=message):
        run(tmp_path)


def test_unfinished_and_absent_results_are_refused(tmp_path):
    with pytest.raises(LayerticketError, match="not finished"):
        Result.load(tmp_path)
    folder = tmp_path / plan().identity.name
    folder.mkdir()
    (folder / CHECKPOINT).touch()
    with pytest.raises(LayerticketError, match=r"checkpoint but no run\.json"):
        run(tmp_path)


def test_weights_and_snapshots_that_are_gone_are_trained_again(tmp_path):
    folder, first = run(tmp_path)
    bits = (folder / "model.safetensors").read_bytes()
    _, again = run(tmp_path, snapshots=(0, 1))
    assert snapshot_path(folder, 1).exists()
    assert set(again.snapshots) == {"0", "1"}
    # The record stays that of the first time: figures are known by it alone.
    assert dataclasses.replace(again, snapshots={}) == first
    (folder / "model.safetensors").unlink()
    assert run(tmp_path) == (folder, again)  # nobody wants them
    assert run(tmp_path, weights=True) == (folder, again)
    assert (folder / "model.safetensors").read_bytes() == bits
    assert not (folder / "again").exists()


def test_a_repeated_training_is_not_tracked_again(tmp_path):
    pytest.importorskip("tensorboard")
    curves = tmp_path / "curves"
    how = {"weights": True, "tracking": Trackers(track=("tensorboard",), track_dir=curves)}
    folder, _ = run(tmp_path, **how)
    written = {path: path.read_bytes() for path in curves.rglob("events.*")}
    assert written
    (folder / "model.safetensors").unlink()
    run(tmp_path, **how)
    assert {path: path.read_bytes() for path in curves.rglob("events.*")} == written
    assert not (folder / "again").exists()


def test_a_training_that_ends_otherwise_replaces_its_record(tmp_path, caplog):
    folder, first = run(tmp_path)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"weights": "0" * 64}))
    (folder / "model.safetensors").unlink()
    _, again = run(tmp_path, weights=True)
    assert again.weights == first.weights == Result.load(folder).weights
    assert "ended with other weights" in caplog.text


def _train_slowly(out, begun, go_on):
    """In another process: hold the folder until told to go on."""

    networks = dataclasses.replace(Networks.of(make_data()), functions={"toy": toy}, version="1")
    training = plan_training(
        networks, "toy", make_data(), RECIPE, seed=3, device="cpu", validation_fraction=0.2
    )
    build = training.build

    def held():
        begun.set()
        assert go_on.wait(60)
        return build()

    train(dataclasses.replace(training, build=held), out, where=QUIET)


def test_two_rows_asking_for_one_training_at_once(tmp_path):
    """One of two processes trains; the other is told that it is busy, and later finds it done."""
    context = multiprocessing.get_context("fork")
    begun, go_on = context.Event(), context.Event()
    other = context.Process(target=_train_slowly, args=(tmp_path, begun, go_on))
    other.start()
    assert begun.wait(60)
    with pytest.raises(FolderInUse):
        run(tmp_path)
    go_on.set()
    other.join(100)
    assert other.exitcode == 0
    folder, result = run(tmp_path, dataclasses.replace(plan(), build=lambda: 1 / 0))
    assert result == Result.load(folder)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert "resumed" not in json.loads((folder / "run.json").read_text())


def test_the_bill_of_the_search_is_added_only_where_it_is_printed(tmp_path):
    folder, result = run(tmp_path)
    result = dataclasses.replace(result, energy_kwh=1.0, energy={"cpu_kwh": 1.0})
    bill = Bill(items={"search-a": Cost(search_seconds=1.0, energy_kwh=0.5)})
    shown = printed(folder, result, bill, Metering())
    assert (shown["energy_kwh"], result.energy_kwh) == (1.5, 1.0)
    assert shown["energy"] == {"cpu_kwh": 1.0, "train_kwh": 1.0, "search_kwh": 0.5}
    assert (
        printed(folder, result, None, Metering())["energy_kwh"] is None
    )  # no bill beside the ticket


def test_the_command_trains_in_the_same_folders(tmp_path):
    how = {"out": tmp_path, "seed": 3, "where": QUIET}
    record = train_network("resnet20", make_data(), RECIPE, **how)
    assert record["run"].startswith(f"{tmp_path}/dense-seed3-")
    assert train_network("resnet20", make_data(), RECIPE, **how) == record


class Meter:
    def __init__(self):
        self.laps = 0

    def lap(self):
        self.laps += 1
        return Energy(cpu_kwh=1.0)


@pytest.fixture
def meter(monkeypatch):
    meter = Meter()
    lent = contextlib.nullcontext((meter, "fake"))
    monkeypatch.setattr("layerticket.study.train.metered", lambda *_: lent)
    return meter


def test_a_training_holds_its_own_energy_only(tmp_path, meter):
    _, found = run(
        tmp_path, where=dataclasses.replace(QUIET, metering=Metering(carbon_intensity=0.5))
    )
    # one lap before training, one at the end of the first epoch, one at the end
    assert found.energy_kwh == meter.laps - 1 == 2
    assert found.co2_kg == pytest.approx(0.5 * found.energy_kwh)
    assert found.energy_method == "fake"
    assert found.energy["gpu_kwh"] is None
    assert 0 < found.data_wait_share < 1
    assert found.cost == Cost(
        train_seconds=found.train_seconds, energy_kwh=2.0, co2_kg=found.co2_kg
    )


def test_weights_of_a_training_that_ended_otherwise_never_stay(tmp_path):
    """Nor does a record stand beside weights of the other, wherever the exchange is cut off."""
    folder, _ = run(tmp_path, snapshots=(1,))
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"weights": "0" * 64}))
    (folder / "model.safetensors").unlink()
    _, again = run(tmp_path, weights=True)
    assert again.snapshots == {}
    assert not snapshot_path(folder, 1).exists()  # it was of the other training
    _, more = run(tmp_path, snapshots=(1,))
    assert set(more.snapshots) == {"1"}


@pytest.mark.parametrize("cut_off", [(Path, "replace"), (train_module, "remove_written")])
def test_an_exchange_that_is_cut_off_is_finished_later(tmp_path, monkeypatch, cut_off):
    folder, _ = run(tmp_path, snapshots=(1,))
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"weights": "0" * 64}))
    (folder / "model.safetensors").unlink()
    with monkeypatch.context() as patch:

        def cut(*_):
            raise KeyboardInterrupt

        patch.setattr(*cut_off, cut)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, snapshots=(1,), weights=True)
    _, result = run(tmp_path, snapshots=(1,), weights=True)
    assert set(result.snapshots) == {"1"}
    network = load_tensors(folder / "model.safetensors")[0]
    assert tensor_digest(network) == result.weights


def test_a_snapshot_that_is_wanted_too_late_begins_the_training_anew(tmp_path, monkeypatch, caplog):
    whole = run(tmp_path / "whole")[1]
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_tensors", _cut_at_the_end(train_module.save_tensors))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    folder, result = run(tmp_path / "cut", snapshots=(1,))
    assert "restarts from the beginning" in caplog.text
    assert snapshot_path(folder, 1).exists()
    assert result.weights == whole.weights


def _cut_at_the_end(save):
    def cut(path, *content):
        if path.name == "model.safetensors":
            raise KeyboardInterrupt
        save(path, *content)

    return cut


def test_a_checkpoint_left_beside_a_result_goes(tmp_path):
    folder, result = run(tmp_path)
    assert not (folder / "checkpoint.safetensors").exists()
    (folder / "checkpoint.safetensors").write_bytes(b"left by a process that was killed")
    assert run(tmp_path) == (folder, result)
    assert not (folder / "checkpoint.safetensors").exists()
