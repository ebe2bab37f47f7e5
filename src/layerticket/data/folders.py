"""Data sets and test sets of a user's own images: folders, `datasets`, arrays or a function.

Letters: N images, C channels, H and W pixels, K classes.
"""

import bisect
import hashlib
import inspect
import json
import logging
import math
import os
import re
import socket
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerticket.data import cache
from layerticket.data.dataset import (
    LIMITS,
    Array,
    Augment,
    Dataset,
    ImageSource,
    Split,
    check_labels,
    check_range,
    generator,
    hold_out,
    images_at_a_time,
    statistics,
)
from layerticket.data.images import SUFFIXES, Encoded, Form, form_of
from layerticket.data.sources import Reading
from layerticket.data.streaming import EncodedSplit, ResizedSplit, read_ahead
from layerticket.errors import LayerticketError, imported, need
from layerticket.files import check_regular, digest
from layerticket.settings import size_of

HUB = ("huggingface.co", 443)
HUB_TIMEOUT = 3.0  # seconds
MEASURED = 10_000  # largest number of training images to compute mean and deviation from
TEST_SHARE = 0.2  # share of every class that is used for testing if there is no test set
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}
"""Splits, and the names that their folders and arrays may have."""
SPLITS = {name: split for split, names in PARTS.items() for name in names}
CPU = torch.device("cpu")
log = logging.getLogger(__name__)
REVISION = 1  # increased when the same files give other pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """Encoded images and their labels, by split."""

    images: Sequence[tuple[Encoded, str]]
    """The images of all splits in order, and their names in messages."""
    labels: Mapping[str, Sequence[int]]
    """Labels of each split that exists."""
    class_names: tuple[str, ...]
    files: Sequence[Path]
    """Files with the images."""

    def rows(self, split: str) -> Tensor:
        """Return the rows of a split in `images`."""
        before = list(self.labels)[: list(self.labels).index(split)]
        start = sum(len(self.labels[name]) for name in before)
        return torch.arange(start, start + len(self.labels[split]))


# A folder for each class


def from_folder(
    folder: str | Path,
    *,
    image_size: int | Sequence[int] | None = None,
    value_range: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Dataset:
    """Read a folder with one subfolder of images per class, like torchvision's ImageFolder.

    If there are subfolders ``train``, ``val`` and ``test``, they are the splits and contain the
    class folders; ``val`` without ``test`` is the test set. Without either, a fifth of every class
    is the test set. Without validation images, `validation_fraction` of every class is taken from
    the training images. Classes are sorted by name, or by number if all names are whole numbers.

    Args:
        folder: Path of the folder.
        image_size: Height and width to resize all images to, or one number for both; None: all
            images must have one size. See `layerticket.data.images.resized`.
        value_range: Pixel values of black and white; must be given for 16 bits.
        validation_fraction: Share of every class taken from the training images.
        augment: Standard augmentation of these images; None: mirroring, and crops with a border of
            an eighth of the smaller side.
        reading: How images are read.

    Returns:
        The data set. Mean and deviation are computed from up to 10,000 training images; a constant
        channel becomes 0.

    Raises:
        LayerticketError: If a file is not a complete image, sizes or bits differ, a class has no
            images, or a split has a class without training images.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> home = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (home / name).mkdir()
        ...     for i in range(10):
        ...         Image.effect_noise((8, 8), 50 + i).save(home / name / f"{i}.png")
        >>> data = from_folder(home)
        >>> len(data.train), len(data.validation), len(data.test), data.class_names, data.shape
        (14, 2, 4, ('cat', 'dog'), (1, 8, 8))
    """
    home = _existing(folder)
    stored = _stored_in_folders(home)
    builder = _Builder("imagefolder", str(home), home.name, augment, validation_fraction, reading)
    return builder.from_stored(stored, image_size, value_range)


def _existing(folder: str | Path) -> Path:
    home = Path(folder).expanduser().resolve()
    if not home.is_dir():
        raise LayerticketError(f"the image folder {str(folder)!r} does not exist. Give another.")
    return home


def _stored_in_folders(home: Path) -> _Stored:
    """List the images of all splits in class folders."""
    entries = _visible(home)
    homes = {SPLITS[entry.name]: entry for entry in entries if entry.name in SPLITS}
    if "train" not in homes:
        homes = {"train": home}
    for entry in entries:
        if (other := homes.get(SPLITS.get(entry.name, ""), entry)) != entry:
            raise _named_twice(home, entry.name, other.name)
    names = [entry.name for entry in _folders(homes["train"])]
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        names.sort(key=int)
    if not names:
        raise LayerticketError(
            f"{str(homes['train'])!r} holds no folders. Give one folder of images per class."
        )
    images: list[tuple[Encoded, str]] = []
    labels: dict[str, list[int]] = {}
    for split in [split for split in PARTS if split in homes]:
        classes = {entry.name: entry for entry in _folders(homes[split])}
        if odd := sorted(classes.keys() - set(names)):
            raise LayerticketError(
                f"{str(classes[odd[0]])!r} is a class without training images. Add some, or remove "
                f"it. The training images have {len(names)} classes: {', '.join(names[:8])}"
                f"{', ...' if len(names) > 8 else ''}."
            )
        labels[split] = []
        for label, name in enumerate(names):
            found = _images_in(classes[name]) if name in classes else []
            images += [(path, repr(str(path))) for path in found]
            labels[split] += [label] * len(found)
    files = [path for path, _ in images if isinstance(path, Path)]
    return _Stored(images=images, labels=labels, class_names=tuple(names), files=files)


def _named_twice(where: Path, one: str, other: str) -> LayerticketError:
    return LayerticketError(
        f"{str(where)!r} holds both {one!r} and {other!r}, which name the same split. Merge them, "
        "or rename one."
    )


def _visible(folder: Path) -> list[Path]:
    """List a folder by name, without names that begin with a dot."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    """List class folders; raise if there are other files beside them."""
    for entry in _visible(folder):
        if not entry.is_dir():
            raise LayerticketError(
                f"{str(entry)!r} is a file beside the class folders. Move it into the folder of "
                "its class, or remove it."
            )
    return _visible(folder)


def _images_in(folder: Path) -> list[Path]:
    """List the images of a class by name; raise if there are none, or other files."""
    found = _visible(folder)
    for entry in found:
        if not entry.is_dir():
            check_regular(entry)
        if entry.is_dir() or entry.suffix.lower() not in SUFFIXES:
            kind = "a folder" if entry.is_dir() else "not an image file"
            raise LayerticketError(
                f"{str(entry)!r} is {kind}; a class folder may hold images only ("
                f"{', '.join(SUFFIXES)}). Remove it."
            )
    if not found:
        raise LayerticketError(f"{str(folder)!r} holds no images. Add some, or remove it.")
    return found


# Hugging Face's library


def from_datasets(
    folder: str | Path,
    *,
    image_size: int | Sequence[int] | None = None,
    value_range: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Dataset:
    """Read a folder that Hugging Face's `datasets` saved (``save_to_disk``), or parquet files.

    There must be one column of images and one of class labels. Splits are as in `from_folder`;
    parquet files are named after them, such as ``train-00000-of-00002.parquet``.

    Args:
        folder: Path of the folder.
        image_size: As in `from_folder`.
        value_range: As in `from_folder`.
        validation_fraction: As in `from_folder`.
        augment: As in `from_folder`.
        reading: As in `from_folder`.

    Raises:
        LayerticketError: If `datasets` is not installed, or as in `from_folder`.
    """
    home = _existing(folder)
    stored = _stored_by_datasets(home)
    builder = _Builder("datasets", str(home), home.name, augment, validation_fraction, reading)
    return builder.from_stored(stored, image_size, value_range)


class _Cells(Sequence[tuple[Encoded, str]]):
    """Images in several tables; each is read on access."""

    def __init__(self, tables: Sequence[Any], where: str) -> None:
        self.tables, self.where = tables, where
        self.ends = np.cumsum([len(table) for table in tables]).tolist()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, row: Any) -> Any:  # noqa: ANN401 - whole numbers only
        number = bisect.bisect_right(self.ends, row)
        table = self.tables[number]
        at = row - (self.ends[number] - len(table))
        ((_, cell),) = table[at].items()
        what = f"image {at} of split {number + 1} of {self.where!r}"
        if cell is None:
            raise LayerticketError(f"{what} is missing. Remove the row.")
        return (Path(cell["path"]) if cell["bytes"] is None else cell["bytes"]), what


def _stored_by_datasets(home: Path) -> _Stored:
    """Open the tables of all splits; images are not decoded."""
    datasets = need("datasets", extra="datasets", why="Hugging Face data sets need datasets")
    saved = any((home / name).is_file() for name in ("dataset_dict.json", "state.json"))
    shards = sorted(home.rglob("*.parquet"))
    if not saved and not shards:
        raise LayerticketError(
            f"{str(home)!r} holds neither a data set saved with save_to_disk nor parquet files. "
            "Give another folder."
        )
    try:
        found = datasets.load_from_disk(str(home)) if saved else datasets.load_dataset(str(home))
    except Exception as err:  # the library raises its own and many others
        raise LayerticketError(
            f"the data set in {str(home)!r} cannot be read ({' '.join(str(err).split())[:200]}). "
            "Save or download it again."
        ) from err
    tables = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    by_split = {SPLITS[name]: table for name, table in tables.items() if name in SPLITS}
    if "train" not in by_split or len(by_split) != len(tables):
        raise LayerticketError(
            f"{str(home)!r} has the splits {', '.join(tables)}; they must be named train, "
            "validation and test. Rename them, or save only these."
        )
    columns = {
        split: _columns(datasets, by_split[split], str(home))
        for split in PARTS
        if split in by_split
    }
    names = columns["train"][2]
    for split, (_, _, own) in columns.items():
        if own != names:
            raise LayerticketError(
                f"the {split} split of {str(home)!r} has the classes {', '.join(own[:8])}, the "
                f"training images {', '.join(names[:8])}. Give all splits the same classes."
            )
    return _Stored(
        images=_Cells([encoded for encoded, _, _ in columns.values()], str(home)),
        labels={split: numbers for split, (_, numbers, _) in columns.items()},
        class_names=names,
        files=sorted(home.rglob("*.arrow")) if saved else shards,
    )


def _columns(
    datasets: Any,  # noqa: ANN401 - an optional library
    table: Any,  # noqa: ANN401
    where: str,
) -> tuple[Any, list[int], tuple[str, ...]]:
    """Return the encoded images, the labels (-1: missing), and the names of the classes."""
    images, labels = (
        [name for name, kind in table.features.items() if isinstance(kind, wanted)]
        for wanted in (datasets.Image, datasets.ClassLabel)
    )
    if len(images) != 1 or len(labels) != 1:
        raise LayerticketError(
            f"{where!r} has {len(images)} columns of images and {len(labels)} of class labels; "
            "it needs one of each. Use cast_column and remove_columns."
        )
    encoded = table.select_columns(images).cast_column(images[0], datasets.Image(decode=False))
    numbers = [-1 if value is None else int(value) for value in table[labels[0]]]
    return encoded, numbers, tuple(table.features[labels[0]].names)


# Arrays


def from_arrays(
    images: Array | Tensor,
    labels: Array | Tensor | Sequence[int],
    *,
    test: tuple[Any, Any] | None = None,
    validation: tuple[Any, Any] | None = None,
    class_names: Sequence[str] = (),
    title: str = "Arrays",
    image_size: int | Sequence[int] | None = None,
    value_range: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Dataset:
    """Make a data set of images in memory.

    Args:
        images: (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels, uint8 or uint16.
        labels: (N,) or (N, 1) whole numbers, 0 to K - 1.
        test: Images and labels for testing; None: a fifth of every class.
        validation: The same for validation; None: `validation_fraction` of every class.
        class_names: One per class; empty: classes have no names.
        title: Name in figures.
        image_size: As in `from_folder`.
        value_range: As in `from_folder`.
        validation_fraction: As in `from_folder`.
        augment: As in `from_folder`.
        reading: As in `from_folder`.

    Raises:
        LayerticketError: If types or shapes do not fit, or a class has no training images.

    Example:
        >>> random = np.random.default_rng(0)
        >>> pixels = random.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        >>> from_arrays(pixels, np.arange(40) % 4).shape
        (3, 8, 8)
    """
    builder = _Builder("arrays", "", title, augment, validation_fraction, reading)
    given = {"train": (images, labels), "validation": validation, "test": test}
    parts = {
        name: _split_of(pair[0], pair[1], f"the {name} split")
        for name, pair in given.items()
        if pair is not None
    }
    return builder.from_splits(parts, tuple(class_names), image_size, value_range)


def from_array_file(
    file: str | Path,
    *,
    image_size: int | Sequence[int] | None = None,
    value_range: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Dataset:
    """Read a ``.npz`` file with ``images`` and ``labels``, or with such arrays for each split.

    Arrays of splits are named ``train_images``, ``train_labels``, ``val_images`` and so on;
    ``class_names`` is optional.

    Args:
        file: Path of the file.
        image_size: As in `from_folder`.
        value_range: As in `from_folder`.
        validation_fraction: As in `from_folder`.
        augment: As in `from_folder`.
        reading: As in `from_folder`.

    Raises:
        LayerticketError: If the file is missing or damaged, holds objects, is larger than
            `reading.image_memory`, or as in `from_arrays`.
    """
    path = Path(file).expanduser().resolve()
    arrays = _arrays_in(path, reading.image_memory)
    parts: dict[str, Split] = {}
    named: dict[str, str] = {}
    for name, split in {"": "train", **SPLITS}.items():
        images, labels = (f"{name}_{kind}".lstrip("_") for kind in ("images", "labels"))
        if (images in arrays) != (labels in arrays):
            one, other = (images, labels) if images in arrays else (labels, images)
            raise LayerticketError(
                f"{path.name!r} holds {one!r} but not {other!r}. Add it, or leave both out."
            )
        if images in arrays:
            if split in parts:
                raise _named_twice(path, named[split], images)
            what = f"{images} and {labels} of {path.name!r}"
            named[split], parts[split] = images, _split_of(arrays[images], arrays[labels], what)
    if "train" not in parts:
        raise LayerticketError(
            f"{path.name!r} holds {', '.join(arrays) or 'nothing'}; it needs images and labels, or "
            "train_images and train_labels (and the same for val and test)."
        )
    names = tuple(map(str, arrays.get("class_names", np.array([], str)).tolist()))
    builder = _Builder("arrays", str(path), path.stem, augment, validation_fraction, reading)
    return builder.from_splits(parts, names, image_size, value_range)


def _arrays_in(path: Path, memory: int) -> dict[str, Array]:
    """Read a ``.npz`` file; raise before unpacking it if it is larger than `memory` bytes."""
    if not path.is_file():
        raise LayerticketError(f"there is no file {str(path)!r}. Give a .npz file.")
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > memory:
            raise LayerticketError(
                f"{path.name!r} holds {size:,} bytes of arrays, more than the {memory:,} that may "
                "be kept in memory. Increase --image-memory, or store images in folders."
            )
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except LayerticketError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        raise LayerticketError(
            f"{path.name!r} cannot be read as a .npz file of plain arrays "
            f"({' '.join(str(err).split())[:200]}). Write it again with numpy.savez."
        ) from err


def _split_of(images: Any, labels: Any, what: str) -> Split:  # noqa: ANN401 - arrays or tensors
    """Bring images and labels into the shapes and types of a split."""
    pixels, numbers = np.asarray(images), np.asarray(labels)
    if np.dtype(pixels.dtype.newbyteorder("=")) not in (np.uint8, np.uint16):
        raise LayerticketError(
            f"images of {what} are {pixels.dtype}; they must be whole numbers of 8 or 16 bits "
            "(uint8, uint16). Round and convert them; training normalizes them."
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    last, second = (pixels.ndim == 4 and 1 <= pixels.shape[i] <= 4 for i in (-1, 1))
    if last == second:
        fits = "both (N, H, W, C) and" if last else "neither (N, H, W, C) nor"
        raise LayerticketError(
            f"images of {what} have shape {pixels.shape}, which fits {fits} (N, C, H, W) "
            "with 1 to 4 channels. Reshape them."
        )
    pixels = pixels.transpose(0, 3, 1, 2) if last else pixels
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.shape != (len(pixels),) or not np.issubdtype(numbers.dtype, np.integer):
        raise LayerticketError(
            f"labels of {what} are {numbers.dtype} of shape {numbers.shape}; they must be whole "
            f"numbers of shape ({len(pixels)},), one per image."
        )
    native = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    return Split(images=torch.from_numpy(native), labels=torch.from_numpy(numbers.astype(np.int64)))


# A function


def from_function(
    name: str,
    options: Mapping[str, object],
    validation_fraction: float = 0.1,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Dataset:
    """Call ``package.module:function``, which returns a `Dataset`.

    The module may be in the current folder.

    Args:
        name: The function, as ``package.module:function``.
        options: Arguments by name; None: not given.
        validation_fraction: Passed if the function has this parameter.
        reading: How its images are read.

    Raises:
        LayerticketError: If the function does not exist, lacks a parameter for an option, or
            returns something else.
    """
    module_name, _, function_name = name.partition(":")
    function = getattr(imported(module_name, f"data {name!r}"), function_name, None)
    if not callable(function):
        raise LayerticketError(f"data {name!r}: {module_name} has no function {function_name!r}.")
    parameters = inspect.signature(function).parameters
    for option, value in options.items():
        if value is not None and option not in parameters:
            raise LayerticketError(
                f"data {name!r}: {function_name} has no parameter {option}. Leave the option out, "
                "or add the parameter."
            )
    options = {**options, "validation_fraction": validation_fraction}
    found = function(**{option: value for option, value in options.items() if option in parameters})
    if not isinstance(found, Dataset):
        raise LayerticketError(
            f"data {name!r} returned a {type(found).__name__}; it must return a "
            "layerticket.Dataset, for example from layerticket.data.from_arrays."
        )
    return replace(found, name=name, reading=reading)


# Building the data set


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds a data set; holds the options that all sources share."""

    kind: str
    place: str
    title: str
    augment: Augment | None
    validation_fraction: float
    reading: Reading

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.place}" if self.place else self.kind

    def from_stored(
        self,
        stored: _Stored,
        image_size: int | Sequence[int] | None,
        value_range: tuple[int, int] | None,
    ) -> Dataset:
        """Build a data set of encoded images; they are decoded into memory if they fit."""
        size = None if image_size is None else size_of(image_size)
        facts = _examine(stored, self.kind)
        form = _form(facts, size)
        encoded = EncodedSplit(
            images=stored.images,
            form=form,
            labels=torch.tensor([label for labels in stored.labels.values() for label in labels]),
            rows=torch.arange(len(stored.images)),
        )
        source: ImageSource = encoded
        if len(encoded) * form.bytes <= self.reading.image_memory:
            source = _in_memory(encoded, facts["content"], self.reading.readers)
        parts = {split: source.subset(stored.rows(split)) for split in stored.labels}
        return self._assemble(
            parts, stored.class_names, size, value_range, facts["content"], stored.files
        )

    def from_splits(
        self,
        parts: Mapping[str, Split],
        class_names: tuple[str, ...],
        image_size: int | Sequence[int] | None,
        value_range: tuple[int, int] | None,
    ) -> Dataset:
        """Build a data set of images in memory."""
        sha, size = hashlib.sha256(), None if image_size is None else size_of(image_size)
        for split in parts.values():
            sha.update(split.images.numpy().data)
        found: Mapping[str, ImageSource] = parts
        if size is not None:
            found = {name: _resized(split, size, self.reading) for name, split in parts.items()}
        return self._assemble(found, class_names, size, value_range, sha.hexdigest(), ())

    def _assemble(
        self,
        parts: Mapping[str, ImageSource],
        class_names: tuple[str, ...],
        size: tuple[int, int] | None,
        value_range: tuple[int, int] | None,
        content: str,
        files: Sequence[Path],
    ) -> Dataset:
        """Split off missing splits, compute statistics, and build the data set."""
        classes = len(class_names) or int(parts["train"].labels.max()) + 1
        check_labels(parts["train"].labels, classes, f"the training images of {self.name!r}")
        counts = parts["train"].labels.bincount(minlength=classes)
        if not counts.all():
            empty = int((counts == 0).nonzero()[0])
            who = repr(class_names[empty]) if class_names else str(empty)
            raise LayerticketError(
                f"class {who} of {self.name!r} has no training images. Add some, or remove it."
            )
        train, rest = parts["train"], dict(parts)
        if "test" not in rest and "validation" in rest:
            rest["test"] = rest.pop("validation")
        if "test" not in rest:
            train, rest["test"] = hold_out(train, TEST_SHARE, "test")
        if "validation" not in rest:
            train, rest["validation"] = hold_out(train, self.validation_fraction, "validation")
        splits = {"train": train, "validation": rest["validation"], "test": rest["test"]}
        if not len(train):
            raise LayerticketError(f"{self.name!r} has no training images left. Add some.")
        if value_range is None and train.dtype == torch.uint16:
            raise LayerticketError(
                f"the images of {self.name!r} have 16 bits; give the values of black and white: "
                f"--value-range 0,{LIMITS[torch.uint16]}, or value_range=(0, 4095) in Python."
            )
        value_range = value_range or (0, 255)
        check_range(value_range, train.dtype)
        known: dict[str, Any] = {"revision": REVISION, "content": content}
        known |= {"shape": list(train.shape), "type": str(train.dtype)}
        known["labels"] = {name: digest(part.labels.tolist()) for name, part in parts.items()}
        known["splits"] = {name: len(source) for name, source in splits.items()}
        fingerprint = digest(known)
        mean, std = _statistics(train, value_range, self.reading.readers, fingerprint, files)
        border = max(1, round(min(train.shape[1:]) / 8))
        return Dataset(
            name=self.name,
            title=self.title,
            **splits,
            classes=classes,
            mean=mean,
            std=std,
            augment=self.augment or Augment(pad=border, flip=True),
            fingerprint=fingerprint,
            value_range=value_range,
            class_names=class_names,
            image_size=size,
            reading=self.reading,
        )


def _examine(stored: _Stored, kind: str) -> dict[str, Any]:
    """Return SHA-256, channels, bits and sizes of the images; cached by their files."""

    def compute() -> str:
        sha, first, other = hashlib.sha256(), None, None
        channels = set()
        for source, what in stored.images:
            content = source if isinstance(source, bytes) else source.read_bytes()
            form = form_of(content, what)
            sha.update(len(content).to_bytes(8, "little"))
            sha.update(content)
            channels.add(form.channels)
            if first is None:
                first, first_what = form, what
            if form.bits != first.bits or (form.bits == 16 and form.channels != first.channels):
                raise LayerticketError(
                    f"{what} has {form.channels} channels of {form.bits} bits, {first_what} "
                    f"{first.channels} of {first.bits}. Convert all images to the same."
                )
            if other is None and (form.height, form.width) != (first.height, first.width):
                other = [what, form.height, form.width]
        if first is None:
            raise LayerticketError("there are no images. Add some.")
        return json.dumps(
            {
                "content": sha.hexdigest(),
                "channels": channels.pop() if len(channels) == 1 else 3,
                "bits": first.bits,
                "size": [first.height, first.width],
                "first": first_what,
                "other": other,
            }
        )

    found: dict[str, Any] = json.loads(
        cache.cached_by_files(f"{kind}, revision {REVISION}", stored.files, compute)
    )
    return found


def _form(facts: Mapping[str, Any], size: tuple[int, int] | None) -> Form:
    """Return the form to decode images to; raise if sizes differ and none is given."""
    height, width = size or facts["size"]
    if size is None and facts["other"] is not None:
        what, other_height, other_width = facts["other"]
        raise LayerticketError(
            f"{what} has {other_height}x{other_width} pixels, {facts['first']} {height}x{width}. "
            "Give the size to resize all images to: --image-size HEIGHT,WIDTH."
        )
    return Form(facts["channels"], facts["bits"], height, width)


def _in_memory(source: EncodedSplit, content: str, readers: int) -> Split:
    """Decode all images, or take them from the cache."""
    key = digest(["own images", REVISION, content, list(source.shape), str(source.dtype)])
    cached = cache.load(key)
    if cached is None:
        cached = {"images": _fetch_all(source, readers)}
        cache.save(key, cached)
    return Split(images=cached["images"], labels=source.labels)


def _fetch_all(source: ImageSource, readers: int) -> Tensor:
    """Fetch all images: (N, C, H, W)."""
    images, done = torch.empty((len(source), *source.shape), dtype=source.dtype), 0
    for part in _fetch_parts(source, readers):
        images[done : done + len(part)] = part
        done += len(part)
    return images


def _fetch_parts(source: ImageSource, readers: int) -> Iterator[Tensor]:
    """Fetch all images in parts, in worker processes if they are encoded."""
    some = max(1, min(128, images_at_a_time(source)))
    rows = [slice(start, start + some) for start in range(0, len(source), some)]
    if not source.is_encoded:
        return map(source.fetch, rows)
    return read_ahead(source, rows, workers=readers, device=CPU)


def _resized(source: ImageSource, size: tuple[int, int], reading: Reading) -> ImageSource:
    """Resize all images; they are kept in memory if they fit."""
    resized = ResizedSplit(source=source, size=size)
    if len(resized) * math.prod(resized.shape) * resized.dtype.itemsize > reading.image_memory:
        return resized
    return Split(images=_fetch_all(resized, reading.readers), labels=resized.labels)


def resized_data(data: Dataset, size: tuple[int, int], reading: Reading) -> Dataset:
    """Resize the images of a data set; the border for crops is scaled with them."""
    train, validation, test = (
        _resized(split, size, reading) for split in (data.train, data.validation, data.test)
    )
    fingerprint = digest([data.fingerprint, "resized", REVISION, list(size)])
    mean, std = _statistics(train, data.value_range, reading.readers, fingerprint, ())
    border = round(data.augment.pad * min(size) / min(data.shape[1:]))
    return replace(
        data,
        train=train,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        augment=replace(data.augment, pad=border),
        fingerprint=fingerprint,
        image_size=size,
        reading=reading,
    )


def _statistics(
    train: ImageSource,
    value_range: tuple[int, int],
    readers: int,
    fingerprint: str,
    files: Sequence[Path],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of up to `MEASURED` training images, cached by their files."""
    chosen = torch.randperm(len(train), generator=generator("statistics"))[:MEASURED].sort().values
    some = train.subset(chosen)

    def compute() -> str:
        return json.dumps(statistics(some, value_range, _fetch_parts(some, readers)))

    what = f"statistics {fingerprint} {value_range}"
    cached = train.is_encoded and files
    mean, std = json.loads(cache.cached_by_files(what, files, compute) if cached else compute())
    if 0 in std and any(std):  # for example alpha, if no image is transparent
        log.warning(
            "channel %d of %d is constant in all images and becomes 0.",
            std.index(0) + 1,
            len(std),
        )
        std = [value or 1.0 for value in std]
    return tuple(mean), tuple(std)


# Test sets for a trained network


def read_folder(folder: Path, like: Dataset, *, image_size: tuple[int, int] | None) -> Split:
    """Read a folder with one subfolder of images per class.

    If the classes have names, so do the folders. Otherwise folders are named by labels (whole
    numbers), or there is one folder per class, sorted by name like torchvision's ImageFolder.

    Args:
        folder: Path of the folder.
        like: Training data of the network: shape, number and names of classes.
        image_size: Height and width to resize images to, those of the network; None: resize them
            only if the training images were resized.

    Raises:
        LayerticketError: If there are no images, the classes do not fit, or an image is damaged
            or has another size.
    """
    home = _existing(folder)
    names = [entry.name for entry in _folders(home)]
    numbered = [name for name in names if re.fullmatch("[0-9]{1,9}", name)]
    if like.class_names and set(names) <= set(like.class_names) and names:
        numbers = [like.class_names.index(name) for name in names]
    elif names and numbered == names and all(int(name) < like.classes for name in names):
        numbers = [int(name) for name in names]
    elif len(names) == like.classes and not like.class_names and not numbered:
        numbers = list(range(like.classes))
    else:
        known = f" ({', '.join(like.class_names[:8])})" if like.class_names else ""
        raise LayerticketError(
            f"{str(folder)!r} holds {len(names)} folders, but the network has {like.classes} "
            f"classes{known}. Give one folder per class, or folders named 0 to "
            f"{like.classes - 1}, not both."
        )
    files = [
        (file, label)
        for name, label in zip(names, numbers, strict=True)
        for file in _images_in(home / name)
    ]
    images: list[tuple[Encoded, str]] = [(file, repr(str(file))) for file, _ in files]
    return _decode_like(images, [label for _, label in files], like, str(folder), image_size)


def read_hub(name: str, like: Dataset, *, image_size: tuple[int, int] | None) -> Split:
    """Read a labelled data set of Hugging Face, from a local folder or the Hub.

    Args:
        name: Path of a folder, or ``owner/name`` on the Hub; then ``@SPLIT``, by default ``@test``.
        like: Training data of the network: shape and number of classes.
        image_size: As in `read_folder`.

    Raises:
        LayerticketError: If `datasets` is not installed, the Hub cannot be reached, or images and
            labels are missing or do not fit.
    """
    source, _, part = name.partition("@")
    datasets = need("datasets", extra="datasets", why="Hugging Face data sets need datasets")
    if not Path(source).is_dir() and not _hub_is_reachable():
        raise LayerticketError(
            f"{source!r} is not a folder, and the Hugging Face Hub cannot be reached. Check the "
            "path or the network connection."
        )
    try:
        table = datasets.load_dataset(source, split=part or "test")
    except Exception as err:  # the library raises its own and many others
        raise LayerticketError(
            f"the data set {source!r} cannot be read ({' '.join(str(err).split())[:200]}). "
            "Check name and split (hf:NAME@SPLIT)."
        ) from err
    encoded, numbers, _ = _columns(datasets, table, source)
    return _decode_like(_Cells([encoded], source), numbers, like, source, image_size)


def _decode_like(
    images: Sequence[tuple[Encoded, str]],
    labels: list[int],
    like: Dataset,
    where: str,
    image_size: tuple[int, int] | None,
) -> Split:
    """Decode images to the form of the training images of a network."""
    channels, height, width = like.shape
    if image_size not in (None, (height, width)):
        raise LayerticketError(
            f"--image-size is {image_size}, but the network was trained on {height}x{width} "
            f"pixels. Give {height},{width}."
        )
    numbers = torch.tensor(labels, dtype=torch.int64)
    check_labels(numbers, like.classes, repr(where))
    form = Form(channels, 8 * like.train.dtype.itemsize, height, width)
    if image_size is None and like.image_size is None:
        for source, what in images:
            found = form_of(source, what)
            if (found.height, found.width) != (height, width):
                raise LayerticketError(
                    f"{what} has {found.height}x{found.width} pixels, but the network was trained "
                    f"on {height}x{width}. Resize the images: --image-size {height},{width}."
                )
    rows = torch.arange(len(images))
    encoded = EncodedSplit(images=images, form=form, labels=numbers, rows=rows)
    return Split(images=encoded.fetch(slice(None)), labels=numbers)


def _hub_is_reachable() -> bool:
    """Whether the Hub can be reached; `datasets` itself would retry for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        socket.create_connection(HUB, timeout=HUB_TIMEOUT).close()
    except OSError:
        return False
    return True
