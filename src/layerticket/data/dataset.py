"""The handwritten digits that come with scikit-learn: 1,797 images of 1x8x8, ten classes."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerticket.errors import LayerticketError


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


def generator(*key: str | int) -> torch.Generator:
    """Return a CPU generator whose stream follows from `key` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def rank_in_class(labels: Tensor) -> Tensor:
    """Count, for every entry, the earlier entries of the same class.

    Args:
        labels: (N,) int64, at least 0.

    Returns:
        (N,) int64.

    Example:
        >>> rank_in_class(torch.tensor([1, 0, 1, 1, 0])).tolist()
        [0, 0, 1, 2, 1]
    """
    counts = labels.bincount()  # (K,)
    first = counts.cumsum(0) - counts  # (K,), where a class begins once sorted
    by_class = labels.argsort(stable=True)
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return ranks


def hold_out(split: Split, fraction: float, purpose: str) -> tuple[Split, Split]:
    """Set the same share of every class aside, always the same images.

    Both parts keep the order of the images; a larger fraction sets aside a superset.

    Args:
        split: On the CPU.
        fraction: Share of each class to set aside, rounded to whole images.
        purpose: Names the draw; draws for different purposes are independent.

    Returns:
        What stays, and what was set aside.
    """
    order = torch.randperm(len(split), generator=generator("hold out", purpose))
    ranks = torch.empty_like(order)
    ranks[order] = rank_in_class(split.labels[order])
    quota = (split.labels.bincount() * fraction).round()  # (K,)
    aside = ranks < quota[split.labels]
    return _subset(split, ~aside), _subset(split, aside)


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation per channel, from exact counts of the 256 values.

    Args:
        images: (N, C, H, W) uint8, N at least 1.

    Returns:
        C means and C deviations (dividing by the number of pixels), where 255 is 1.
    """
    values = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].reshape(-1).numpy(), minlength=256)
        total = int(counts.sum())
        mean = int(counts @ values) / total
        variance = int(counts @ values**2) / total - mean**2
        means.append(mean / 255)
        deviations.append(max(variance, 0.0) ** 0.5 / 255)
    return tuple(means), tuple(deviations)


def fingerprint(*splits: Split) -> str:
    """Return the SHA-256 over shapes, images and labels of the splits, in hexadecimal."""
    sha = hashlib.sha256()
    for split in splits:
        sha.update(repr(tuple(split.images.shape)).encode())
        sha.update(split.images.cpu().contiguous().numpy().data)
        sha.update(split.labels.cpu().contiguous().numpy().astype("<i8", copy=False).data)
    return sha.hexdigest()


def assemble(
    name: str,
    title: str,
    training: Split,
    test: Split,
    *,
    classes: int,
    augment: Augment,
    validation_fraction: float,
) -> Dataset:
    """Carve the validation split out of the training images, measure, and put all together.

    Raises:
        LayerticketError: If there are no training images left, or the parts do not fit.
    """
    train, validation = hold_out(training, validation_fraction, "validation")
    if not len(train):
        raise LayerticketError(f"{name!r} has no training images. Give a complete data set.")
    mean, std = statistics(train.images)
    return Dataset(
        name=name,
        title=title,
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        mean=mean,
        std=std,
        augment=augment,
        fingerprint=fingerprint(train, validation, test),
    )


def _subset(split: Split, mask: Tensor) -> Split:
    """Copy the images where `mask` (N,) is true."""
    return Split(images=split.images[mask], labels=split.labels[mask])


def noise(shape: tuple[int, int, int], *, classes: int, images: int, seed: int = 0) -> Dataset:
    """Draw a data set on which nothing can be learned.

    What a step costs in time, memory and energy does not depend on what the pixels show, so this
    is what costs are measured on where no data are at hand.

    Args:
        shape: (C, H, W).
        classes: K, number of labels.
        images: Images for training; validation and test get ten each.
        seed: Decides every pixel.

    Returns:
        The data set, augmented like CIFAR by crops of a border of 4 and mirroring.
    """
    random = torch.Generator().manual_seed(seed)
    train, validation, test = (
        Split(
            images=torch.randint(256, (count, *shape), generator=random, dtype=torch.uint8),
            labels=torch.randint(classes, (count,), generator=random),
        )
        for count in (images, 10, 10)
    )
    return Dataset(
        name="noise",
        title="Noise",
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        mean=(0.5,) * shape[0],
        std=(0.29,) * shape[0],
        augment=Augment(pad=4, flip=True),
        fingerprint=f"noise {shape} {classes} {images} {seed}",
    )


TEST_FRACTION = 0.2
BRIGHTEST = 16  # the published pixels are whole numbers from 0 to 16


def load_digits(validation_fraction: float) -> Dataset:
    """Load the digits; test images are a fifth of every class, always the same ones."""
    from sklearn import datasets

    published = datasets.load_digits()
    pixels = np.rint(published.images * (255 / BRIGHTEST)).astype(np.uint8)  # (N, 8, 8)
    everything = Split(
        images=torch.from_numpy(pixels).unsqueeze(1),
        labels=torch.from_numpy(published.target.astype(np.int64)),
    )
    training, test = hold_out(everything, TEST_FRACTION, "test")
    return assemble(
        "digits",
        "Digits",
        training,
        test,
        classes=10,
        augment=Augment(pad=1, flip=False),
        validation_fraction=validation_fraction,
    )
