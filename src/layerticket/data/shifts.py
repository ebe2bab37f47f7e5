"""Test sets made later than CIFAR, and corrupted ones, as their authors publish them.

Enters: a folder. Leaves: splits, or files opened and checked whose pixels are read when needed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerticket.data.cifar import read_pickled_array
from layerticket.data.corruptions.recipe import SEVERITIES
from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError, unknown_name

Array = np.ndarray[Any, np.dtype[Any]]


def open_array(path: Path) -> Array:
    """Open a ``.npy`` file without reading it into memory.

    Raises:
        LayerticketError: If it is missing, truncated, no ``.npy`` file, or holds objects.
    """
    if not path.is_file():
        raise LayerticketError(f"{path.name!r} is missing in {str(path.parent)!r}. Put it there.")
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    except (OSError, ValueError, EOFError) as err:
        raise LayerticketError(
            f"{path.name!r} cannot be read as an array ({err}); it may be truncated. Get it again."
        ) from err


def open_pair(path: Path) -> tuple[Array, Array]:
    """Read the pickled dictionary of images and labels that CIFAR-10.2 is published as.

    Raises:
        LayerticketError: If it is missing, damaged, holds something else, or names foreign code.
    """
    if not path.is_file():
        raise LayerticketError(f"{path.name!r} is missing in {str(path.parent)!r}. Put it there.")
    content = read_pickled_array(path)
    entries = content if isinstance(content, dict) else {}
    images = entries.get("images", entries.get(b"images"))
    labels = entries.get("labels", entries.get(b"labels"))
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray | list):
        raise LayerticketError(
            f"{path.name!r} lacks 'images' (an array) or 'labels' (an array or a list). "
            "Is this another data set?"
        )
    return images, np.array(labels)


def check_images(name: str, images: Array, rows: int, shape: tuple[int, int, int]) -> None:
    """Refuse images that are not `rows` of 8 bits and of the shape (C, H, W).

    Raises:
        LayerticketError: If they differ.
    """
    channels, height, width = shape
    wanted = (rows, height, width, channels)
    if images.dtype != np.uint8 or images.shape != wanted:
        raise LayerticketError(
            f"{name!r} holds {images.dtype} of shape {images.shape}; it must hold uint8 of shape "
            f"{wanted}. Is the file of another data set, or cut?"
        )


def check_labels(name: str, labels: Array, rows: int, classes: int) -> None:
    """Refuse labels that are not `rows` whole numbers from 0 to `classes` - 1.

    Raises:
        LayerticketError: If they differ.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (rows,):
        raise LayerticketError(
            f"{name!r} holds {labels.dtype} of shape {labels.shape}; it must hold {rows} whole "
            "numbers, one for each image. Is the file of another data set, or cut?"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise LayerticketError(
            f"labels in {name!r} go from {low} to {high}; they must lie in 0 to {classes - 1}. "
            "Is this another data set?"
        )


def to_split(images: Array, labels: Array) -> Split:
    """Copy images (N, H, W, C) and labels (N,) into tensors."""
    pixels = np.array(np.asarray(images).transpose(0, 3, 1, 2), order="C")
    return Split(
        images=torch.from_numpy(pixels), labels=torch.from_numpy(np.array(labels, np.int64))
    )


CIFAR_SHAPE = (3, 32, 32)
LABELS = "labels.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How a later test set for CIFAR-10 is published."""

    title: str
    images: str
    """File of the images; of images and labels where `labels` is empty."""
    labels: str = ""
    count: int
    """Images in it."""


# source: https://github.com/modestyachts/CIFAR-10.1 (2018), .../cifar-10.2 (2021)
SHIFTS = {
    "cifar10.1": Shift(
        title="CIFAR-10.1 v6",
        images="cifar10.1_v6_data.npy",
        labels="cifar10.1_v6_labels.npy",
        count=2000,
    ),
    "cifar10.1-v6": Shift(
        title="CIFAR-10.1 v6",
        images="cifar10.1_v6_data.npy",
        labels="cifar10.1_v6_labels.npy",
        count=2000,
    ),
    "cifar10.1-v4": Shift(
        title="CIFAR-10.1 v4",
        images="cifar10.1_v4_data.npy",
        labels="cifar10.1_v4_labels.npy",
        count=2021,
    ),
    "cifar10.2": Shift(title="CIFAR-10.2 test", images="cifar102_test.npy", count=2000),
    "cifar10.2-train": Shift(title="CIFAR-10.2 train", images="cifar102_train.npy", count=10_000),
}
PUBLISHED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}


def read_shift(name: str, folders: Sequence[Path], classes: int = 10) -> Split:
    """Read a later test set for CIFAR-10.

    Args:
        name: One of `SHIFTS`.
        folders: Where its files may lie; the first that has one of them counts.
        classes: Labels must lie in 0 to `classes` - 1.

    Returns:
        Images and labels in the order of the file.

    Raises:
        LayerticketError: If the files are absent, damaged, or hold something else.
    """
    if name not in SHIFTS:
        raise unknown_name("shifted test set", name, SHIFTS)
    shift = SHIFTS[name]
    there = [folder for folder in folders if (folder / shift.images).is_file()]
    if not there:
        files = " and ".join(file for file in (shift.images, shift.labels) if file)
        where = " or ".join(repr(str(folder)) for folder in folders) or "no folder"
        raise LayerticketError(
            f"{shift.title} needs {files}; looked in {where}. Give the folder (--shift-dir)."
        )
    if shift.labels:
        images, labels = open_array(there[0] / shift.images), open_array(there[0] / shift.labels)
    else:
        images, labels = open_pair(there[0] / shift.images)
    check_images(shift.images, images, shift.count, CIFAR_SHAPE)
    check_labels(shift.labels or shift.images, labels, shift.count, classes)
    return to_split(images, labels)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Corrupted:
    """Published corrupted images: files that were checked, and labels."""

    arrays: Mapping[str, Array]
    """Corruption -> (5 N, H, W, C) uint8 on disk, severity by severity."""
    labels: Tensor
    """(5 N,) int64."""

    def fingerprint(self) -> str:
        """Return the SHA-256 over labels and all files, in hexadecimal."""
        sha = hashlib.sha256(self.labels.numpy().data)
        for name, array in self.arrays.items():
            sha.update(name.encode())
            sha.update(array.data)
        return sha.hexdigest()

    def severity(self, name: str, severity: int, images: int) -> Split:
        """Read the first images of one corruption at one severity.

        Args:
            name: Of a corruption.
            severity: 1 to 5.
            images: How many, at most N.
        """
        count = len(self.labels) // len(SEVERITIES)
        rows = slice((severity - 1) * count, (severity - 1) * count + images)
        return to_split(self.arrays[name][rows], self.labels[rows].numpy())


def find_published(data: str, folders: Sequence[Path]) -> Path | None:
    """Find the folder of the published CIFAR-10-C or CIFAR-100-C files, if there is one.

    Args:
        data: Name of the data set they belong to.
        folders: Searched themselves, and for a folder of the published name.
    """
    title = PUBLISHED[data]
    candidates = [place for folder in folders for place in (folder / title, folder)]
    return next((place for place in candidates if (place / "gaussian_noise.npy").is_file()), None)


def open_published(
    folder: Path, names: Sequence[str], count: int, shape: tuple[int, int, int], classes: int
) -> Corrupted:
    """Open the published files of several corruptions and check all of them.

    Args:
        folder: With ``labels.npy`` and a file for each corruption.
        names: Corruptions wanted.
        count: N, images of one severity; a file holds 5 N rows.
        shape: (C, H, W) of an image.
        classes: Labels must lie in 0 to `classes` - 1.

    Raises:
        LayerticketError: If a file is absent, truncated, or holds something else.
    """
    rows = len(SEVERITIES) * count
    labels = open_array(folder / LABELS)
    check_labels(LABELS, labels, rows, classes)
    arrays = {}
    for name in names:
        arrays[name] = open_array(folder / f"{name}.npy")
        check_images(f"{name}.npy", arrays[name], rows, shape)
    return Corrupted(arrays=arrays, labels=torch.tensor(labels.astype("int64")))
