"""A small network, and commands in processes that can be killed, for the reliability benchmarks.

A command runs in a fork of this process, which has imported everything, so it starts at once. Needs
Linux.
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

from layerticket.training.checkpoint import Journal

Journal.every_seconds = 0.0  # save every epoch, as where epochs last 5 s or more
for _module in ("cli.train", "cli.study", "study.train", "study.running.engine", "report.page"):
    importlib.import_module(f"layerticket.{_module}")  # once, for all forks
importlib.import_module("sklearn.datasets")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
MODEL = "common:build"
EPOCHS = 3


class Block(nn.Module):
    """x + f(x) with a normalization that does not mix images."""

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
    """Build a residual network that trains in one or two seconds."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), Block(4), Block(4), Block(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )  # fmt: skip


def train_words(out: Path) -> list[str]:
    """Return the command line of a training on the digits."""
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
    """Return the command line of a study, and write its file next to the folder."""
    file = folder.parent / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    words = ["study", "run", str(file), "--out", str(folder), "--executor", executor]
    return [*words, "--device", "cpu", "--workers", "1" if executor == "inline" else "2"]


def start(words: list[str], prepare: Callable[[], object] = lambda: None) -> int:
    """Start a command in a new process and process group; return its process number."""
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
    """Wait for a process; return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(words: list[str], prepare: Callable[[], object] = lambda: None) -> int:
    """Run a command; return its exit code."""
    return ended(start(words, prepare))


def kill_group(pid: int) -> None:
    """Kill a process and all processes that it has started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def timed(words: list[str]) -> float:
    """Run a command; return its seconds."""
    begun = time.perf_counter()
    assert run(words) == 0, words
    return time.perf_counter() - begun


def bits(folder: Path) -> dict[str, object]:
    """Return what must be equal for every training: weights, snapshots, answers, curves."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("result.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        keys = ("weights", "snapshots", "test_accuracy", "correct", "epochs")
        lines = (path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        curve = [json.loads(line)["train_loss"] for line in lines]
        found[path.parent.name] = {key: record[key] for key in keys} | {"curve": curve}
    return found


def leftovers(folder: Path) -> list[str]:
    """Return files that must not remain after a finished training or study."""
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    return [n for n in names if n.endswith(".partial") or n == "checkpoint.safetensors"]


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
