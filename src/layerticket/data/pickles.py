"""Reads the CIFAR files that are Python pickles, without running what is in them.

Letters: N images. A pickle may name any function and have it called. Here four names of NumPy
(and the encoding of bytes) are known, and each stands for a stub of this file, so not even NumPy
is called with what a file says; every other name is refused.
"""

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError

__all__ = ["read_batches", "read_pickled_array"]

SHAPE = (3, 32, 32)
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]
Array = np.ndarray[Any, np.dtype[Any]]
Names = Mapping[tuple[str, str], Any]
OBJECTS = "O"
NUMBERS = {f"{kind}{width}" for kind in "iu" for width in (1, 2, 4, 8)}


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


def read_pickled_array(file: Path) -> object:
    """Read the one object of a ``.npy`` file that holds a Python object, as CIFAR-10.2 does.

    Args:
        file: The file.

    Returns:
        The object, built of dictionaries, lists, text, numbers and arrays of whole numbers.

    Raises:
        LayerticketError: If the file is damaged, holds something else, or names foreign code.
    """
    content = _unpickled(file, "file of CIFAR-10.2", KNOWN_IN_ARRAYS, skip_header=True)
    if not isinstance(content, _Array) or content.dtype != OBJECTS or len(content.objects) != 1:
        raise LayerticketError(f"{file.name!r} does not hold one object. Is this another data set?")
    return _plain(content.objects[0])


def _plain(value: object) -> object:
    """Replace stubs by the arrays they stand for, in a dictionary one level deep."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.values if isinstance(value, _Array) and value.dtype != OBJECTS else value


def _unpickled(file: Path, kind: str, known: Names, *, skip_header: bool = False) -> object:
    """Read what a pickle holds, with stubs for arrays."""
    try:
        with file.open("rb") as stream:
            if skip_header:
                _skip_header(stream)
            return _Reader(stream, known).load()
    except _ForeignName as err:
        raise LayerticketError(
            f"{file.name!r} names {err}, which no {kind} does, and could run code; it was "
            "not opened. Get the file from its authors."
        ) from err
    except Exception as err:  # a damaged pickle can fail in any way
        raise LayerticketError(
            f"{file.name!r} cannot be read as a {kind} ({type(err).__name__}: {err}). "
            "Get the file again."
        ) from err


def _skip_header(stream: BinaryIO) -> None:
    """Go to where the pickle begins in a ``.npy`` file of one object."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape not in {(), (1,)} or not dtype.hasobject:
        raise ValueError(f"{dtype} of shape {shape}")


def _read(file: Path, labels_key: str, classes: int) -> tuple[ByteArray, list[int]]:
    """Read one file: images (N, 3, 32, 32) and N labels."""
    content = _unpickled(file, "CIFAR batch", KNOWN)
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
    if array.dtype != "u1" or array.values.ndim != 2 or array.values.shape[1] != math.prod(SHAPE):
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


class _Dtype:
    """Stands for ``numpy.dtype``; whole numbers and objects are known."""

    allowed = frozenset({OBJECTS, *NUMBERS})

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code
        self.order = "<"
        if self.code == "O8":
            self.code = OBJECTS
        if self.code not in self.allowed:
            raise ValueError(f"array of {code!r}, not of {' or '.join(sorted(self.allowed))}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in {"<", ">", "|", "="}:
            raise ValueError(f"byte order {order!r}")
        self.order = order


class _Bytes(_Dtype):
    """Stands for ``numpy.dtype`` in CIFAR batches; only unsigned bytes are known."""

    allowed = frozenset({"u1"})


class _Array:
    """Stands for an array; takes its state as NumPy pickles it."""

    def __init__(self, *_: object) -> None:
        self.dtype = "u1"
        self.values: Array = np.zeros(0, np.uint8)
        self.objects: list[object] = []

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, object, object]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(
            raw, list if dtype.code == OBJECTS else bytes
        ):
            raise ValueError("array of something else than whole numbers")
        self.dtype = dtype.code
        if isinstance(raw, list):
            self.objects = raw
            return
        flat = np.frombuffer(raw, np.dtype(dtype.order + dtype.code))
        self.values = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _scalar(dtype: object, raw: object) -> int:
    """Stand for one number of an array."""
    if not isinstance(dtype, _Dtype) or dtype.code == OBJECTS or not isinstance(raw, bytes):
        raise ValueError("number that is not whole")
    return int(np.frombuffer(raw, np.dtype(dtype.order + dtype.code))[0])


def _encoded(text: str, codec: str) -> bytes:
    """Stand for ``_codecs.encode``, in which Python 3 writes bytes for Python 2."""
    if codec not in {"latin1", b"latin1"}:
        raise ValueError(f"text in {codec!r}, not in latin1")
    return text.encode("latin1")


KNOWN: Names = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Marker,
    ("numpy", "dtype"): _Bytes,
    ("_codecs", "encode"): _encoded,
}
KNOWN_IN_ARRAYS: Names = {
    **KNOWN,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names it is given and no other."""

    def __init__(self, stream: BinaryIO, known: Names) -> None:
        super().__init__(stream, encoding="bytes")
        self.known = known

    def find_class(self, module: str, name: str, /) -> Any:  # noqa: ANN401 - class or function
        try:
            return self.known[module, name]
        except KeyError:
            raise _ForeignName(f"{module}.{name}") from None
