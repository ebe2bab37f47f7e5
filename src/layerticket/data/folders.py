"""A user's own labelled images: folders, `datasets`, arrays, or a function; for training or tests.

Letters: N images, C channels, H and W pixels, K classes.
"""

import bisect
import hashlib
import importlib
import inspect
import json
import logging
import math
import os
import re
import socket
import sys
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
from layerticket.errors import LayerticketError, need
from layerticket.files import check_regular, digest
from layerticket.settings import size_of

HUB = ("huggingface.co", 443)
PATIENCE = 3.0  # seconds to find out that there is no network
MEASURED = 10_000  # training images that mean and deviation are measured on, at most
TEST_SHARE = 0.2  # of every class, where no images are set aside for testing
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}
"""Splits, and the names of folders and arrays that stand for them."""
CPU = torch.device("cpu")
log = logging.getLogger(__name__)
REVISION = 1  # raised when the same files should give other pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """Images as they are stored, with their labels, by split."""

    images: Sequence[tuple[Encoded, str]]
    """All images, one split after the other, and what messages call them."""
    labels: Mapping[str, Sequence[int]]
    """Labels of each split there is."""
    class_names: tuple[str, ...]
    files: Sequence[Path]
    """All that the images depend on."""

    def rows(self, split: str) -> Tensor:
        """Where the images of a split lie among all."""
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
    """Read a folder that holds one folder of images for each class, as torchvision's ImageFolder.

    With folders ``train``, ``val`` and ``test`` each of them holds the class folders, and the
    splits are those; ``val`` alone serves as the test set. Otherwise a fifth of every class is for
    testing. Validation images are taken out of the training images where there are none of their
    own. Classes are sorted by name, or by number where all names are whole numbers.

    Args:
        folder: The folder.
        image_size: Height and width to resize all images to, or one number for both; None: they
            must have one size. See `layerticket.data.images.resized`.
        value_range: Pixel values of black and white; must be given for 16 bits.
        validation_fraction: Share of every class taken from the training images.
        augment: The standard augmentation of these images; None: crops with a border of an eighth
            of the smaller side, and mirroring.
        reading: What is kept in memory, and how the rest is read.

    Returns:
        The data set. Mean and deviation are those of up to 10,000 training images; a channel that
        is the same everywhere is shown as 0.

    Raises:
        LayerticketError: If a file is no whole image, sizes or bits differ, a class has no images,
            or a split has classes that the training images lack.

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
    made = _Making("imagefolder", str(home), home.name, augment, validation_fraction, reading)
    return made.of_stored(stored, image_size, value_range)


def _existing(folder: str | Path) -> Path:
    home = Path(folder).expanduser().resolve()
    if not home.is_dir():
        raise LayerticketError(f"the image folder {str(folder)!r} does not exist. Give another.")
    return home


def _stored_in_folders(home: Path) -> _Stored:
    """List the images of all splits."""
    named = {name: split for split, names in PARTS.items() for name in names}
    there = {entry.name: entry for entry in _visible(home)}
    homes = {named[name]: entry for name, entry in there.items() if name in named}
    if "train" not in homes:
        homes = {"train": home}
    names = _sorted_names([entry.name for entry in _folders(homes["train"])])
    if not names:
        raise LayerticketError(
            f"{str(homes['train'])!r} holds no folders. Give one folder of images for each class."
        )
    images: list[tuple[Encoded, str]] = []
    labels: dict[str, list[int]] = {}
    for split in [split for split in PARTS if split in homes]:
        classes = {entry.name: entry for entry in _folders(homes[split])}
        if odd := sorted(classes.keys() - set(names)):
            raise LayerticketError(
                f"{str(classes[odd[0]])!r} is of a class that the training images lack. They have "
                f"{len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
            )
        labels[split] = []
        for label, name in enumerate(names):
            found = _images_in(classes[name]) if name in classes else []
            images += [(path, repr(str(path))) for path in found]
            labels[split] += [label] * len(found)
    files = [path for path, _ in images if isinstance(path, Path)]
    return _Stored(images=images, labels=labels, class_names=tuple(names), files=files)


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder; names that begin with a dot are the system's."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder that holds nothing else."""
    for entry in _visible(folder):
        if not entry.is_dir():
            raise LayerticketError(
                f"{str(entry)!r} lies beside the class folders. Put it into the folder of its "
                "class, or take it away."
            )
    return _visible(folder)


def _images_in(folder: Path) -> list[Path]:
    """The images in a folder of one class, in order of their names."""
    found = _visible(folder)
    for entry in found:
        if not entry.is_dir():
            check_regular(entry)
        if entry.is_dir() or entry.suffix.lower() not in SUFFIXES:
            kind = "a folder" if entry.is_dir() else "no image file"
            raise LayerticketError(
                f"{str(entry)!r} is {kind}; a class folder holds images only ("
                f"{', '.join(SUFFIXES)}). Take it away."
            )
    if not found:
        raise LayerticketError(f"{str(folder)!r} holds no images. Add some, or take it away.")
    return found


def _sorted_names(names: list[str]) -> list[str]:
    """Sort class names: by number where all are whole numbers, else by name."""
    numbered = all(re.fullmatch("[0-9]{1,9}", name) for name in names)
    return sorted(names, key=int) if numbered else sorted(names)


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
    """Read what Hugging Face's `datasets` saved in a folder (``save_to_disk``), or parquet files.

    It needs one column of images and one of class labels. Splits are as in `from_folder`; parquet
    files are called by them, such as ``train-00000-of-00002.parquet``.

    Args:
        folder: The folder.
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
    made = _Making("datasets", str(home), home.name, augment, validation_fraction, reading)
    return made.of_stored(stored, image_size, value_range)


class _Cells(Sequence[tuple[Encoded, str]]):
    """Images in tables that lie one after the other; a cell is read when it is asked for."""

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
            raise LayerticketError(f"{what} is missing. Take the row away.")
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
            f"the data set in {str(home)!r} cannot be read ({' '.join(str(err).split())[:200]})."
        ) from err
    tables = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    named = {name: split for split, names in PARTS.items() for name in names}
    by_split = {named[name]: table for name, table in tables.items() if name in named}
    if "train" not in by_split or len(by_split) != len(tables):
        raise LayerticketError(
            f"{str(home)!r} has the splits {', '.join(tables)}; they must be called train, "
            "validation and test. Rename them, or save those you want."
        )
    by_split = {split: by_split[split] for split in PARTS if split in by_split}
    columns = {split: _columns(datasets, table, str(home)) for split, table in by_split.items()}
    names = columns["train"][2]
    for split, (_, _, own) in columns.items():
        if own != names:
            raise LayerticketError(
                f"the {split} split of {str(home)!r} has the classes {', '.join(own[:8])}, the "
                f"training images {', '.join(names[:8])}. Give all splits the same."
            )
    labels = {
        split: [-1 if value is None else int(value) for value in table[columns[split][1]]]
        for split, table in by_split.items()
    }
    pictures = [
        table.select_columns([columns[split][0]]).cast_column(
            columns[split][0], datasets.Image(decode=False)
        )
        for split, table in by_split.items()
    ]
    files = [*shards] or sorted(path for path in home.rglob("*.arrow"))
    return _Stored(
        images=_Cells(pictures, str(home)), labels=labels, class_names=names, files=files
    )


def _columns(
    datasets: Any,  # noqa: ANN401 - an optional library
    table: Any,  # noqa: ANN401
    where: str,
) -> tuple[str, str, tuple[str, ...]]:
    """Names of the columns of images and labels, and of the classes."""
    images, labels = (
        [name for name, kind in table.features.items() if isinstance(kind, wanted)]
        for wanted in (datasets.Image, datasets.ClassLabel)
    )
    if len(images) != 1 or len(labels) != 1:
        raise LayerticketError(
            f"{where!r} has {len(images)} columns of images and {len(labels)} of class labels; "
            "it needs one of each: cast_column and remove_columns make it so."
        )
    return images[0], labels[0], tuple(table.features[labels[0]].names)


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
        class_names: One for each class; none: they have no names.
        title: What figures call it.
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
    made = _Making("arrays", "", title, augment, validation_fraction, reading)
    given = {"train": (images, labels), "validation": validation, "test": test}
    parts = {
        name: _split_of(pair[0], pair[1], f"the {name} split")
        for name, pair in given.items()
        if pair is not None
    }
    return made.of_splits(parts, tuple(class_names), image_size, value_range)


def from_array_file(
    file: str | Path,
    *,
    image_size: int | Sequence[int] | None = None,
    value_range: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    augment: Augment | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Dataset:
    """Read a ``.npz`` file with ``images`` and ``labels``, or with these of each split.

    Those of a split are called ``train_images`` and ``train_labels``, and so on for ``val`` and
    ``test``; ``class_names`` may stand beside them.

    Args:
        file: The file.
        image_size: As in `from_folder`.
        value_range: As in `from_folder`.
        validation_fraction: As in `from_folder`.
        augment: As in `from_folder`.
        reading: As in `from_folder`.

    Raises:
        LayerticketError: If the file is missing or damaged, holds objects or more than fits into
            the memory allowed, or as in `from_arrays`.
    """
    path = Path(file).expanduser().resolve()
    arrays = _arrays_in(path, reading.image_memory)
    parts = {}
    for split, names in PARTS.items():
        for name in ("", *names) if split == "train" else names:
            keys = [f"{name}_{kind}".lstrip("_") for kind in ("images", "labels")]
            if keys[0] in arrays and keys[1] in arrays:
                what = f"{keys[0]} and {keys[1]} of {path.name!r}"
                parts[split] = _split_of(arrays[keys[0]], arrays[keys[1]], what)
    if "train" not in parts:
        raise LayerticketError(
            f"{path.name!r} holds {', '.join(arrays) or 'nothing'}; it needs images and labels, or "
            "train_images and train_labels (and the same for val and test)."
        )
    names = tuple(map(str, arrays.get("class_names", np.array([], str)).tolist()))
    made = _Making("arrays", str(path), path.stem, augment, validation_fraction, reading)
    return made.of_splits(parts, names, image_size, value_range)


def _arrays_in(path: Path, memory: int) -> dict[str, Array]:
    """Read a ``.npz`` file; what would not fit is refused before it is unpacked."""
    if not path.is_file():
        raise LayerticketError(f"there is no file {str(path)!r}. Give a .npz file.")
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > memory:
            raise LayerticketError(
                f"{path.name!r} holds {size:,} bytes of arrays, more than the {memory:,} that may "
                "be kept in memory. Allow more (--image-memory), or store images in folders."
            )
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        if isinstance(err, LayerticketError):
            raise
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
            "(uint8, uint16). Round and convert them: normalizing is done while training."
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    last, second = (pixels.ndim == 4 and 1 <= pixels.shape[i] <= 4 for i in (-1, 1))
    if last == second:
        why = "fits both" if last else "fits neither"
        raise LayerticketError(
            f"images of {what} have shape {pixels.shape}, which {why} (N, H, W, C) and (N, C, H, "
            "W) with 1 to 4 channels. Reshape them."
        )
    pixels = pixels.transpose(0, 3, 1, 2) if last else pixels
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.shape != (len(pixels),) or not np.issubdtype(numbers.dtype, np.integer):
        raise LayerticketError(
            f"labels of {what} are {numbers.dtype} of shape {numbers.shape}; they must be whole "
            f"numbers of shape ({len(pixels)},), one for each image."
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

    The current folder is importable.

    Args:
        name: The function.
        options: What it is given by name; one that is not None and that it does not take is
            refused.
        validation_fraction: Given to it where it has such a parameter.
        reading: How its images are read.

    Raises:
        LayerticketError: If there is no such function, or it returns something else.
    """
    module_name, _, function_name = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as err:
        if not f"{module_name}.".startswith(f"{err.name}."):
            raise
        raise LayerticketError(
            f"data {name!r}: there is no module {err.name!r}. Install it, or run from the folder "
            "it lies in."
        ) from err
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise LayerticketError(f"data {name!r}: {module_name} has no function {function_name!r}.")
    taken = inspect.signature(function).parameters
    for option, value in options.items():
        if value is not None and option not in taken:
            raise LayerticketError(
                f"data {name!r}: {function_name} takes no {option}. Leave it out, or add the "
                "parameter."
            )
    offered = {**options, "validation_fraction": validation_fraction}
    found = function(**{option: value for option, value in offered.items() if option in taken})
    if not isinstance(found, Dataset):
        raise LayerticketError(
            f"data {name!r} returned a {type(found).__name__}; it must return a "
            "layerticket.Dataset, as layerticket.data.from_arrays makes it."
        )
    return replace(found, name=name, reading=reading)


# Putting together


@dataclass(frozen=True, slots=True)
class _Making:
    """What is the same for all sources of own images."""

    kind: str
    place: str
    title: str
    augment: Augment | None
    validation_fraction: float
    reading: Reading

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.place}" if self.place else self.kind

    def of_stored(
        self,
        stored: _Stored,
        image_size: int | Sequence[int] | None,
        value_range: tuple[int, int] | None,
    ) -> Dataset:
        """Make a data set of encoded images; those that fit are decoded into memory."""
        size = None if image_size is None else size_of(image_size)
        facts = _facts_of(stored, self.kind)
        form = _form(facts, size)
        everything = EncodedSplit(
            images=stored.images,
            form=form,
            labels=torch.tensor([label for labels in stored.labels.values() for label in labels]),
            rows=torch.arange(len(stored.images)),
        )
        named: ImageSource = everything
        if len(everything) * form.bytes <= self.reading.image_memory:
            named = _in_memory(everything, facts["content"], self.reading.readers)
        parts = {split: named.subset(stored.rows(split)) for split in stored.labels}
        return self._assembled(
            parts, stored.class_names, size, value_range, facts["content"], stored.files
        )

    def of_splits(
        self,
        parts: Mapping[str, Split],
        class_names: tuple[str, ...],
        image_size: int | Sequence[int] | None,
        value_range: tuple[int, int] | None,
    ) -> Dataset:
        """Make a data set of images in memory."""
        sha, size = hashlib.sha256(), None if image_size is None else size_of(image_size)
        for split in parts.values():
            sha.update(split.images.numpy().data)
        found: Mapping[str, ImageSource] = parts
        if size is not None:
            found = {name: _resized(split, size, self.reading) for name, split in parts.items()}
        return self._assembled(found, class_names, size, value_range, sha.hexdigest(), ())

    def _assembled(
        self,
        parts: Mapping[str, ImageSource],
        class_names: tuple[str, ...],
        size: tuple[int, int] | None,
        value_range: tuple[int, int] | None,
        content: str,
        files: Sequence[Path],
    ) -> Dataset:
        """Carve what is missing, measure, and put all together."""
        classes = len(class_names) or int(parts["train"].labels.max()) + 1
        check_labels(parts["train"].labels, classes, f"the training images of {self.name!r}")
        counts = parts["train"].labels.bincount(minlength=classes)
        if not counts.all():
            empty = int((counts == 0).nonzero()[0])
            who = repr(class_names[empty]) if class_names else str(empty)
            raise LayerticketError(
                f"class {who} of {self.name!r} has no training images. Add some, or leave it out."
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
                f"the images of {self.name!r} have 16 bits; state the values of black and white: "
                f"--value-range 0,{LIMITS[torch.uint16]}, or value_range=(0, 4095) in Python."
            )
        value_range = value_range or (0, 255)
        check_range(value_range, train.dtype)
        known: dict[str, Any] = {"revision": REVISION, "content": content}
        known |= {"shape": list(train.shape), "type": str(train.dtype)}
        known["labels"] = {name: digest(part.labels.tolist()) for name, part in parts.items()}
        known["splits"] = {name: len(source) for name, source in splits.items()}
        fingerprint = digest(known)
        mean, std = _measured(train, value_range, self.reading.readers, fingerprint, files)
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


def _facts_of(stored: _Stored, kind: str) -> dict[str, Any]:
    """What is in the files: their SHA-256, channels, bits and sizes; looked at once."""

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
                    f"{first.channels} of {first.bits}. Give all images the same."
                )
            if other is None and (form.height, form.width) != (first.height, first.width):
                other = [what, form.height, form.width]
        if first is None:
            raise LayerticketError("there are no images to read. Give some.")
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
        cache.known_by_files(f"{kind}, revision {REVISION}", stored.files, compute)
    )
    return found


def _form(facts: Mapping[str, Any], size: tuple[int, int] | None) -> Form:
    """What is made of every image; refuses images of several sizes unless they are resized."""
    height, width = size or facts["size"]
    if size is None and facts["other"] is not None:
        what, other_height, other_width = facts["other"]
        raise LayerticketError(
            f"{what} has {other_height}x{other_width} pixels, {facts['first']} {height}x{width}. "
            "Say what all are to be resized to: --image-size HEIGHT,WIDTH."
        )
    return Form(facts["channels"], facts["bits"], height, width)


def _in_memory(source: EncodedSplit, content: str, readers: int) -> Split:
    """Decode all images, or take them from the cache."""
    key = digest(["own images", REVISION, content, list(source.shape), str(source.dtype)])
    kept = cache.recall(key)
    if kept is None:
        kept = {"images": _decoded(source, readers)}
        cache.keep(key, kept)
    return Split(images=kept["images"], labels=source.labels)


def _decoded(source: ImageSource, readers: int) -> Tensor:
    """Fetch all images with the help of other processes: (N, C, H, W)."""
    images, done = torch.empty((len(source), *source.shape), dtype=source.dtype), 0
    for part in _all_of(source, readers):
        images[done : done + len(part)] = part
        done += len(part)
    return images


def _all_of(source: ImageSource, readers: int) -> Iterator[Tensor]:
    """Fetch all images, some at a time."""
    some = max(1, min(128, images_at_a_time(source)))
    rows = [slice(start, start + some) for start in range(0, len(source), some)]
    if not source.is_encoded:
        return map(source.fetch, rows)
    return read_ahead(source, rows, workers=readers, device=CPU)


def _resized(source: ImageSource, size: tuple[int, int], reading: Reading) -> ImageSource:
    """Resize all images, into memory where they fit."""
    lazily = ResizedSplit(source=source, size=size)
    if len(lazily) * math.prod(lazily.shape) * lazily.dtype.itemsize > reading.image_memory:
        return lazily
    return Split(images=_decoded(lazily, reading.readers), labels=lazily.labels)


def resized_data(data: Dataset, size: tuple[int, int], reading: Reading) -> Dataset:
    """Resize the images of a data set; its border for crops grows with them."""
    train, validation, test = (
        _resized(split, size, reading) for split in (data.train, data.validation, data.test)
    )
    fingerprint = digest([data.fingerprint, "resized", REVISION, list(size)])
    mean, std = _measured(train, data.value_range, reading.readers, fingerprint, ())
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


def _measured(
    train: ImageSource,
    value_range: tuple[int, int],
    readers: int,
    fingerprint: str,
    files: Sequence[Path],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of some training images, always the same; known by the files of all."""
    chosen = torch.randperm(len(train), generator=generator("statistics"))[:MEASURED].sort().values
    some = train.subset(chosen)

    def compute() -> str:
        return json.dumps(statistics(some, value_range, _all_of(some, readers)))

    what = f"statistics {fingerprint} {value_range}"
    found = cache.known_by_files(what, files, compute) if train.is_encoded and files else compute()
    mean, std = json.loads(found)
    if 0 in std and any(std):  # such as the alpha of images that are nowhere transparent
        log.warning(
            "channel %d of %d is the same in all images and shown as 0.",
            std.index(0) + 1,
            len(std),
        )
        std = [value or 1.0 for value in std]
    return tuple(mean), tuple(std)


# Images of another source, for a network that is trained


def read_folder(folder: Path, like: Dataset, *, image_size: tuple[int, int] | None) -> Split:
    """Read a folder that holds one folder of images for each class.

    Class folders are told by the names of the classes where these have names. Otherwise whole
    numbers are the labels themselves, or there must be one folder for each class, in the order of
    their names, as in torchvision.

    Args:
        folder: The folder.
        like: What the network was trained on: shape, number and names of classes.
        image_size: Height and width to resize to, those of the network; None: as its training
            images were, else other sizes are refused.

    Raises:
        LayerticketError: If there is nothing to read, the classes do not fit, or an image is
            damaged or of another size.
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
            f"{str(folder)!r} holds {len(names)} folders, but the network knows {like.classes} "
            f"classes{known}. Give one folder for each class, or folders named 0 to "
            f"{like.classes - 1}, not both."
        )
    files = [
        (file, label)
        for name, label in zip(names, numbers, strict=True)
        for file in _images_in(home / name)
    ]
    images: list[tuple[Encoded, str]] = [(file, repr(str(file))) for file, _ in files]
    return _like(images, [label for _, label in files], like, str(folder), image_size)


def read_hub(name: str, like: Dataset, *, image_size: tuple[int, int] | None) -> Split:
    """Read a labelled data set of Hugging Face: a local folder, or a name of the Hub.

    Args:
        name: Path of a folder or ``owner/name``; ``@SPLIT`` behind it, ``@test`` by default.
        like: What the network was trained on: shape and number of classes.
        image_size: As in `read_folder`.

    Raises:
        LayerticketError: If `datasets` is not installed, there is no network, or images and
            labels are not to be found or do not fit.
    """
    source, _, part = name.partition("@")
    datasets = need("datasets", extra="datasets", why="Hugging Face data sets need datasets")
    if not Path(source).is_dir() and not _reachable():
        raise LayerticketError(
            f"{source!r} is no folder, and the Hugging Face Hub cannot be reached. Check the path, "
            "or go online."
        )
    try:
        table = datasets.load_dataset(source, split=part or "test")
    except Exception as err:  # the library raises its own and many others
        raise LayerticketError(
            f"the data set {source!r} cannot be read ({' '.join(str(err).split())[:200]}). "
            "Check name and split (hf:NAME@SPLIT)."
        ) from err
    column, labels, _ = _columns(datasets, table, source)
    encoded = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    numbers = [-1 if value is None else int(value) for value in table[labels]]
    return _like(_Cells([encoded], source), numbers, like, source, image_size)


def _like(
    images: Sequence[tuple[Encoded, str]],
    labels: list[int],
    like: Dataset,
    where: str,
    image_size: tuple[int, int] | None,
) -> Split:
    """Decode images into the form of those that a network was trained on."""
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
                    f"{what} has {found.height}x{found.width} pixels, the network was trained on "
                    f"{height}x{width}. Let images be resized (--image-size {height},{width}), or "
                    "give others."
                )
    rows = torch.arange(len(images))
    encoded = EncodedSplit(images=images, form=form, labels=numbers, rows=rows)
    return Split(images=encoded.fetch(slice(None)), labels=numbers)


def _reachable() -> bool:
    """Whether the Hub answers; the library itself would try for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        socket.create_connection(HUB, timeout=PATIENCE).close()
    except OSError:
        return False
    return True
