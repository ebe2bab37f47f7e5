"""Networks for studies that take a second: one that learns, one that cannot be built, one that
ends its process in the middle of a training (once: when the file it is told of is not there)."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from torch import nn

__all__ = ["FILE", "STEPS", "WHOM", "broken", "mortal", "residual", "study_table"]

FILE, WHOM, STEPS = "TOY_STUDY_FILE", "TOY_STUDY_WHOM", 15


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return (x + self.norm(self.conv(x))).relu()


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Block(4) for _ in range(3))
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Mortal(Net):
    steps = 0

    def forward(self, x):
        self.steps += self.training
        told = os.environ.get(FILE)
        if told and self.steps == STEPS and not Path(told).exists():
            Path(told).touch()
            runner = multiprocessing.parent_process()
            killed = runner.pid if os.environ.get(WHOM) == "runner" else os.getpid()
            os.kill(killed, signal.SIGKILL)
            time.sleep(60)  # a worker without its runner ends here, not at the end of its job
        return super().forward(x)


def residual(num_classes, in_channels):
    return Net(num_classes, in_channels)


def mortal(num_classes, in_channels):
    return Mortal(num_classes, in_channels)


def broken(num_classes, in_channels):
    raise RuntimeError("this layer is on strike")


def study_table(**changes):
    """A study file as parsed: one ticket beside dense, one seed, two short epochs."""
    return {
        "title": "Toy",
        "models": ["toy_study:residual"],
        "seeds": 1,
        "recipe": {"epochs": 2, "precision": "fp32"},
        "methods": [{"method": "ticket", "criterion": "snip"}],
    } | changes
