"""A small residual network with projections and a ticket of it, which baselines are matched to."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

import layerticket as lt
from layerticket.models.load import build_model
from tiny import ConvBlock, image_batch

__all__ = ["CenteredPadding", "batch_of", "projected", "resnet20", "ticket_of"]


class Projected(ConvBlock):
    """A basic block whose projection is normalized, as in the networks of the package."""

    def __init__(self, width, leaving=None):
        super().__init__(width, leaving)
        if leaving not in (None, width):
            conv = nn.Conv2d(width, leaving, 1, 2, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(leaving))


def projected(seed=0):
    """Blocks 3, 4 and 6 can go; filters 4 + 8 + 8 + (6 + 6 + 6) + 12 = 50."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            Projected(4),
            Projected(4),
            Projected(4, 6),
            Projected(6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )


class CenteredPadding(nn.Module):
    """A shortcut that subsamples and pads channels on both sides, as many networks in the wild."""

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))


def batch_of(classes=3, channels=3, size=6, examples=12):
    return image_batch(examples, channels, size, classes)


@functools.cache
def resnet20():
    return build_model("resnet20-projection", classes=10, channels=3, seed=0)


def ticket_of(model, batch, remove=1, **options):
    return lt.find_ticket(
        model, batch, criterion="snip", budget=lt.Budget(remove=remove), **options
    )
