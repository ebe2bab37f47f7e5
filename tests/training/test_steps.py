"""One step: AdamW, clipping, averages and augmentation do what their names say."""

import contextlib
import dataclasses
import functools
import math
import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from layerticket.data.batches import Mixing, batches
from layerticket.data.dataset import Split
from layerticket.data.sources import Reading
from layerticket.errors import LayerticketError
from layerticket.surgery.masks import masked
from layerticket.tensors import load_tensors
from layerticket.training import device
from layerticket.training.checkpoint import (
    CHECKPOINT,
    ResumePoint,
    State,
    load_snapshot,
    read_snapshot,
)
from layerticket.training.device import Where
from layerticket.training.fit import fit, train_epoch
from layerticket.training.recipe import Recipe
from layerticket.training.steps import (
    CapturedStep,
    Objective,
    Trainer,
    difference,
    held_values,
    timed_steps,
    weight_copies,
)
from toy_training import make_data, make_model

CPU = torch.device("cpu")
QUIET = Where(device="cpu", progress=False)
RECIPE = Recipe(epochs=4, batch_size=16, precision="fp32")
ADAMW = dataclasses.replace(RECIPE, optimizer="adamw", learning_rate=0.01, weight_decay=0.05)
AVERAGED = dataclasses.replace(RECIPE, ema_decay=0.8)
MASK = {"0.weight": torch.arange(8 * 27).view(8, 3, 3, 3) % 2 == 0}


def train(folder, recipe, model=None, **options):
    model = model or make_model()
    return fit(model, make_data(), recipe, seed=5, folder=folder, where=QUIET, **options), model


def trainer(recipe, model=None):
    return Trainer(model or make_model(), make_data(), recipe, seed=5, device=CPU)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stop_at(epoch):
    calls = []

    def validate(_):
        calls.append(0)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return 0.5

    return validate


@pytest.mark.parametrize("recipe", [ADAMW, AVERAGED], ids=["adamw", "average"])
def test_resumed_and_rewound_end_in_the_same_bits(tmp_path, recipe):
    result, model = train(tmp_path / "whole", recipe, snapshot_epochs=(0, 2))
    assert result.final_train_loss < 1
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", recipe, validate=stop_at(3))
    train(tmp_path / "cut", recipe, make_model(seed=9))
    two = load_snapshot(tmp_path / "whole", 2)
    rest = make_model(seed=9)
    rest.load_state_dict(dict(two.weights))
    start = ResumePoint(epoch=2, optimizer=two.optimizer, average=two.average)
    train(tmp_path / "rest", recipe, rest, start=start)
    ends = [load_tensors(tmp_path / name / CHECKPOINT)[0] for name in ("whole", "cut", "rest")]
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])
    assert same(model.state_dict(), rest.state_dict())


@pytest.mark.parametrize(
    ("recipe", "copies"),
    [
        (dataclasses.replace(RECIPE, momentum=0, nesterov=False), 2),
        (RECIPE, 3),
        (AVERAGED, 4),
        (ADAMW, 4),
        (dataclasses.replace(ADAMW, ema_decay=0.8), 5),
    ],
)
def test_a_step_holds_as_many_copies_of_the_weights_as_the_recipe_says(recipe, copies):
    mine, model = trainer(recipe), make_model()
    mine.step(*next(mine.batches(0)), 0.01)
    held = mine.snapshot(0)
    for name, parameter in model.named_parameters():
        state = [t for key, t in held.optimizer.items() if key.startswith(f"{name}/")]
        found = [held.weights[name], *state, *(held.average[n] for n in held.average if n == name)]
        shaped = [tensor for tensor in found if tensor.shape == parameter.shape]
        assert 1 + len(shaped) == copies == weight_copies(recipe)  # and the gradient


def test_adamw_is_that_of_torch():
    mine, model = trainer(dataclasses.replace(ADAMW, betas=(0.8, 0.95))), make_model()
    theirs = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.05},
         {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}],
        lr=0.01, betas=(0.8, 0.95),
    )  # fmt: skip
    model.train()
    mine.model.train()
    for images, labels in mine.batches(0):
        torch.manual_seed(1)
        mine.step(images, labels, 0.01)
        torch.manual_seed(1)
        nn.functional.cross_entropy(model(images), labels).backward()
        theirs.step()
        theirs.zero_grad()
    for one, two in zip(mine.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_clipped_gradients_are_no_longer_than_asked():
    recipe = dataclasses.replace(
        RECIPE, clip_norm=0.01, momentum=0, nesterov=False, weight_decay=0
    )  # fmt: skip
    mine = trainer(recipe)
    images, labels = next(mine.batches(0))
    before = [p.detach().clone() for p in mine.model.parameters()]
    mine.step(images, labels, 1.0)
    moved = [p.detach() - old for p, old in zip(mine.model.parameters(), before, strict=True)]
    assert torch.linalg.vector_norm(torch.cat([m.flatten() for m in moved])) == pytest.approx(
        0.01, rel=1e-3
    )


def test_the_average_by_hand_is_judged_and_kept(tmp_path):
    seen, raw, step = [], [], Trainer.step

    def noted(self, *batch):
        loss = step(self, *batch)
        raw.append([p.detach().clone() for p in self.model.parameters()])
        return loss

    model = make_model()
    first = [p.detach().clone() for p in model.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", noted)
        recipe = dataclasses.replace(AVERAGED, epochs=1)
        train(
            tmp_path, recipe, model, snapshot_epochs=(1,),
            validate=lambda net: seen.append([p.detach().clone() for p in net.parameters()]) or 0.5,
        )  # fmt: skip
    mean = first
    for now in raw:
        mean = [0.8 * old + 0.2 * new for old, new in zip(mean, now, strict=True)]
    for wanted, judged, left in zip(mean, seen[0], model.parameters(), strict=True):
        assert torch.allclose(wanted, judged, atol=1e-6)
        assert torch.equal(judged, left)
    kept = load_snapshot(tmp_path, 1)
    assert same(dict(kept.average), model.state_dict())
    assert torch.equal(kept.weights["0.weight"], raw[-1][0])
    assert not torch.equal(kept.weights["0.weight"], model[0].weight)


def test_a_network_that_is_averaged_cannot_be_sharded():
    with pytest.raises(LayerticketError, match="Leave out ema_decay or --shard"):
        Trainer(make_model(), make_data(), AVERAGED, seed=0, device=CPU, sharded=True)


def test_no_augmentation_shows_images_as_they_are():
    plain = trainer(dataclasses.replace(RECIPE, augmentation="none"))
    standard = trainer(RECIPE)
    data = make_data()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (data.mean, data.std))
    originals = (data.train.images / 255 - mean) / std
    pairs = zip(plain.batches(0), standard.batches(0), strict=True)
    for (images, labels), (changed, same_labels) in pairs:
        assert torch.equal(labels, same_labels)  # the order is the same
        assert not torch.equal(images, changed)
        away = (images.unsqueeze(1) - originals.unsqueeze(0)).abs().amax((2, 3, 4))
        assert (away.amin(1) < 1e-5).all()


def test_label_smoothing_by_hand():
    # Logits (ln 3, 0) are probabilities (3/4, 1/4). Smoothing 0.2 moves 0.1 to the other class.
    recipe = dataclasses.replace(RECIPE, label_smoothing=0.2)
    objective = Objective(nn.Identity(), recipe, "cpu", bf16=False, classes=2)
    loss = objective(torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))


def test_batches_are_augmented_and_mixed_as_the_recipe_says():
    recipe = dataclasses.replace(RECIPE, augmentation="trivialaugment", mixup=0.2, cutmix=1.0)
    data = dataclasses.replace(make_data(), reading=Reading(readers=0))
    mine = Trainer(make_model(), data, recipe, seed=5, device=CPU)
    wanted = batches(
        data, data.train, 16, seed=5, epoch=2, train=True, drop_last=True,
        policy="trivialaugment", mixing=Mixing(mixup=0.2, cutmix=1.0),
    )  # fmt: skip
    for found, expected in zip(mine.batches(2), wanted, strict=True):
        assert all(map(torch.equal, found, expected))


def test_timed_steps_leave_the_network_alone():
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    with timed_steps({"a": model}, make_data(), RECIPE, device="cpu") as lent:
        assert lent["a"].steps_per_epoch == 4
        for _ in range(6):
            lent["a"].fetch()
            lent["a"].step()
    assert same(before, model.state_dict())
    assert torch.equal(random, torch.get_rng_state())


class Dropping(nn.Module):
    """A network with dropout, whose random numbers come from the device or the CPU."""

    def __init__(self, where):
        super().__init__()
        self.inner, self.where = make_model(), where

    def forward(self, images):
        kept = torch.rand(len(images), 1, device=self.where or images.device) > 0.1
        return self.inner(images) * kept.to(images.device)


class Copying(nn.Module):
    """A network that copies a result to the CPU in every step."""

    def __init__(self):
        super().__init__()
        self.inner = make_model()

    def forward(self, images):
        logits = self.inner(images)
        return logits if logits.sum().item() else -logits


class Changing(nn.Module):
    """A network that does something else in every call."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = make_model(), change
        self.calls, self.state, self.recent = 0, {"step": 0}, [torch.zeros(())]
        self.plain, self.array = types.SimpleNamespace(seen=300.0), np.zeros(1)
        self.generators = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, images):
        logits = self.inner(images)
        self.change(self, logits)
        return logits + self.mean


def counting_itself(net, _):
    net.calls += 1


def counting(net, _):
    net.state["step"] += 1


def counting_twice(net, _):
    net.plain.seen += 1  # the freed first number often lends its place to the second one
    net.plain.seen += 1


def rebinding(net, logits):
    net.mean = 0.9 * net.mean + 0.1 * logits.detach().mean(0)


def remembering(net, logits):
    net.recent[0] = logits.detach().sum()


def drawing(number):
    def change(net, _):
        one = net.generators[number]
        torch.rand(1, generator=one) if number == 0 else one.random()

    return change


def filling(net, _):
    net.array += 1


def waiting(*_):
    with contextlib.suppress(RuntimeError):  # on a CPU it raises
        torch._C._cuda_synchronize()


def updating(net, logits):
    net.mean.mul_(0.9).add_(0.1 * logits.detach().mean(0))


def ends(folder, recipe, make):
    found = {}
    for name, graph in (("graph", True), ("eager", False)):
        model, once = make(), dataclasses.replace(recipe, cuda_graph=graph)
        fit(model, make_data(), once, seed=5, folder=folder / name,
            where=Where(device="cuda", progress=False))  # fmt: skip
        found[name] = load_tensors(folder / name / CHECKPOINT)[0]
    return found["graph"], found["eager"]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("recipe", "make"),
    [
        (RECIPE, make_model),
        (dataclasses.replace(RECIPE, precision="bf16"), make_model),
        (ADAMW, make_model),
        (dataclasses.replace(AVERAGED, clip_norm=0.1, mixup=0.2), make_model),
        (RECIPE, lambda: Dropping(None)),
    ],
    ids=["sgd", "bf16", "adamw", "average", "dropout"],
)
def test_a_cuda_graph_gives_the_bits_of_eager_steps(tmp_path, recipe, make, caplog):
    graph, eager = ends(tmp_path, recipe, make)
    assert same(graph, eager)
    assert "CUDA graph" not in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Dropping("cpu"), "random numbers on the CPU"),
        (Copying, "waits for a result"),
        (lambda: Changing(waiting), r"waits for the GPU (cuda_synchronize)"),
        (lambda: Changing(rebinding), "changes mean"),
        (lambda: Changing(counting), "changes state['step']"),
    ],
    ids=["random", "copying", "waiting", "rebinding", "counting"],
)
def test_a_step_that_cannot_be_captured_stays_eager(tmp_path, make, reason, caplog):
    graph, eager = ends(tmp_path, RECIPE, make)
    assert same(graph, eager)
    assert caplog.text.count("is not a CUDA graph") == 1
    assert reason in caplog.text


@pytest.mark.gpu
def test_a_resumed_cuda_graph_ends_in_the_same_bits(tmp_path):
    how = {"seed": 5, "where": Where(device="cuda", progress=False)}
    fit(make_model(), make_data(), RECIPE, folder=tmp_path / "whole", **how)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), make_data(), RECIPE, folder=tmp_path / "cut", validate=stop_at(3), **how)
    fit(make_model(seed=9), make_data(), RECIPE, folder=tmp_path / "cut", **how)
    whole, cut = (load_tensors(tmp_path / name / CHECKPOINT)[0] for name in ("whole", "cut"))
    assert same(whole, cut)


class Refusing(nn.Module):
    """A network that raises an error while its step is recorded."""

    def __init__(self):
        super().__init__()
        self.inner = make_model()

    def forward(self, images):
        logits = self.inner(images)
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("no such thing in a graph.")
        return logits


@pytest.mark.gpu
def test_a_step_that_raises_while_it_is_recorded_stays_eager(tmp_path, caplog):
    graph, eager = ends(tmp_path, RECIPE, Refusing)
    assert same(graph, eager)
    assert "it cannot be recorded (RuntimeError: no such thing in a graph)" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("moves", [True, False], ids=["moved", "changed"])
def test_validation_may_move_or_change_the_network(tmp_path, moves, caplog):
    def validate(model):
        if moves:
            model.cpu()
            torch.empty(2**20, device="cuda").fill_(9.0)  # takes the memory that was freed
            model.cuda()
        else:
            model[5].p = 0.5
        return 0.5

    found = []
    for graph in (True, False):
        recipe, folder = dataclasses.replace(RECIPE, cuda_graph=graph), tmp_path / str(graph)
        where = Where(device="cuda", progress=False)
        fit(make_model(), make_data(180), recipe, seed=5, folder=folder, where=where,
            validate=validate)  # fmt: skip
        found.append(load_tensors(folder / CHECKPOINT)[0])
    assert same(*found)
    assert "CUDA graph" not in caplog.text


IDLE = contextlib.nullcontext()


class FakeGpu:
    type, index = "cuda", 0


class FakeGraph:
    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def fake_cuda(monkeypatch):
    """Let steps on the CPU pass for steps on a GPU: recording runs them, replays do nothing."""
    stream = types.SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)


def steps_of(captured, model, images, count):
    """Make steps on images, images + 1, ...; return the images that the network was called on."""
    seen = []
    for number in range(count):
        captured(lambda x, _: seen.append(x) or model(x).sum(), images + number, torch.zeros(4))
    return seen


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Dropping("cpu"), "draws random numbers on the CPU"),
        (lambda: Changing(counting_itself), "changes calls,"),
        (lambda: Changing(counting), "changes state['step'],"),
        (lambda: Changing(counting_twice), "changes plain.seen,"),
        (lambda: Changing(rebinding), "changes mean,"),
        (lambda: Changing(remembering), "changes recent[0],"),
        (lambda: Changing(filling), "changes array,"),
        (lambda: Changing(drawing(0)), "changes generators[0],"),
        (lambda: Changing(drawing(1)), "changes generators[1],"),
        (lambda: Changing(drawing(2)), "changes generators[2],"),
        (lambda: Changing(waiting), "waits for the GPU (cuda_synchronize)"),
    ],
    ids=[
        "random",
        "number",
        "dict",
        "object",
        "buffer",
        "list",
        "array",
        "torch",
        "numpy",
        "python",
        "waiting",
    ],
)
def test_a_step_that_a_graph_would_repeat_stays_eager(fake_cuda, make, reason, caplog):
    model, images = make().eval(), torch.randn(4, *make_data().shape)
    assert len(steps_of(CapturedStep([model], CPU), model, images, 6)) == 6
    assert reason in caplog.text


@pytest.mark.parametrize(
    "make",
    [make_model, lambda: Changing(updating), lambda: masked(make_model(), MASK)],
    ids=["plain", "in place", "masked"],
)
def test_a_step_is_recorded_once_and_replayed(fake_cuda, make, caplog):
    model, images = make().eval(), torch.randn(4, *make_data().shape)
    captured = CapturedStep([model], CPU)
    seen = steps_of(captured, model, images, 6)
    assert len(seen) == 4
    assert captured._graph.replays == 3
    assert torch.equal(seen[3], images + 5)  # the images of the last step, in the recorded memory
    assert not caplog.text


def test_a_tensor_off_the_device_is_changed_in_place(fake_cuda, caplog):
    model = Changing(updating)
    elsewhere = held_values([model], torch.device("meta"))
    updating(model, torch.ones(4, 3))
    assert difference(elsewhere, held_values([model], torch.device("meta"))) == "mean"


def moving(model):
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def numbering(model):
    model.number = 1


@pytest.mark.parametrize("change", [moving, numbering])
@pytest.mark.parametrize("which", [0, 1], ids=["network", "average"])
def test_a_network_that_was_moved_or_changed_is_recorded_again(fake_cuda, change, which, caplog):
    networks, images = [make_model().eval(), make_model()], torch.randn(4, *make_data().shape)
    captured = CapturedStep(networks, CPU)
    steps_of(captured, networks[0], images, 6)
    captured.check()
    assert not steps_of(captured, networks[0], images, 1)
    change(networks[which])
    captured.check()
    assert len(steps_of(captured, networks[0], images, 6)) == 4
    assert not caplog.text


def test_every_epoch_begins_with_the_check():
    checks = []
    mine = trainer(RECIPE)
    mine._captured = lambda step, *batch: step(*batch)
    mine._captured.check = lambda: checks.append(mine.trained.training)
    mine.trained.eval()
    for epoch in range(2):
        train_epoch(mine, State(epoch=epoch), lambda *_: None)
    assert checks == [True, True]


def test_a_step_that_raises_while_it_is_recorded_is_done_eagerly(fake_cuda, caplog):
    model, calls = make_model().eval(), []

    def step(images, _):
        calls.append(0)
        model(images).sum().backward()
        if len(calls) == 4:
            raise ValueError("no such thing in a graph.\nmore")
        gradient = model[0].weight.grad.abs().sum()
        model.zero_grad()
        return gradient

    captured, images = CapturedStep([model], CPU), torch.randn(4, *make_data().shape)
    gradients = [captured(step, images, torch.zeros(4)) for _ in range(6)]
    assert len(calls) == 7  # the fourth step was called twice
    assert len(set(map(float, gradients))) == 1  # none is added to that of the recording
    assert "it cannot be recorded (ValueError: no such thing in a graph)" in caplog.text


def test_a_recording_that_cannot_be_ended_says_what_to_set(fake_cuda, monkeypatch):
    current = ["the caller's stream"]

    @contextlib.contextmanager
    def stream(_):
        before = current[0]
        current[0] = "another"
        try:
            yield
        finally:
            current[0] = before

    @contextlib.contextmanager
    def graph(*_, **__):
        current[0] = "that of the graph"
        yield
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    model, images = make_model().eval(), torch.randn(4, *make_data().shape)
    with pytest.raises(LayerticketError, match=r"previous error.*Set cuda_graph to False \(--no"):
        steps_of(CapturedStep([model], CPU), model, images, 4)
    assert current == ["the caller's stream"]


def test_graphs_that_are_timed_share_stream_memory_and_images(fake_cuda, monkeypatch):
    places, images = [], []

    def noted(self, model, dataset, *_, graph_place=None, **__):
        places.append(graph_place)
        images.append(dataset.train.images)

    monkeypatch.setattr(Trainer, "__init__", noted)
    monkeypatch.setattr("layerticket.training.steps.resolve_device", lambda _: FakeGpu())
    for name in ("fork_rng", "place", "TimedSteps"):
        monkeypatch.setattr(f"layerticket.training.steps.{name}", lambda *_, **__: IDLE)
    monkeypatch.setattr(Trainer, "compile", lambda _: False)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    moved = []
    monkeypatch.setattr(Split, "to", lambda split, _: moved.append(split) or split)
    with timed_steps({"a": make_model(), "b": make_model()}, make_data(), RECIPE):
        assert places[0].pool == (0, 1)
        assert places[0] is places[1]
        assert images[0] is images[1]
        assert len(moved) == 1


class Wider(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, 3))


def test_every_network_of_a_process_is_compiled(monkeypatch):
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for width in range(1, 10):  # PyTorch compiles one code object eight times
        mine = trainer(dataclasses.replace(RECIPE, compile="on"), Wider(width))
        assert mine.compile()
        mine.step(*next(mine.batches(0)), 0.1)
    assert len(compiled) == 9


@pytest.mark.parametrize(
    ("compiler", "asked", "again"),
    [(True, "auto", False), (False, "auto", True), (True, "off", True)],
)
def test_auto_stays_as_it_was_decided(tmp_path, monkeypatch, compiler, asked, again):
    """Started with a compiler or without, resumed where it is the other way round."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    there = [compiler]
    for name in ("device", "steps"):
        monkeypatch.setattr(f"layerticket.training.{name}.has_compiler", lambda: there[0])
    monkeypatch.setitem(device._BREAK_EVEN, "cpu", 0)
    recipe = dataclasses.replace(RECIPE, compile="auto")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe, validate=stop_at(3))
    there[0] = not compiler
    resumed = dataclasses.replace(recipe, compile=asked)
    with contextlib.nullcontext() if again else pytest.raises(LayerticketError, match="compiler"):
        train(tmp_path, resumed, identity=None)
    assert read_snapshot(tmp_path / CHECKPOINT)[1]["state"]["compiled"] is (
        compiler and asked == "auto"
    )
