"""Images that do not fit into memory: read from ``.npy`` files on disk, batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layerticket.data.dataset import LIMITS, Array, Rows, check_array
from layerticket.errors import LayerticketError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkedSplit:
    """Labelled images in several files, which lie one after the other in one order.

    Only the images asked for are read; labels are in memory. Batches have the bits that a `Split`
    of the same images gives. Made by `open_chunks`.
    """

    chunks: tuple[Array, ...]
    """Arrays (n, C, H, W) that are mapped from files."""
    labels: Tensor
    """(N,) int64, on the device."""
    rows: Tensor | None = None
    """(N,) int64 on the CPU: where each image lies in all files together; None: in order."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.chunks[0].shape[1:]
        return channels, height, width

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8`` or ``torch.uint16``."""
        return torch.uint8 if self.chunks[0].dtype.itemsize == 1 else torch.uint16

    @property
    def device(self) -> torch.device:
        """Where `fetch` puts images."""
        return self.labels.device

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Rows) -> Tensor:
        """Read the images of some rows: (B, C, H, W)."""
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        rows = rows.cpu()
        places = (rows if self.rows is None else self.rows[rows]).numpy()
        images = np.empty((len(places), *self.shape), self.chunks[0].dtype.newbyteorder("="))
        ends = np.cumsum([len(chunk) for chunk in self.chunks])
        which = np.searchsorted(ends, places, side="right")
        for number in np.unique(which):
            here = which == number
            chunk = self.chunks[number]
            images[here] = chunk[places[here] - (ends[number] - len(chunk))]
        return torch.from_numpy(images).to(self.device)

    def subset(self, rows: Tensor) -> "ChunkedSplit":
        """Return a source of some rows, in their order; nothing is read."""
        places = rows if self.rows is None else self.rows[rows]
        return ChunkedSplit(chunks=self.chunks, labels=self.labels[rows], rows=places)

    def to(self, device: str | torch.device) -> "ChunkedSplit":
        """Return the same source; `fetch` puts images on the device."""
        return ChunkedSplit(chunks=self.chunks, labels=self.labels.to(device), rows=self.rows)


def open_chunks(images: Sequence[Path], labels: Path) -> ChunkedSplit:
    """Open images that lie in several ``.npy`` files, without reading them.

    Args:
        images: Files of arrays (n, C, H, W), uint8 or uint16, in order.
        labels: File of an array (N,) of whole numbers, one for each image.

    Returns:
        The source, on the CPU.

    Raises:
        LayerticketError: If a file is missing, truncated, or does not fit the others.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "0.npy", np.zeros((3, 1, 8, 8), np.uint8))
        >>> np.save(folder / "labels.npy", np.array([0, 1, 0]))
        >>> len(open_chunks([folder / "0.npy"], folder / "labels.npy"))
        3
    """
    if not images:
        raise LayerticketError("there is no file of images to open. Give at least one.")
    chunks = tuple(open_array(path) for path in images)
    kinds = {np.dtype(str(kind).removeprefix("torch.")) for kind in LIMITS}
    kind = chunks[0].dtype.newbyteorder("=")
    for path, chunk in zip(images, chunks, strict=True):
        shape = (None, *(chunks[0].shape[1:] if chunks[0].ndim == 4 else (None,) * 3))
        check_array(chunk, kind if kind in kinds else np.uint8, shape, repr(path.name))
    total = sum(len(chunk) for chunk in chunks)
    found = open_array(labels)
    check_array(found, np.integer, (total,), repr(labels.name))
    return ChunkedSplit(chunks=chunks, labels=torch.from_numpy(found.astype(np.int64)))


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
