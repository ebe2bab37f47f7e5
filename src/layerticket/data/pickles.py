"""Reads the original CIFAR batches, which are Python pickles, without running what is in them.

Letters: N images. A pickle may name any function and have it called. Here three names of NumPy
(and the encoding of bytes) are known, and each stands for a stub of this file, so not even NumPy
is called with what a file says; every other name is refused.
"""

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError

__all__ = ["read_batches"]

SHAPE = (3, 32, 32)
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]


def read_batches(files: Sequence[Path], labels_key: str, classes: int) -> Split:
    """Read the images and labels of one split.

    Args:
        files: In order.
        labels_key: Entry of the labels, ``labels`` or ``fine_labels``.
        classes: Labels must lie in 0 to `classes` - 1.

    Returns:
        N images of 3x32x32.

    Raises:
        LayerticketError: If a file is damaged, holds something else, or names foreign code.
    """
    parts = [_read(file, labels_key, classes) for file in files]
    return Split(
        images=torch.from_numpy(np.concatenate([images for images, _ in parts])),
        labels=torch.tensor([label for _, labels in parts for label in labels]),
    )


def _read(file: Path, labels_key: str, classes: int) -> tuple[ByteArray, list[int]]:
    """Read one file: images (N, 3, 32, 32) and N labels."""
    try:
        with file.open("rb") as stream:
            content = _Reader(stream, encoding="bytes").load()
    except _ForeignName as err:
        raise LayerticketError(
            f"{file.name!r} names {err}, which no CIFAR batch does, and could run code; it was "
            "not opened. Get the file from its authors."
        ) from err
    except Exception as err:  # a damaged pickle can fail in any way
        raise LayerticketError(
            f"{file.name!r} cannot be read as a CIFAR batch ({type(err).__name__}: {err}). "
            "Get the file again."
        ) from err
    entries = content if isinstance(content, dict) else {}
    array = entries.get(b"data", entries.get("data"))
    labels = entries.get(labels_key.encode(), entries.get(labels_key))
    problem = _problem(array, labels, labels_key, classes)
    if problem or not isinstance(array, _Array) or not isinstance(labels, list):
        raise LayerticketError(f"{file.name!r} {problem}. Is this another data set?")
    return array.values.reshape(-1, *SHAPE), labels


def _problem(array: object, labels: object, labels_key: str, classes: int) -> str:
    """Say what is wrong with the entries of a batch; empty when nothing is."""
    if not isinstance(array, _Array) or not isinstance(labels, list):
        return f"lacks 'data' (an array) or {labels_key!r} (a list)"
    if array.values.ndim != 2 or array.values.shape[1] != math.prod(SHAPE):
        return f"holds data of shape {array.values.shape}, not (N, {math.prod(SHAPE)})"
    if len(labels) != len(array.values) or not labels:
        return f"holds {len(array.values)} images and {len(labels)} labels"
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        return f"holds labels that are not whole numbers from 0 to {classes - 1}"
    return ""


class _ForeignName(Exception):
    """A pickle names something that is not in the list."""


class _Marker:
    """Stands for ``numpy.ndarray`` where a pickle names the class."""


class _Bytes:
    """Stands for ``numpy.dtype``; only unsigned bytes are known."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in {"u1", b"u1"}:
            raise ValueError(f"array of {code!r}, not of unsigned bytes")

    def __setstate__(self, _: object) -> None:
        """Ignore byte order and alignment; bytes have none."""


class _Array:
    """Stands for an array; takes its state as NumPy pickles it."""

    values: ByteArray

    def __init__(self, *_: object) -> None:
        self.values = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, object, object]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Bytes) or not isinstance(raw, bytes):
            raise ValueError("array of something else than unsigned bytes")
        flat = np.frombuffer(raw, np.uint8)
        self.values = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _encoded(text: str, codec: str) -> bytes:
    """Stand for ``_codecs.encode``, in which Python 3 writes bytes for Python 2."""
    if codec not in {"latin1", b"latin1"}:
        raise ValueError(f"text in {codec!r}, not in latin1")
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Marker,
    ("numpy", "dtype"): _Bytes,
    ("_codecs", "encode"): _encoded,
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names in `KNOWN` and no other."""

    def find_class(self, module: str, name: str, /) -> Any:  # noqa: ANN401 - class or function
        try:
            return KNOWN[module, name]
        except KeyError:
            raise _ForeignName(f"{module}.{name}") from None
