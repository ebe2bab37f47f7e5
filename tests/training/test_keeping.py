"""Snapshots: which ones, bit for bit, at no change of the training; and training from them."""

import dataclasses
import json

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors
from layerticket.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    ResumePoint,
    epoch_at,
    epochs_at,
    load_snapshot,
    snapshot_path,
)
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from toy_training import make_data, make_model

RECIPE = Recipe(epochs=4, batch_size=16, precision="fp32")


def train(folder, model=None, recipe=RECIPE, **options):
    options = {"seed": 5, "where": Where(device="cpu", progress=False)} | options
    model = model or make_model()
    return fit(model, make_data(), recipe, folder=folder, **options), model


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.mark.parametrize(
    ("point", "epochs", "epoch"),
    [
        (0, 4, 0), ("0", 4, 0), (4, 4, 4), ("100%", 7, 7), ("25%", 4, 1), ("25%", 30, 7),
        ("75%", 2, 1), ("50%", 1, 0), ("12.5%", 200, 25), (" 3 ", 4, 3),
    ],
)  # fmt: skip
def test_a_point_is_an_epoch_or_a_share_with_halves_rounded_down(point, epochs, epoch):
    assert epoch_at(point, epochs) == epoch


@pytest.mark.parametrize("point", [5, "5", "-1", "101%", "half", "", "1.5", "nan%"])
def test_other_points_are_refused(point):
    with pytest.raises(LayerticketError, match="is not in a training of 4 epochs"):
        epoch_at(point, 4)


def test_points_come_in_order_and_once():
    assert epochs_at("75%, 0,3", 4) == (0, 3)
    assert epochs_at((2, "25%"), 4) == (1, 2)
    assert epochs_at("", 4) == epochs_at((), 4) == ()


def test_keeping_changes_nothing_and_keeps_every_bit(tmp_path):
    model = make_model()
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(tmp_path / "plain")
    train(tmp_path / "kept", model, snapshot_epochs=(0, 2, 4))
    assert same(*(load_tensors(tmp_path / name / CHECKPOINT)[0] for name in ("plain", "kept")))
    names = {path.name for path in (tmp_path / "kept").glob("epoch-*")}
    assert names == {f"epoch-000{epoch}.safetensors" for epoch in (0, 2, 4)}
    zero, last = load_snapshot(tmp_path / "kept", 0), load_snapshot(tmp_path / "kept", 4)
    assert same(zero.weights, first)
    assert zero.optimizer == {}
    assert same(last.weights, model.state_dict())
    assert set(last.optimizer) == {f"{n}/momentum_buffer" for n, _ in model.named_parameters()}
    two, facts = load_tensors(snapshot_path(tmp_path / "kept", 2))
    assert facts["state"]["epoch"] == 2
    # What was kept after epoch 2 is what a training cut off there leaves behind.
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", validate=interrupt_in(3))
    assert same(two, load_tensors(tmp_path / "cut" / CHECKPOINT)[0])


def interrupt_in(epoch):
    calls = []

    def validate(_):
        calls.append(0)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return 0.5

    return validate


@pytest.mark.parametrize("schedule", ["cosine", "step"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_training_from_a_kept_epoch_is_the_rest_of_the_whole(tmp_path, epoch, schedule):
    recipe = dataclasses.replace(RECIPE, schedule=schedule)
    train(tmp_path / "whole", recipe=recipe, snapshot_epochs=(epoch,))
    kept = load_snapshot(tmp_path / "whole", epoch)
    model = make_model(seed=9)
    model.load_state_dict(dict(kept.weights))
    start = ResumePoint(epoch=epoch, optimizer=kept.optimizer)
    result, _ = train(tmp_path / "rest", model, recipe, start=start, snapshot_epochs=(epoch,))
    assert result.epochs == 4 - epoch
    whole, rest = (load_tensors(tmp_path / n / CHECKPOINT)[0] for n in ("whole", "rest"))
    assert same(whole, rest)  # weights, buffers, momentum
    tail = [(line["epoch"], line["learning_rate"], line["train_loss"]) for line in
            lines(tmp_path / "whole")][epoch:]  # fmt: skip
    assert tail == [
        (line["epoch"], line["learning_rate"], line["train_loss"])
        for line in lines(tmp_path / "rest")
    ]
    again = load_snapshot(tmp_path / "rest", epoch)
    assert same(again.weights, kept.weights)
    assert same(again.optimizer, kept.optimizer)


def test_without_its_momentum_it_is_another_training(tmp_path):
    train(tmp_path / "whole", snapshot_epochs=(2,))
    model = make_model()
    model.load_state_dict(dict(load_snapshot(tmp_path / "whole", 2).weights))
    train(tmp_path / "rest", model, start=ResumePoint(epoch=2))
    assert not same(*(load_tensors(tmp_path / n / CHECKPOINT)[0] for n in ("whole", "rest")))


def test_an_interrupted_rest_resumes_to_the_same_end(tmp_path):
    train(tmp_path / "dense", snapshot_epochs=(1,))
    kept = load_snapshot(tmp_path / "dense", 1)

    def rest(folder, validate, seed):
        model = make_model(seed)
        if seed == 0:
            model.load_state_dict(dict(kept.weights))
        start = ResumePoint(epoch=1, optimizer=kept.optimizer)
        return train(folder, model, start=start, snapshot_epochs=(2,), validate=validate)

    rest(tmp_path / "whole", lambda _: 0.5, 0)
    with pytest.raises(KeyboardInterrupt):
        rest(tmp_path / "cut", interrupt_in(2), 0)
    result, _ = rest(tmp_path / "cut", lambda _: 0.5, 3)
    assert result.epochs == 3
    for name in (CHECKPOINT, "epoch-0002.safetensors"):
        assert same(*(load_tensors(tmp_path / n / name)[0] for n in ("whole", "cut")))
    assert [line["epoch"] for line in lines(tmp_path / "cut")] == [2, 3, 4]
    with pytest.raises(LayerticketError, match="another training: its start_epoch is 1"):
        train(tmp_path / "cut", start=ResumePoint(epoch=2))


def test_an_epoch_that_went_by_cannot_be_kept_later(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, validate=interrupt_in(3), snapshot_epochs=(0,))
    with pytest.raises(
        LayerticketError, match=r"has no snapshot of epoch 1 .*\(saved: 0\).*--keep 1"
    ):
        train(tmp_path, snapshot_epochs=(0, 1))
    train(tmp_path, snapshot_epochs=(0, 3))
    assert load_snapshot(tmp_path, 3).epoch == 3
    with pytest.raises(LayerticketError, match="has no snapshot of epoch 2"):
        load_snapshot(tmp_path, 2)
    snapshot_path(tmp_path, 3).rename(snapshot_path(tmp_path, 2))
    with pytest.raises(LayerticketError, match="another epoch than its name"):
        load_snapshot(tmp_path, 2)


def test_impossible_starts_and_epochs_are_refused_before_training(tmp_path):
    for start in (-1, 4):
        with pytest.raises(LayerticketError, match="leaves nothing to train: the recipe has 4"):
            train(tmp_path, start=ResumePoint(epoch=start))
    for epoch, start in ((5, 0), (1, 2)):
        with pytest.raises(LayerticketError, match="cannot be saved"):
            train(tmp_path, snapshot_epochs=(epoch,), start=ResumePoint(epoch=start))
    for name, tensor in (("9.weight/m", torch.zeros(3)), ("0.weight/m", torch.zeros(3))):
        with pytest.raises(LayerticketError, match="fits no parameter"):
            train(tmp_path / "odd", start=ResumePoint(epoch=1, optimizer={name: tensor}))
    assert not list(tmp_path.glob("*.safetensors"))
