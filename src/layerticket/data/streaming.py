"""Images that are read from disk batch by batch, in worker processes if they are encoded."""

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from layerticket.data.dataset import LIMITS, Array, ImageSource, Rows, check_array
from layerticket.data.images import Encoded, Form, read_image, resized
from layerticket.data.sources import POLICIES
from layerticket.errors import LayerticketError, need
from layerticket.files import check_regular


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkedSplit:
    """Labelled images in several files, in order; `open_chunks` makes it.

    Only the images of a batch are read; labels are in memory. Batches are bit-identical to those
    of a `Split` of the same images.
    """

    chunks: tuple[Array, ...]
    """Memory-mapped arrays (n, C, H, W)."""
    labels: Tensor
    """(N,) int64, on the device."""
    rows: Tensor | None = None
    """(N,) int64 on the CPU: index of each image in all files together; None: in order."""

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
        """Device of the images that `fetch` returns."""
        return self.labels.device

    is_encoded = False

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
        """Return a source of some rows, in the given order; nothing is read."""
        places = rows if self.rows is None else self.rows[rows]
        return ChunkedSplit(chunks=self.chunks, labels=self.labels[rows], rows=places)

    def to(self, device: str | torch.device) -> "ChunkedSplit":
        """Return the same source; `fetch` puts images on the device."""
        return ChunkedSplit(chunks=self.chunks, labels=self.labels.to(device), rows=self.rows)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedSplit:
    """Labelled images that are decoded when they are fetched."""

    images: Sequence[tuple[Encoded, str]]
    """All images, and their names in messages."""
    form: Form
    """Channels, bits and size to decode every image to."""
    labels: Tensor
    """(N,) int64, on the device."""
    rows: Tensor
    """(N,) int64 on the CPU: index of each image in `images`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.form.shape

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8`` or ``torch.uint16``."""
        return torch.uint8 if self.form.bits == 8 else torch.uint16

    @property
    def device(self) -> torch.device:
        """Device of the images that `fetch` returns."""
        return self.labels.device

    is_encoded = True

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Rows) -> Tensor:
        """Decode the images of some rows: (B, C, H, W)."""
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        kind = np.uint8 if self.form.bits == 8 else np.uint16
        found = np.empty((len(rows), *self.shape), kind)
        for place, row in enumerate(self.rows[rows.cpu()].tolist()):
            source, what = self.images[row]
            found[place] = read_image(source, self.form, what)
        return torch.from_numpy(found).to(self.device)

    def subset(self, rows: Tensor) -> "EncodedSplit":
        """Return a source of some rows, in the given order; nothing is decoded."""
        return replace(self, labels=self.labels[rows], rows=self.rows[rows])

    def to(self, device: str | torch.device) -> "EncodedSplit":
        """Return the same source; `fetch` puts images on the device."""
        return replace(self, labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResizedSplit:
    """A source whose images are resized when they are fetched."""

    source: ImageSource
    size: tuple[int, int]
    """Height and width."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the device."""
        return self.source.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.source.shape[0], *self.size

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8`` or ``torch.uint16``, as in the source."""
        return self.source.dtype

    @property
    def device(self) -> torch.device:
        """Device of the images that `fetch` returns."""
        return self.source.device

    is_encoded = True

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, rows: Rows) -> Tensor:
        """Fetch and resize the images of some rows: (B, C, H, W)."""
        images = self.source.fetch(rows).cpu().numpy()
        found = np.empty((len(images), *self.shape), images.dtype)
        for place, image in enumerate(images):
            found[place] = resized(image, self.size)
        return torch.from_numpy(found).to(self.device)

    def subset(self, rows: Tensor) -> "ResizedSplit":
        """Return a source of some rows, in the given order."""
        return replace(self, source=self.source.subset(rows))

    def to(self, device: str | torch.device) -> "ResizedSplit":
        """Return the same source; `fetch` puts images on the device."""
        return replace(self, source=self.source.to(device))


def open_chunks(images: Sequence[Path], labels: Path) -> ChunkedSplit:
    """Open images in several ``.npy`` files, without reading them.

    Args:
        images: Files of arrays (n, C, H, W), uint8 or uint16, in order.
        labels: File of an array (N,) of whole numbers, one per image.

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
        raise LayerticketError("images is empty; give at least one file of images.")
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
        LayerticketError: If it is missing, truncated, not a ``.npy`` file, or holds objects.
    """
    check_regular(path)
    if not path.is_file():
        raise LayerticketError(f"{path.name!r} is missing in {str(path.parent)!r}. Put it there.")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of arrays")
        return found
    except Exception as err:  # a damaged header can fail in any way
        raise LayerticketError(
            f"{path.name!r} cannot be read as an array ({err}); it may be truncated. "
            "Download or write it again."
        ) from err


class Policy:
    """Augments single images with random numbers that depend on seed, epoch and row only.

    Args:
        name: "trivialaugment" or "randaugment".
        seed: Seed of the training.
        epoch: Number of the epoch.

    References:
        Müller and Hutter, "TrivialAugment", ICCV 2021. Cubuk et al., "RandAugment", NeurIPS 2020.
        Both with the code and defaults of torchvision.
    """

    def __init__(self, name: str, seed: int, epoch: int) -> None:
        self.name, self.key = name, (seed, epoch)

    @cached_property
    def _transform(self) -> Callable[[Tensor], Tensor]:
        why = f"augmentation {self.name} needs torchvision"
        v2 = need("torchvision.transforms.v2", extra="torchvision", why=why)
        return getattr(v2, POLICIES[self.name])()  # type: ignore[no-any-return]

    def check(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        """Raise if the augmentation does not support such images, or torchvision is missing."""
        if dtype != torch.uint8 or shape[0] not in (1, 3):
            raise LayerticketError(
                f"augmentation {self.name} needs images of 8 bits and 1 or 3 channels; these are "
                f"{dtype} with {shape[0]}. Use augmentation standard."
            )
        _ = self._transform

    def __call__(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        """Augment images (B, C, H, W); `rows` are their rows in the source."""
        found = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]):
            for number, row in enumerate(rows):
                key = hashlib.sha256(repr((self.name, *self.key, row)).encode()).digest()
                torch.default_generator.manual_seed(int.from_bytes(key[:8], "big") >> 1)
                found[number] = self._transform(images[number])
        return found


def read_ahead(
    source: ImageSource,
    rows: Sequence[Rows],
    transform: Policy | None = None,
    *,
    workers: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """Fetch batches in worker processes, a few batches ahead.

    Args:
        source: Source of the images.
        rows: Rows of each batch.
        transform: Augmentation of each image.
        workers: Number of processes, which does not change the images; 0: this process.
        device: Device of the batches.

    Yields:
        (B, C, H, W) for each entry of `rows`, in order.

    Raises:
        LayerticketError: If an image cannot be read.
    """
    every = torch.arange(len(source))
    numbers = [every[some].tolist() if isinstance(some, slice) else some.tolist() for some in rows]
    loader = DataLoader(
        _Images(source.to("cpu"), transform),
        batch_sampler=numbers,
        num_workers=min(workers, len(numbers)),
        collate_fn=_unchanged,
        pin_memory=device.type == "cuda",
        multiprocessing_context=_context() if workers and numbers else None,
        generator=torch.Generator(),  # else it would change the random state of dropout
    )
    for found in loader:
        if isinstance(found, str):
            raise LayerticketError(found)
        yield found.to(device, non_blocking=True)


def _context() -> str:
    """Return the start method of workers: fork is fast and shares memory, if it is available."""
    methods = multiprocessing.get_all_start_methods()
    return "fork" if "fork" in methods else methods[0]


class _Images(TorchDataset[Tensor]):
    """Fetches the images of a batch in a worker; errors are returned as text."""

    def __init__(self, source: ImageSource, transform: Policy | None) -> None:
        self.source, self.transform = source, transform

    def __getitems__(self, rows: list[int]) -> Tensor | str:
        try:
            images = self.source.fetch(torch.tensor(rows, dtype=torch.int64))
            return images if self.transform is None else self.transform(images, rows)
        except LayerticketError as err:
            return str(err)


def _unchanged(batch: Any) -> Any:  # noqa: ANN401 - a tensor or a text
    return batch
