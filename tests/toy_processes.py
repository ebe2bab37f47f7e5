"""Several processes that find each other, as torchrun starts them, and what they train: a network
without batch norm and dropout on few images."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.distributed import TCPStore

from layerticket.surgery.masks import masked
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from toy_training import make_data

TESTS = Path(__file__).resolve().parent

QUIET = Where(device="cpu", progress=False)
RECIPE = Recipe(epochs=3, batch_size=17, precision="fp32")  # 17 images: parts of 8 and 9
CLIPPED = replace(RECIPE, optimizer="adamw", learning_rate=0.01, clip_norm=0.1)


def make_plain(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 9, 3, padding=1),
            nn.GroupNorm(3, 9),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(9, 3),
        )


def make_masked():
    """The same with half of the first weights masked."""
    model = make_plain()
    weight = model[0].weight.detach()
    return masked(model, {"0.weight": weight.abs() > weight.abs().median()})


def loss_of(model):
    """Loss on the validation images, which tells more than an accuracy of twenty."""
    images, labels = make_data().validation.images, make_data().validation.labels
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(images / 255), labels))


def train(folder, model=None, recipe=RECIPE, **options):
    options = {"seed": 5, "where": QUIET, "validate": loss_of} | options
    model = model or make_plain()
    return fit(model, make_data(), recipe, folder=folder, **options), model


class Block(nn.Module):
    """x + f(x), with a norm that does not mix images."""

    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(2, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, images):
        return images + self.branch(images)


def make_residual(num_classes, in_channels):
    """A residual network whose training takes no time."""
    width = 4
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        *(Block(width) for _ in range(3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def together(code, *words, count=2, limit=200, launcher=()):
    """Run code in `count` processes; return exit code, stdout and stderr of each, by rank."""
    # Held by this process, so that the port cannot become another's before they meet.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *launcher, *(["-c", code] if code else []), *map(str, words)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        ends = [process.communicate(timeout=limit) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *end) for process, end in zip(started, ends, strict=True)]
