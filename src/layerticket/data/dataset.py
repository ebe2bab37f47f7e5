"""Data sets: three splits of labelled images, with their normalization and augmentation.

Letters: N images, C channels, H and W pixels, K classes. Pixels are whole numbers of 8 or 16 bits.
"""

import hashlib
import importlib.util
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from layerticket.data.sources import Reading
from layerticket.display import Shown, few
from layerticket.errors import LayerticketError

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Tensor | slice
LIMITS = {torch.uint8: 255, torch.uint16: 65_535}
"""Largest value of each pixel type."""


class ImageSource(Protocol):
    """Labelled images in a fixed order, in memory (`Split`) or on disk (`ChunkedSplit`)."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64, 0 to K - 1, on the device."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8`` or ``torch.uint16``."""

    @property
    def device(self) -> torch.device:
        """Device of the images that `fetch` returns."""

    @property
    def is_encoded(self) -> bool:
        """Whether images are processed one by one when they are fetched, which is slow."""

    def __len__(self) -> int: ...

    def fetch(self, rows: Rows) -> Tensor:
        """Return the images of some rows (int64, on the device, or a slice): (B, C, H, W)."""

    def subset(self, rows: Tensor) -> "ImageSource":
        """Return a source of some rows (int64, on the CPU), in the given order."""

    def to(self, device: str | torch.device) -> "ImageSource":
        """Return the same source on another device."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Split(Shown):
    """Images and their labels in memory, in a fixed order, on one device.

    Raises:
        LayerticketError: If a type or shape is wrong, or images and labels do not match.
    """

    images: Tensor
    """(N, C, H, W) uint8 or uint16."""
    labels: Tensor
    """(N,) int64, 0 to K - 1."""

    def __post_init__(self) -> None:
        if self.images.dtype not in LIMITS or self.images.ndim != 4:
            raise LayerticketError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                "they must be torch.uint8 or torch.uint16 of shape (N, C, H, W)."
            )
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise LayerticketError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                "they must be torch.int64 of shape (N,)."
            )
        if len(self.images) != len(self.labels):
            raise LayerticketError(
                f"{len(self.images)} images have {len(self.labels)} labels; give one per image."
            )
        if self.images.device != self.labels.device:
            raise LayerticketError(
                f"images are on {self.images.device}, labels on {self.labels.device}; "
                "put both on one device."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8`` or ``torch.uint16``."""
        return self.images.dtype

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.images.device

    is_encoded = False

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Rows) -> Tensor:
        """Return the images of some rows: (B, C, H, W)."""
        if self.dtype == torch.uint16:  # PyTorch cannot index this type on a GPU
            return self.images.view(torch.int16)[rows].view(torch.uint16)
        return self.images[rows]

    def _headline(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"Split of {len(self):,} images of {'x'.join(map(str, self.shape))}, {kind}"

    def subset(self, rows: Tensor) -> "Split":
        """Copy some rows, in the given order."""
        return Split(images=self.fetch(rows), labels=self.labels[rows])

    def to(self, device: str | torch.device) -> "Split":
        """Return the split on a device; it is copied only if it is on another one."""
        return Split(images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Random crops and mirroring of training images."""

    pad: int
    """Pixels of border that are added before a crop to the old size. The border is zero after
    normalization, which is the mean of each channel."""
    flip: bool
    """Whether half of the images are mirrored left to right."""

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise LayerticketError(f"pad is {self.pad} pixels; it must be at least 0.")


UNCHANGED = Augment(pad=0, flip=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Dataset(Shown):
    """Three splits of labelled images, with their normalization and augmentation.

    Raises:
        LayerticketError: If the splits differ in shape or type, there are fewer than two classes, a
            label is out of range, or `value_range`, `class_names`, `mean` or `std` are not valid.
    """

    name: str
    """Name in `load_data`."""
    title: str
    """Name in figures."""
    train: ImageSource
    validation: ImageSource
    test: ImageSource
    classes: int
    """K."""
    mean: tuple[float, ...]
    """Per channel, over the training split, with `value_range` scaled to 0 to 1."""
    std: tuple[float, ...]
    """Per channel, over the training split, with `value_range` scaled to 0 to 1."""
    augment: Augment
    """Standard augmentation of these images."""
    fingerprint: str
    """SHA-256 of all splits, in hexadecimal."""
    value_range: tuple[int, int] = (0, 255)
    """Pixel values of black and white; must be given for 16 bits."""
    class_names: tuple[str, ...] = ()
    """Name of each class; empty if they have no names."""
    image_size: tuple[int, int] | None = None
    """Height and width that all images are resized to; None: they are not resized."""
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    """How images are read; does not change any batch."""

    def __post_init__(self) -> None:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        shapes = {name: split.shape for name, split in splits.items()}
        if len(set(shapes.values())) != 1:
            raise LayerticketError(f"the splits differ in (C, H, W): {shapes}; make them equal.")
        types = {name: split.dtype for name, split in splits.items()}
        if len(set(types.values())) != 1:
            raise LayerticketError(f"the splits differ in type: {types}; make them equal.")
        if self.classes < 2:
            raise LayerticketError(
                f"number of classes: {self.classes}; a classifier needs at least 2. Give the "
                "images of each class a label, or a folder, of their own."
            )
        for name, split in splits.items():
            check_labels(split.labels, self.classes, f"the {name} split")
        check_range(self.value_range, self.train.dtype)
        if self.class_names and len(self.class_names) != self.classes:
            raise LayerticketError(
                f"{len(self.class_names)} class names are given for {self.classes} classes. Give "
                "one per class, or none."
            )
        channels = self.train.shape[0]
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

    def _headline(self) -> str:
        return f"{self.title}: {self.classes} classes, images of {'x'.join(map(str, self.shape))}"

    def _facts(self) -> dict[str, object]:
        splits = {name: getattr(self, name) for name in ("train", "validation", "test")}
        counts = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
        kind = str(self.train.dtype).removeprefix("torch.")
        low, high = self.value_range
        return {
            "images": counts,
            "values": f"{kind}, {low} to {high}",
            "classes": few(self.class_names) if self.class_names else "without names",
            "fingerprint": self.fingerprint[:12],
        }

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape


def check_labels(labels: Tensor | Array, classes: int, where: str) -> None:
    """Raise if a label lies outside 0 to K - 1; `where` names the labels in the message."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise LayerticketError(
            f"labels of {where} go from {int(labels.min())} to {int(labels.max())}; with {classes} "
            f"classes they must lie in 0 to {classes - 1}. Is this another data set?"
        )


def check_array(found: Array, kind: Any, shape: tuple[int | None, ...], where: str) -> None:  # noqa: ANN401 - a NumPy type or a kind of numbers
    """Raise if an array has another type or shape; None in `shape` allows any size."""
    fits = len(found.shape) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(found.shape, shape, strict=True)
    )
    if not fits or not np.issubdtype(found.dtype, kind):
        sizes = ", ".join("N" if size is None else str(size) for size in shape)
        wanted = "whole numbers" if kind is np.integer else np.dtype(kind)
        raise LayerticketError(
            f"{where} holds {found.dtype} of shape {found.shape}; it must hold {wanted} of shape "
            f"({sizes}{',' if len(shape) == 1 else ''}). Is this another data set, or truncated?"
        )


def check_range(value_range: tuple[int, int], dtype: torch.dtype) -> None:
    """Raise if a range of pixel values does not fit their type."""
    (low, high), limit = value_range, LIMITS[dtype]
    if not 0 <= low < high <= limit or (dtype == torch.uint16 and high <= LIMITS[torch.uint8]):
        raise LayerticketError(
            f"value_range is {value_range} for images of {dtype}; give the values of black and "
            f"white, such as (0, {limit})."
        )


def generator(*key: str | int) -> torch.Generator:
    """Return a random number generator on the CPU, seeded by `key` only."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def rank_in_class(labels: Tensor) -> Tensor:
    """Count, for each of (N,) labels, the earlier labels of the same class.

    Example:
        >>> rank_in_class(torch.tensor([1, 0, 1, 1, 0])).tolist()
        [0, 0, 1, 2, 1]
    """
    counts = labels.bincount()  # (K,)
    first = counts.cumsum(0) - counts  # (K,), start of each class in sorted labels
    by_class = labels.argsort(stable=True)
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return ranks


def hold_out(source: ImageSource, fraction: float, purpose: str) -> tuple[ImageSource, ImageSource]:
    """Set aside the same share of every class; each call sets aside the same images.

    Both parts keep the order of the images; a larger fraction sets aside a superset.

    Args:
        source: Images on the CPU.
        fraction: Share of each class to set aside, rounded to whole images.
        purpose: Name of the draw; draws with different names are independent.

    Returns:
        The remaining images, and the images set aside.
    """
    order = torch.randperm(len(source), generator=generator("hold out", purpose))
    ranks = torch.empty_like(order)
    ranks[order] = rank_in_class(source.labels[order])
    quota = (source.labels.bincount() * fraction).round()  # (K,)
    aside = ranks < quota[source.labels]
    return source.subset((~aside).nonzero().flatten()), source.subset(aside.nonzero().flatten())


def first_images(source: ImageSource, count: int | None) -> ImageSource:
    """Return the first `count` images; None: all."""
    if count is None or count >= len(source):
        return source
    return source.subset(torch.arange(count))


def statistics(
    source: ImageSource,
    value_range: tuple[int, int] = (0, 255),
    parts: Iterable[Tensor] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation per channel, from exact counts of the pixel values.

    Args:
        source: At least one image.
        value_range: Pixel values that are 0 and 1 in the result.
        parts: The images of the source in parts; None: they are fetched here.

    Returns:
        C means and C deviations (dividing by the number of pixels).

    Raises:
        LayerticketError: If a pixel lies outside the range.
    """
    (low, high), bins = value_range, LIMITS[source.dtype] + 1
    counts = np.zeros((source.shape[0], bins), np.int64)
    for images in _in_parts(source) if parts is None else (part.numpy() for part in parts):
        for channel, row in enumerate(counts):
            row += np.bincount(images[:, channel].reshape(-1), minlength=bins)
    if counts[:, :low].any() or counts[:, high + 1 :].any():
        raise LayerticketError(
            f"some pixels lie outside of the value_range {value_range}. Give a wider range."
        )
    means, deviations = [], []
    for each in counts.tolist():  # Python integers, since sums of 16-bit squares would overflow
        total = sum(each)
        mean = sum(count * value for value, count in enumerate(each)) / total
        variance = sum(count * value**2 for value, count in enumerate(each)) / total - mean**2
        means.append((mean - low) / (high - low))
        deviations.append(max(variance, 0.0) ** 0.5 / (high - low))
    return tuple(means), tuple(deviations)


def fingerprint(*sources: ImageSource) -> str:
    """Return the SHA-256 of shapes, images and labels, in hexadecimal."""
    sha = hashlib.sha256()
    for source in sources:
        kind = "" if source.dtype == torch.uint8 else f"{source.dtype} "
        sha.update(f"{kind}{(len(source), *source.shape)}".encode())
        for images in _in_parts(source):
            sha.update(images.astype(images.dtype.newbyteorder("<"), copy=False).data)
        sha.update(source.labels.cpu().contiguous().numpy().astype("<i8", copy=False).data)
    return sha.hexdigest()


def _in_parts(source: ImageSource) -> Iterator[Array]:
    """Yield all images in parts."""
    some = images_at_a_time(source)
    for start in range(0, len(source), some):
        yield source.fetch(slice(start, start + some)).cpu().contiguous().numpy()


def images_at_a_time(source: ImageSource) -> int:
    """Return how many images to read at once: at most 10,000 and 64 MiB."""
    size = math.prod(source.shape) * source.dtype.itemsize
    return max(1, min(10_000, 2**26 // size))


def assemble(
    name: str,
    title: str,
    training: ImageSource,
    test: ImageSource,
    *,
    classes: int,
    augment: Augment,
    validation_fraction: float,
    value_range: tuple[int, int] = (0, 255),
) -> Dataset:
    """Split off the validation images, compute statistics, and build the data set.

    Raises:
        LayerticketError: If no training images are left, or the parts do not fit.
    """
    train, validation = hold_out(training, validation_fraction, "validation")
    if not len(train):
        raise LayerticketError(f"{name!r} has no training images. Give a complete data set.")
    check_range(value_range, train.dtype)
    mean, std = statistics(train, value_range)
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
        value_range=value_range,
    )


def noise(shape: tuple[int, int, int], *, classes: int, images: int) -> Dataset:
    """Draw random images and labels, to measure costs, which do not depend on the pixel values.

    Args:
        shape: (C, H, W).
        classes: K.
        images: Number of training images; validation and test have ten each.

    Returns:
        The data set, with the standard augmentation of CIFAR.
    """
    random = torch.Generator().manual_seed(0)
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
        fingerprint=f"noise {shape} {classes} {images} 0",
    )


def load_digits(validation_fraction: float) -> Dataset:
    """Load the digits of scikit-learn: 1,797 images of 1x8x8, ten classes.

    A fifth of every class is the test set, always the same images.
    """
    package = importlib.util.find_spec("sklearn")  # importing it would take a second
    assert package is not None  # a dependency of ours
    assert package.origin is not None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")  # (N, 64 + 1): pixels, then the label
    published, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    brightest = 16  # largest value of the published pixels
    pixels = np.rint(published * (255 / brightest)).astype(np.uint8)  # (N, 8, 8)
    everything = Split(
        images=torch.from_numpy(pixels).unsqueeze(1), labels=torch.from_numpy(labels)
    )
    training, test = hold_out(everything, 0.2, "test")
    return assemble(
        "digits",
        "Digits",
        training,
        test,
        classes=10,
        augment=Augment(pad=1, flip=False),
        validation_fraction=validation_fraction,
    )
