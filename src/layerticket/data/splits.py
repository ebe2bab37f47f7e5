"""Carves splits by fixed rules, measures and fingerprints them: images in, a `Dataset` out."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from layerticket.data.dataset import Augment, Dataset, Split
from layerticket.errors import LayerticketError

__all__ = ["assemble", "fingerprint", "generator", "hold_out", "rank_in_class", "statistics"]


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
