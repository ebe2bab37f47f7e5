"""Trackers: curves arrive where they should, and the training does not notice."""

import sys

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors
from layerticket.training import trackers as tracking
from layerticket.training.checkpoint import CHECKPOINT
from layerticket.training.trackers import TRACKERS, Tracking
from toy_processes import train

NUMBERS = ("train_loss", "learning_rate", "validation_accuracy", "images_per_second")


def test_tensorboard_has_the_curves_of_the_journal(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path / "plain")
    tracking = Tracking(trackers=("tensorboard",), folder=tmp_path / "curves")
    result, _ = train(tmp_path / "run", tracking=tracking)
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
    train(tmp_path / "run", tracking=Tracking(trackers=("tensorboard",)))
    assert list((tmp_path / "run" / "tracking" / "layerticket").glob("events.*"))


def test_trackers_are_closed_when_training_fails(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from accelerate.tracking import TensorBoardTracker

    closed = []
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda self: closed.append(self))
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, tracking=Tracking(trackers=("tensorboard",)), validate=lambda _: 1 / 0)
    assert len(closed) == 1


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(LayerticketError, match=r"not installed: pip install .*" + name):
        Tracking(trackers=(name,))


def test_unknown_trackers_and_idle_folders_are_refused(tmp_path):
    with pytest.raises(LayerticketError, match="Did you mean 'tensorboard'"):
        Tracking(trackers=("tensorbord",))
    with pytest.raises(LayerticketError, match="but no tracker"):
        Tracking(folder=tmp_path)
