"""The loop: deterministic, resumable to the bit, and without a trace in the process."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from layerticket.errors import LayerticketError, TrainingError
from layerticket.tensors import load_tensors
from layerticket.training import checkpoint
from layerticket.training.checkpoint import CHECKPOINT, METRICS, Journal
from layerticket.training.device import Where, resolve_device, resolve_precision
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from toy_training import make_data, make_model

RECIPE = Recipe(epochs=4, batch_size=16, precision="fp32")


def train(folder, recipe=RECIPE, model=None, data=None, **options):
    options = {"seed": 5, "where": Where(device="cpu", progress=False)} | options
    model = model or make_model()
    return fit(model, data or make_data(), recipe, folder=folder, **options), model


def metrics(folder):
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    clock = ("train_seconds", "images_per_second")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def assert_same_end(one, two):
    tensors, facts = load_tensors(one / CHECKPOINT)
    others, other_facts = load_tensors(two / CHECKPOINT)
    assert tensors.keys() == others.keys()
    assert any(name.startswith("optimizer/") for name in tensors)
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert facts["identity"] == other_facts["identity"]
    assert metrics(one) == metrics(two)


def test_a_validation_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="validate returned nan; it must return a finite"):
        train(tmp_path, validate=lambda _: float("nan"))


def test_learns_and_logs(tmp_path):
    seen = []
    result, model = train(
        tmp_path,
        Recipe(epochs=12, batch_size=16, precision="fp32"),
        validate=lambda m: seen.append(m) or 0.5,
    )
    assert len(seen) == 12
    assert seen[0] is model
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["train_loss"] == result.final_train_loss < 0.7 * lines[0]["train_loss"]
    assert lines[-1]["validation_accuracy"] == result.validation_accuracy == 0.5
    assert lines[-1]["train_seconds"] == result.train_seconds > 0
    assert lines[-1].keys() == {
        "epoch",
        "train_loss",
        "learning_rate",
        "validation_accuracy",
        "train_seconds",
        "images_per_second",
    }
    assert (result.epochs, result.precision, result.device) == (12, "fp32", "cpu")
    assert result.images_per_second == pytest.approx(12 * 64 / result.train_seconds)
    assert result.peak_memory_bytes > 1e7


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_is_deterministic_in_the_seed(tmp_path, precision):
    recipe = Recipe(epochs=2, batch_size=16, precision=precision)
    for name in ("a", "b"):
        torch.manual_seed(len(name) + ord(name))  # the global state must not matter
        train(tmp_path / name, recipe)
    assert_same_end(tmp_path / "a", tmp_path / "b")
    train(tmp_path / "c", recipe, seed=6)
    assert metrics(tmp_path / "c") != metrics(tmp_path / "a")


@pytest.mark.parametrize("kill_after", [1, 3, 4])
def test_resumed_ends_in_the_same_bits(tmp_path, kill_after):
    train(tmp_path / "whole", validate=lambda _: 0.25)
    calls = []

    def stop(_):
        calls.append(0)
        if len(calls) == kill_after:
            raise KeyboardInterrupt
        return 0.25

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", validate=stop)
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"epoch": 4, "tor')  # a line that was being written
    # The weights to go on from are the checkpoint's, whatever the model holds.
    model = make_model(seed=9 if kill_after > 1 else 0)
    train(tmp_path / "cut", model=model, validate=lambda _: 0.25)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_short_epochs_share_a_checkpoint(tmp_path, monkeypatch):
    # Seconds at the end of epochs 1 to 8. A checkpoint is due after epoch 3 (5 s after the start),
    # 4 (its snapshot is saved), 7 (5 s after epoch 4) and 8 (the final one).
    ends = iter([2, 4, 6, 7, 9, 11, 12, 13])
    now, saved = [100.0], []
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Journal, "every_seconds", 5.0)

    def at_the_end_of_an_epoch(_):
        now[0] = 100.0 + next(ends)
        saved.append(epoch_of_checkpoint(tmp_path))  # of the epochs before this one
        return 0.25

    recipe = dataclasses.replace(RECIPE, epochs=8)
    train(tmp_path, recipe, validate=at_the_end_of_an_epoch, snapshot_epochs=(4,))
    assert [*saved, epoch_of_checkpoint(tmp_path)] == [0, 0, 0, 3, 4, 4, 4, 7, 8]
    assert [line["epoch"] for line in metrics(tmp_path)] == list(range(1, 9))


def epoch_of_checkpoint(folder: Path) -> int:
    path = folder / CHECKPOINT
    return load_tensors(path)[1]["state"]["epoch"] if path.exists() else 0


@pytest.mark.parametrize("kill_after", [2, 5])
def test_epochs_without_a_checkpoint_are_repeated_with_the_same_bits(
    tmp_path, monkeypatch, kill_after
):
    recipe = dataclasses.replace(RECIPE, epochs=6)
    train(tmp_path / "whole", recipe, validate=lambda _: 0.25)
    monkeypatch.setattr(Journal, "every_seconds", 1e9)

    def stop(_):
        if len(metrics(tmp_path / "cut")) == kill_after - 1:
            raise KeyboardInterrupt
        return 0.25

    how = {"snapshot_epochs": (3,)}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", recipe, validate=stop, **how)
    assert epoch_of_checkpoint(tmp_path / "cut") == (3 if kill_after > 3 else 0)
    train(tmp_path / "cut", recipe, make_model(seed=9 if kill_after > 3 else 0),
          validate=lambda _: 0.25, **how)  # fmt: skip
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_finished_training_is_not_repeated(tmp_path):
    first, _ = train(tmp_path, validate=lambda _: 0.5)
    again, model = train(tmp_path, model=make_model(seed=9), validate=lambda _: 1 / 0)
    assert again == first
    kept = load_tensors(tmp_path / CHECKPOINT)[0]
    assert torch.equal(model[0].weight, kept["model/0.weight"])


KILLED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {here!r})
from layerticket.training.checkpoint import Journal
from test_loop import train
Journal.every_seconds = 0.0
seconds = iter([0, 600])  # the second epoch never ends
train(Path({folder!r}), validate=lambda _: time.sleep(next(seconds)) or 0.25)
"""


def test_sigkill_then_resume(tmp_path):
    train(tmp_path / "whole", validate=lambda _: 0.25)
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path / "cut"))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as process:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "cut" / CHECKPOINT).exists():
                assert process.poll() is None, "the child ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
    assert epoch_of_checkpoint(tmp_path / "cut") == 1
    train(tmp_path / "cut", model=make_model(seed=9), validate=lambda _: 0.25)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 6}, "seed"),
        ({"recipe": Recipe(epochs=4, batch_size=16, precision="bf16")}, "recipe"),
        ({"data": dataclasses.replace(make_data(), fingerprint="0" * 64)}, "data"),
    ],
)
def test_another_trainings_checkpoint_is_refused(tmp_path, options, named):
    train(tmp_path)
    with pytest.raises(LayerticketError, match=f"belongs to another training: its {named}"):
        train(tmp_path, **options)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"epoch": 7}\n' * 4,
        b"[]\n" * 4,
        b"\xff\x00",
        b'{"epoch": 1, "train_loss": NaN}\n',
        None,
    ],
)
def test_metrics_that_a_power_cut_took_are_null(tmp_path, content):
    train(tmp_path, validate=lambda _: 0.5)
    before = metrics(tmp_path)
    if content is None:
        (tmp_path / METRICS).unlink()
    else:
        (tmp_path / METRICS).write_bytes(content)
    train(tmp_path)
    nothing = dict.fromkeys(before[-1])
    assert metrics(tmp_path) == [nothing | {"epoch": epoch} for epoch in (1, 2, 3)] + before[3:]


def test_metrics_are_never_written_through_a_link(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    folder = tmp_path / "run"

    def swap(_):
        (folder / METRICS).unlink(missing_ok=True)
        (folder / METRICS).symlink_to(mine)
        return 0.5

    with pytest.raises(LayerticketError):
        train(folder, validate=swap)
    assert mine.read_text() == "mine"


def test_metrics_that_are_there_stay(tmp_path):
    train(tmp_path, validate=lambda _: 0.5)
    before = (tmp_path / METRICS).read_bytes().splitlines(keepends=True)
    (tmp_path / METRICS).write_bytes(b"".join([before[0], before[2][:20]]))
    train(tmp_path)
    after = (tmp_path / METRICS).read_bytes().splitlines(keepends=True)
    assert (after[0], after[3]) == (before[0], before[3])
    assert [json.loads(line)["train_loss"] for line in after[1:3]] == [None, None]


class Blows(nn.Module):
    """Gives outputs that are not finite from a certain call on."""

    def __init__(self, good):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.good = good

    def forward(self, x):
        self.good -= 1
        return x.mean((2, 3)) + self.weight + (0 if self.good >= 0 else float("nan"))


@pytest.mark.parametrize(
    ("name", "given", "match"),
    [
        ("model", "resnet20", "model is the text 'resnet20'; give a Module"),
        ("data", "digits", "dataset is the text 'digits'; give a Dataset"),
        ("recipe", {"epochs": 1}, "recipe is a dict; give a Recipe"),
    ],
)
def test_arguments_of_another_type_are_named(tmp_path, name, given, match):
    with pytest.raises(LayerticketError, match=match):
        train(tmp_path, **{name: given})


def test_a_network_with_too_few_outputs_is_refused(tmp_path):
    with pytest.raises(LayerticketError, match=r"2 outputs, but the data have \d+ classes"):
        train(str(tmp_path / "run"), model=nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_checkpoint(tmp_path):
    # 4 steps an epoch: call 7 is step 3 of epoch 2.
    with pytest.raises(TrainingError, match=r"epoch 2, step 3 of 4, at learning rate 0\.\d+"):
        train(tmp_path, model=Blows(6))
    assert load_tensors(tmp_path / CHECKPOINT)[1]["state"]["epoch"] == 1
    assert not issubclass(TrainingError, LayerticketError)


@pytest.mark.parametrize(
    ("changes", "tries"),
    [
        ({}, r"Try optimizer adamw with .* 0\.001, .*, or learning_rate 0\.01, or clip_norm 1"),
        ({"optimizer": "adamw", "clip_norm": 1.0}, r"Try learning_rate 0\.01, or warmup_epochs 5"),
    ],
)
def test_a_loss_that_explodes_is_answered_with_what_to_try(tmp_path, changes, tries, caplog):
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x):  # sure of the wrong class
            return x.mean((2, 3)) * -1000 + self.weight

    train(tmp_path, Recipe(epochs=6, precision="fp32", **changes), model=Loud())
    said = [line for line in caplog.messages if "over twice that of guessing (1.1)" in line]
    assert len(said) == 1
    assert re.search(tries, said[0])


def test_leaves_process_and_modes_as_found(tmp_path):
    model = make_model().eval()
    model[0].train()
    torch.manual_seed(3)
    random, cudnn = torch.get_rng_state(), torch.backends.cudnn.deterministic
    keys = [set(module.__dict__) for module in model.modules()]
    train(tmp_path, Recipe(epochs=1, precision="bf16"), model=model)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.backends.cudnn.deterministic is cudnn
    assert not torch.is_autocast_enabled("cpu")
    assert [module.training for module in model] == [True] + [False] * 6
    assert [set(module.__dict__) for module in model.modules()] == keys
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_fewer_images_than_a_batch_make_one_step(tmp_path):
    result, _ = train(tmp_path, Recipe(epochs=1), data=make_data(images=10))
    assert result.images_per_second * result.train_seconds == pytest.approx(10)


def test_refuses_an_empty_split_and_unknown_devices(tmp_path):
    with pytest.raises(LayerticketError, match="empty"):
        train(tmp_path, data=make_data(images=0))
    with pytest.raises(LayerticketError, match="is not a device"):
        train(tmp_path, where=Where(device="quantum"))
    with pytest.raises(LayerticketError, match="is not a device"):
        train(tmp_path, where=Where(device="meta"))
    with pytest.raises(LayerticketError, match="not on this machine"):
        train(tmp_path, where=Where(device="cuda:99"))
    assert not list(tmp_path.iterdir())


def test_progress_goes_to_stderr_only(tmp_path, capsys):
    train(tmp_path / "shown", Recipe(epochs=1), where=Where(device="cpu"))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "images/s" in shown.err
    train(tmp_path / "hidden", Recipe(epochs=1))
    assert capsys.readouterr() == ("", "")


def test_auto_precision_follows_the_hardware(monkeypatch):
    cpu = resolve_device("cpu")
    for amx, avx, expected in ((0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=amx: bool(found))
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=avx: bool(found))
        assert resolve_precision("auto", cpu) == expected
        assert resolve_precision("fp32", cpu) == "fp32"
        assert resolve_precision("bf16", cpu) == "bf16"
    with pytest.raises(LayerticketError, match="precision 'fp8'"):
        resolve_precision("fp8", cpu)


@pytest.mark.gpu
def test_trains_the_same_twice_on_a_gpu(tmp_path):
    for name in ("a", "b"):
        train(tmp_path / name, where=Where(device="cuda"))
    assert_same_end(tmp_path / "a", tmp_path / "b")
