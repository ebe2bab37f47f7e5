"""Reads CIFAR images from parquet files: encoded images in, uint8 tensors out.

Letters: N images. Decoding takes seconds, so what comes out is kept in the user's cache.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerticket.data import cache
from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError

__all__ = ["read_parquet"]

SIDE = 32  # pixels
IMAGE_COLUMNS = ("img", "image")
JPEG_START = b"\xff\xd8\xff"


def read_parquet(files: Sequence[Path], label: str, classes: int) -> tuple[Split, bool]:
    """Read images and labels of one split, from the cache where they are there already.

    Args:
        files: In order; each with a column ``img`` or ``image`` of {bytes, path}.
        label: Column of the labels.
        classes: Labels must lie in 0 to `classes` - 1.

    Returns:
        N images of 3x32x32, and whether any was stored as JPEG.

    Raises:
        LayerticketError: If a file is damaged or holds something else.
    """
    key = _digest(files, label)
    kept = cache.recall(key)
    if kept is None:
        parts = [_decoded(file, label, classes) for file in files]
        kept = {
            "images": torch.cat([images for images, _, _ in parts]),
            "labels": torch.cat([labels for _, labels, _ in parts]),
            "jpeg": torch.tensor(any(jpeg for _, _, jpeg in parts)),
        }
        cache.keep(key, kept)
    return Split(images=kept["images"], labels=kept["labels"]), bool(kept["jpeg"])


def _digest(files: Sequence[Path], label: str) -> str:
    """Return the SHA-256 over the files' contents and what is read from them."""
    sha = hashlib.sha256(label.encode())
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _decoded(file: Path, label: str, classes: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Read one file: images (N, 3, 32, 32) uint8, labels (N,) int64, whether any is JPEG."""
    encoded, labels = _columns(file, label)
    if not encoded:
        raise LayerticketError(f"{file.name!r} holds no images. Get the file again.")
    if labels.min() < 0 or labels.max() >= classes:
        raise LayerticketError(
            f"labels in {file.name!r} go from {labels.min()} to {labels.max()}; they must lie in "
            f"0 to {classes - 1}. Is this another data set?"
        )
    # In one thread: on two cores, two and four threads were no faster.
    raw = b"".join(_pixels(file, i, image) for i, image in enumerate(encoded))
    images = np.frombuffer(raw, np.uint8).reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    jpeg = any(image.startswith(JPEG_START) for image in encoded)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels), jpeg


def _columns(file: Path, label: str) -> tuple[list[bytes], np.ndarray[Any, np.dtype[np.int64]]]:
    """Read the encoded images and the labels (N,)."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as err:
        raise _not_installed() from err
    try:
        source = pyarrow.parquet.ParquetFile(file)
        names = source.schema_arrow.names
        image = next((name for name in IMAGE_COLUMNS if name in names), None)
        if image is None or label not in names:
            raise LayerticketError(
                f"{file.name!r} has the columns {', '.join(names)}; it needs {label!r} and "
                f"{' or '.join(map(repr, IMAGE_COLUMNS))}. Is this another data set?"
            )
        table = source.read(columns=[image, label])
    except (pyarrow.ArrowException, OSError) as err:
        raise LayerticketError(
            f"{file.name!r} cannot be read as parquet ({err}). Get the file again."
        ) from err
    kind, label_kind = table.schema.field(image).type, table.schema.field(label).type
    holds_bytes = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not holds_bytes or not pyarrow.types.is_integer(label_kind):
        raise LayerticketError(
            f"{file.name!r} has {image!r} of type {kind} and {label!r} of type {label_kind}; they "
            "must be a struct with the encoded bytes, and whole numbers."
        )
    encoded = [row for chunk in table[image].chunks for row in chunk.field("bytes").to_pylist()]
    if table[label].null_count or not all(isinstance(row, bytes) for row in encoded):
        raise LayerticketError(f"{file.name!r} has empty entries. Get the file again.")
    return encoded, table[label].to_numpy().astype(np.int64)


def _pixels(file: Path, row: int, encoded: bytes) -> bytes:
    """Decode one image to 32x32x3 bytes."""
    try:
        from PIL import Image
    except ModuleNotFoundError as err:
        raise _not_installed() from err
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            if image.size == (SIDE, SIDE):
                return (image if image.mode == "RGB" else image.convert("RGB")).tobytes()
            problem = f"is {image.width}x{image.height} pixels"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        problem = f"cannot be decoded ({err})"
    raise LayerticketError(
        f"image {row} of {file.name!r} {problem}; it must be a whole PNG or JPEG of "
        f"{SIDE}x{SIDE}. Get the file again."
    )


def _not_installed() -> LayerticketError:
    return LayerticketError('reading parquet files needs: pip install "layerticket[cifar]"')
