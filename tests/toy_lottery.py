"""A residual network and few images, so that a lottery with a training takes a second."""

import dataclasses

from layerticket.data.dataset import Split
from layerticket.data.sources import load_data
from layerticket.models.load import build_model

__all__ = ["few_digits", "small_resnet"]


def few_digits(images=192):
    data = load_data("digits")
    train = Split(images=data.train.images[:images], labels=data.train.labels[:images])
    return dataclasses.replace(data, train=train, fingerprint="d" * 64)


def small_resnet(seed=0):
    return build_model("resnet20", classes=10, channels=1, seed=seed)
