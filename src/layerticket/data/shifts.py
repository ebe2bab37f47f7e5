"""Published test sets for CIFAR: later ones, and corrupted ones."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layerticket.data import cache
from layerticket.data.cifar import read_pickle
from layerticket.data.corruptions.recipe import SEVERITIES
from layerticket.data.dataset import Array, Split, check_array, check_labels
from layerticket.data.sources import PUBLISHED, SHIFTS
from layerticket.data.streaming import open_array
from layerticket.errors import LayerticketError, unknown_name

LABELS = "labels.npy"


def read_shift(name: str, folders: Sequence[Path], classes: int = 10) -> Split:
    """Read a test set of `SHIFTS` from the first folder that has its images."""
    if name not in SHIFTS:
        raise unknown_name("shifted test set", name, SHIFTS)
    shift = SHIFTS[name]
    folder = next((folder for folder in folders if (folder / shift.images).is_file()), None)
    if folder is None:
        files = " and ".join(file for file in (shift.images, shift.labels) if file)
        where = " or ".join(repr(str(folder)) for folder in folders) or "no folder"
        raise LayerticketError(
            f"{shift.title} needs {files}; looked in {where}. Give the folder (--shift-dir)."
        )
    if shift.labels:
        images, labels = open_array(folder / shift.images), open_array(folder / shift.labels)
    else:
        images, labels = _pair(folder / shift.images)
    _check(shift.images, images, shift.labels or shift.images, labels, shift.count, (3, 32, 32))
    check_labels(labels, classes, repr(shift.labels or shift.images))
    return _to_split(images, labels)


def _pair(path: Path) -> tuple[Array, Array]:
    """Read images and labels from the pickled dictionary of CIFAR-10.2."""
    content = read_pickle(path, "file of CIFAR-10.2", in_array=True)
    entries = content if isinstance(content, dict) else {}
    images = entries.get("images", entries.get(b"images"))
    labels = entries.get("labels", entries.get(b"labels"))
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray | list):
        raise LayerticketError(
            f"{path.name!r} lacks 'images' (an array) or 'labels' (an array or a list). "
            "Is this another data set?"
        )
    try:
        return images, np.array(labels)
    except ValueError as err:
        raise LayerticketError(
            f"{path.name!r} has labels of unequal length; it must hold one number per image. "
            "Download the file again."
        ) from err


def _check(
    file: str, images: Array, labels_file: str, labels: Array, rows: int, shape: tuple[int, ...]
) -> None:
    """Raise unless there are `rows` labels and images of the shape (C, H, W)."""
    channels, height, width = shape
    check_array(images, np.uint8, (rows, height, width, channels), repr(file))
    check_array(labels, np.integer, (rows,), repr(labels_file))


def _to_split(images: Array, labels: Array) -> Split:
    """Copy images (N, H, W, C) and labels (N,) into tensors."""
    pixels = np.array(np.asarray(images).transpose(0, 3, 1, 2), order="C")
    return Split(
        images=torch.from_numpy(pixels), labels=torch.from_numpy(np.array(labels, np.int64))
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Corrupted:
    """Published corrupted images: their checked files, and labels."""

    folder: Path
    arrays: Mapping[str, Array]
    """Corruption -> (5 N, H, W, C) uint8 on disk, sorted by severity."""
    labels: Tensor
    """(5 N,) int64."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of labels and all files; cached by their path, size and time."""

        def compute() -> str:
            sha = hashlib.sha256(self.labels.numpy().data)
            for name, array in self.arrays.items():
                sha.update(name.encode())
                sha.update(array.data)
            return sha.hexdigest()

        files = [self.folder / LABELS, *(self.folder / f"{name}.npy" for name in self.arrays)]
        return cache.cached_by_files("published corruptions", files, compute)

    def severity(self, name: str, severity: int, images: int) -> Split:
        """Read the first images of one corruption at one severity (1 to 5)."""
        count = len(self.labels) // len(SEVERITIES)
        rows = slice((severity - 1) * count, (severity - 1) * count + images)
        return _to_split(self.arrays[name][rows], self.labels[rows].numpy())


def find_published(data: str, folders: Sequence[Path]) -> Path | None:
    """Find the folder of the published CIFAR-10-C or CIFAR-100-C: a given one, or in one."""
    candidates = [place for folder in folders for place in (folder / PUBLISHED[data], folder)]
    return next((place for place in candidates if (place / "gaussian_noise.npy").is_file()), None)


def open_published(
    folder: Path, names: Sequence[str], count: int, shape: tuple[int, int, int], classes: int
) -> Corrupted:
    """Open and check the published files of corruptions, with `count` images per severity."""
    labels = open_array(folder / LABELS)
    arrays = {name: open_array(folder / f"{name}.npy") for name in names}
    for name, array in arrays.items():
        _check(f"{name}.npy", array, LABELS, labels, len(SEVERITIES) * count, shape)
    check_labels(labels, classes, repr(LABELS))
    return Corrupted(folder=folder, arrays=arrays, labels=torch.tensor(labels.astype("int64")))
