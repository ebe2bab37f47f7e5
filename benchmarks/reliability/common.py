"""What the measurements of reliability share: a small network, commands in processes that can die.

A command runs in a fork of this process, which has everything loaded, so that starting one takes no
time. All of it needs Linux.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

for _module in ("cli.train", "cli.study", "study.train", "study.running.engine", "report.page"):
    importlib.import_module(f"layerticket.{_module}")  # forks have it, and so begin at once
importlib.import_module("sklearn.datasets")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
MODEL = "common:build"
EPOCHS = 3


class Block(nn.Module):
    """x + f(x) with a norm that does not mix images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(2, width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Add the branch."""
        return images + self.branch(images)


def build(num_classes: int, in_channels: int) -> nn.Module:
    """Build a residual network whose training takes a second or two."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), Block(4), Block(4), Block(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )  # fmt: skip


def train_words(out: Path) -> list[str]:
    """Words of a training of the network on the digits."""
    words = ["train", MODEL, "--epochs", str(EPOCHS), "--keep", "1", "--precision", "fp32"]
    return [*words, "--device", "cpu", "--out", str(out)]


STUDY = f"""
title = "reliability"
models = ["{MODEL}"]
seeds = 2
[recipe]
epochs = {EPOCHS}
precision = "fp32"
[[methods]]
method = "ticket"
criterion = "snip"
[[methods]]
method = "control"
control = "last"
"""


def study_words(folder: Path, executor: str) -> list[str]:
    """Words of a study of the network; its file is written beside the folder."""
    file = folder.parent / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    words = ["study", "run", str(file), "--out", str(folder), "--executor", executor]
    return [*words, "--device", "cpu", "--workers", "1" if executor == "inline" else "2"]


def start(words: list[str], prepare: Callable[[], object] = lambda: None) -> int:
    """Start a command in a process, and a group, of its own; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(sink, stream)
        torch.set_num_threads(1)
        prepare()
        from layerticket.cli.app import main

        os._exit(main(words))
    finally:
        os._exit(99)


def ended(pid: int) -> int:
    """Wait for a process; its exit code, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(words: list[str], prepare: Callable[[], object] = lambda: None) -> int:
    """Run a command to its end; returns its exit code."""
    return ended(start(words, prepare))


def kill_group(pid: int) -> None:
    """Kill a process and all it has started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def timed(words: list[str]) -> float:
    """Seconds that a command takes."""
    begun = time.perf_counter()
    assert run(words) == 0, words
    return time.perf_counter() - begun


def bits(folder: Path) -> dict[str, object]:
    """What has to be equal of every training in a folder: weights, snapshots, answers, curves."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("result.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        keys = ("weights", "snapshots", "test_accuracy", "correct", "epochs")
        lines = (path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        curve = [json.loads(line)["train_loss"] for line in lines]
        found[path.parent.name] = {key: record[key] for key in keys} | {"curve": curve}
    return found


def rubbish(folder: Path) -> list[str]:
    """Files that no finished training or study leaves."""
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    return [n for n in names if n.endswith(".partial") or n == "checkpoint.safetensors"]


@contextmanager
def scratch() -> Iterator[Path]:
    """Lend a folder that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
