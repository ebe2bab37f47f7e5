"""The records of this room: images with labels, and what belongs together as a data set.

Letters: N images, C channels, H and W pixels, K classes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from layerticket.errors import LayerticketError

__all__ = ["Augment", "Dataset", "Split"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Images and their labels, in a fixed order, on one device.

    Raises:
        LayerticketError: If a type or shape is wrong, or images and labels do not match.
    """

    images: Tensor
    """(N, C, H, W) uint8, 0 to 255."""
    labels: Tensor
    """(N,) int64, 0 to K - 1."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise LayerticketError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                "they must be torch.uint8 of shape (N, C, H, W)."
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise LayerticketError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                "they must be torch.int64 of shape (N,)."
            )
        if len(self.images) != len(self.labels):
            raise LayerticketError(
                f"{len(self.images)} images have {len(self.labels)} labels; give one label each."
            )
        if self.images.device != self.labels.device:
            raise LayerticketError(
                f"images lie on {self.images.device}, labels on {self.labels.device}; "
                "put both on one device."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> "Split":
        """Return the same split on another device; where it is already there, nothing is copied."""
        return Split(images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What is done at random to every training image."""

    pad: int
    """Pixels of border before a crop to the old size. The border is zero after normalization,
    which is the colour of the channel means."""
    flip: bool
    """Whether half of the images are mirrored left to right."""

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise LayerticketError(f"pad is {self.pad} pixels; it must be at least 0.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Three splits of one kind of image, and all that belongs to them.

    Raises:
        LayerticketError: If the splits differ in shape, a label is out of range, or the
            statistics do not fit the channels.
    """

    name: str
    """What `load_data` calls it."""
    title: str
    """What figures call it; stored JPEGs are said to be so."""
    train: Split
    validation: Split
    test: Split
    classes: int
    """K."""
    mean: tuple[float, ...]
    """Per channel, over the training split, in units where 255 is 1."""
    std: tuple[float, ...]
    """Per channel, over the training split, in units where 255 is 1."""
    augment: Augment
    fingerprint: str
    """SHA-256 over the bytes of all splits, in hexadecimal."""

    def __post_init__(self) -> None:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        shapes = {name: tuple(split.images.shape[1:]) for name, split in splits.items()}
        if len(set(shapes.values())) != 1:
            raise LayerticketError(f"the splits differ in (C, H, W): {shapes}; make them equal.")
        for name, split in splits.items():
            if not len(split):
                continue
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.classes:
                raise LayerticketError(
                    f"labels of the {name} split go from {low} to {high}; with {self.classes} "
                    f"classes they must lie in 0 to {self.classes - 1}."
                )
        channels = shapes["train"][0]
        if not len(self.mean) == len(self.std) == channels:
            raise LayerticketError(
                f"{len(self.mean)} means and {len(self.std)} deviations for {channels} channels; "
                "give one of each per channel."
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise LayerticketError(
                f"mean {self.mean} and std {self.std} cannot normalize images: they must be "
                "finite, and std above 0 (it is 0 when all pixels of a channel are equal)."
            )
