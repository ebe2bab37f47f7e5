"""One step: AdamW, clipping, averages and augmentation do what their names say."""

import contextlib
import dataclasses
import types

import pytest
import torch
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors
from layerticket.training.checkpoint import CHECKPOINT, ResumePoint, load_snapshot
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from layerticket.training.steps import CapturedStep, Trainer, timed_steps
from toy_training import make_data, make_model

CPU = torch.device("cpu")
QUIET = Where(device="cpu", progress=False)
RECIPE = Recipe(epochs=4, batch_size=16, precision="fp32")
ADAMW = dataclasses.replace(RECIPE, optimizer="adamw", learning_rate=0.01, weight_decay=0.05)
AVERAGED = dataclasses.replace(RECIPE, ema_decay=0.8)


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


def test_adamw_is_that_of_torch():
    mine, model = trainer(ADAMW), make_model()
    theirs = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.05},
         {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}],
        lr=0.01, betas=(0.9, 0.999),
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
    [(lambda: Dropping("cpu"), "random numbers on the CPU"), (Copying, "waits for a result")],
    ids=["random", "copying"],
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
def test_a_step_that_fails_while_it_is_recorded_is_refused(tmp_path):
    where = Where(device="cuda", progress=False)
    with pytest.raises(LayerticketError, match=r"no such thing.*Set cuda_graph to False"):
        fit(Refusing(), make_data(), RECIPE, seed=5, folder=tmp_path, where=where)


class Counting(nn.Module):
    """A network that counts its own calls."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = make_model(), 0

    def forward(self, images):
        self.calls += 1
        return self.inner(images)


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


@pytest.mark.parametrize(
    ("make", "reason"),
    [(Counting, "changes the attribute calls"), (lambda: Dropping("cpu"), "random numbers")],
    ids=["counting", "random"],
)
def test_a_step_that_a_graph_would_repeat_stays_eager(fake_cuda, make, reason, caplog):
    model, images = make().eval(), torch.randn(4, *make_data().shape)
    seen = []
    captured = CapturedStep(model, CPU)
    for _ in range(6):
        captured(lambda x, _: seen.append(x) or model(x).sum(), images, torch.zeros(4))
    assert len(seen) == 6
    assert reason in caplog.text


def test_a_step_is_recorded_once_and_replayed(fake_cuda, caplog):
    model, images = make_model().eval(), torch.randn(4, *make_data().shape)
    seen = []
    captured = CapturedStep(model, CPU)
    for number in range(6):
        captured(lambda x, _: seen.append(x) or model(x).sum(), images + number, torch.zeros(4))
    assert len(seen) == 4
    assert captured._graph.replays == 3
    assert torch.equal(seen[3], images + 5)  # the images of the last step, in the recorded memory
    assert not caplog.text
