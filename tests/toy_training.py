"""Small labelled images and a small network that learns them in a blink."""

import torch
from torch import nn

from layerticket.data.dataset import Augment, Dataset, Split

__all__ = ["make_data", "make_model"]


def _split(images, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=random)
    noise = torch.randint(0, 100, (images, 3, 8, 8), generator=random)
    noise[torch.arange(images), labels] += 100  # the brightest channel is the class
    return Split(images=noise.to(torch.uint8), labels=labels)


def make_data(images=70):
    return Dataset(
        name="toy",
        title="Toy",
        train=_split(images, 0),
        validation=_split(20, 1),
        test=_split(30, 2),
        classes=3,
        mean=(0.3, 0.3, 0.3),
        std=(0.2, 0.2, 0.2),
        augment=Augment(pad=1, flip=True),
        fingerprint="f" * 64,
    )


def make_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8, 3),
        )
