"""Trackers: curves arrive where they should, and the training does not notice."""

import sys

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors
from layerticket.training import trackers as tracking
from layerticket.training.checkpoint import CHECKPOINT
from layerticket.training.trackers import TRACKERS, Trackers
from toy_processes import train

NUMBERS = ("train_loss", "learning_rate", "validation_accuracy", "images_per_second")


def test_tensorboard_has_the_curves_of_the_journal(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path / "plain")
    tracking = Trackers(track=("tensorboard",), track_dir=tmp_path / "curves")
    result, _ = train(tmp_path / "run", trackers=tracking)
    plain, tracked = (load_tensors(tmp_path / n / CHECKPOINT) for n in ("plain", "run"))
    assert all(torch.equal(plain[0][name], tracked[0][name]) for name in plain[0])
    assert plain[1]["identity"] == tracked[1]["identity"]
    read = events.EventAccumulator(str(tmp_path / "curves" / "run" / "layerticket"))
    read.Reload()
    for name in NUMBERS:
        assert [event.step for event in read.Scalars(name)] == [1, 2, 3]
    assert read.Scalars("train_loss")[-1].value == pytest.approx(result.final_train_loss)
    assert not (tmp_path / "run" / "tracking").exists()


def test_by_default_curves_lie_in_the_folder_of_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path / "run", trackers=Trackers(track=("tensorboard",)))
    assert list((tmp_path / "run" / "tracking" / "layerticket").glob("events.*"))


def test_trackers_are_closed_when_training_fails(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    closed, close = [], SummaryWriter.close
    monkeypatch.setattr(SummaryWriter, "close", lambda self: closed.append(close(self)))
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, trackers=Trackers(track=("tensorboard",)), validate=lambda _: 1 / 0)
    assert len(closed) == 1


class Pretended:
    """Stands for MLflow and Weights & Biases, and writes down what they are told."""

    def __init__(self):
        self.said = []

    def __getattr__(self, name):
        def call(*words, **more):
            self.said.append((name, words, more))
            return self

        return call

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.said.append(("closed", (), {}))


@pytest.mark.parametrize(
    ("name", "opened", "line"),
    [("mlflow", "start_run", "log_metrics"), ("wandb", "init", "log")],
)
def test_other_trackers_are_told_settings_and_curves(tmp_path, monkeypatch, name, opened, line):
    pretended = Pretended()
    monkeypatch.setitem(sys.modules, name, pretended)
    monkeypatch.setattr(tracking, "find_spec", lambda _: True)
    train(tmp_path / "run", trackers=Trackers(track=(name,)))
    calls = {said[0]: said for said in pretended.said}
    assert "run" in calls[opened][2].values()  # the name of the run
    settings = calls["log_params"][1][0] if name == "mlflow" else calls["init"][2]["config"]
    assert settings.keys() >= {"seed", "recipe/epochs", "recipe/learning_rate"}
    curves = [(words[0], more["step"]) for what, words, more in pretended.said if what == line]
    assert [epoch for _, epoch in curves] == [1, 2, 3]
    assert all(figures.keys() >= set(NUMBERS) for figures, _ in curves)
    assert pretended.said[-1][0] == "closed"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(LayerticketError, match=r"not installed: pip install .*" + name):
        Trackers(track=(name,))


def test_unknown_trackers_and_idle_folders_are_refused(tmp_path):
    with pytest.raises(LayerticketError, match="Did you mean 'tensorboard'"):
        Trackers(track=("tensorbord",))
    with pytest.raises(LayerticketError, match="but no tracker"):
        Trackers(track_dir=tmp_path)
