"""Reads ``.npy`` files of images and labels: checks type and shape before any pixel is touched.

Letters: N images, H and W pixels. Files hold images as (N, H, W, 3); Python objects in them are
refused, but for the one dictionary CIFAR-10.2 is published as, which `pickles` reads without
running anything.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerticket.data.dataset import Split
from layerticket.data.pickles import read_pickled_array
from layerticket.errors import LayerticketError

__all__ = ["check_images", "check_labels", "open_array", "open_pair", "to_split"]

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
