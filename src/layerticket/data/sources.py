"""The names of the data sets, and the function that loads them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Strict

from layerticket.errors import LayerticketError, unknown_name
from layerticket.settings import Bytes, settings, size_of

if TYPE_CHECKING:
    from layerticket.data.dataset import Dataset

SHAPES = {
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
"""Shape (C, H, W) and number of classes of each built-in data set."""
FOLDER, TABLES, ARRAYS = "imagefolder:", "datasets:", "arrays:"
OWN = (f"{FOLDER}DIR", f"{TABLES}DIR", f"{ARRAYS}FILE.npz", "package.module:function")
DATASETS = (*SHAPES, *OWN)
PUBLISHED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""Names of the published corrupted test images of a data set."""


@settings
class Reading:
    """How images are read; does not change any batch."""

    image_memory: Bytes = 2 * 1024**3
    """Largest size of decoded images that are kept in memory (2GiB, 900MB); larger data sets are
    read from disk in every epoch."""
    readers: Annotated[int, Strict(), Field(ge=0, le=256)] = 2
    """Worker processes that read or augment images one by one; 0: the training process does."""


POLICIES = {"trivialaugment": "TrivialAugmentWide", "randaugment": "RandAugment"}
"""Augmentations of single images, and their classes in torchvision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """Files of a later test set for CIFAR-10."""

    title: str
    images: str
    """File of the images, or of images and labels if `labels` is empty."""
    labels: str = ""
    count: int
    """Number of images."""


def _pair(version: str, count: int) -> Shift:
    images, labels = (f"cifar10.1_{version}_{kind}.npy" for kind in ("data", "labels"))
    return Shift(title=f"CIFAR-10.1 {version}", images=images, labels=labels, count=count)


# source: https://github.com/modestyachts/CIFAR-10.1 (2018), .../cifar-10.2 (2021)
SHIFTS = {
    "cifar10.1": _pair("v6", 2000),
    "cifar10.1-v6": _pair("v6", 2000),
    "cifar10.1-v4": _pair("v4", 2021),
    "cifar10.2": Shift(title="CIFAR-10.2 test", images="cifar102_test.npy", count=2000),
    "cifar10.2-train": Shift(title="CIFAR-10.2 train", images="cifar102_train.npy", count=10_000),
}


def data_name(name: str) -> str:
    """Return the name of a data set with an absolute path.

    Raises:
        LayerticketError: If the name is unknown.

    Example:
        >>> data_name("arrays:/images/../cells.npz")
        'arrays:/cells.npz'
    """
    for kind in (FOLDER, TABLES, ARRAYS):
        if name.startswith(kind) and name != kind:
            return f"{kind}{Path(name.removeprefix(kind)).expanduser().resolve()}"
    module, colon, function = name.partition(":")
    is_function = colon and all(part.isidentifier() for part in (*module.split("."), function))
    if name not in SHAPES and not is_function:
        raise unknown_name("data set", name, DATASETS)
    return name


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation_fraction: float = 0.1,
    download: bool = False,
    image_size: int | Sequence[int] | str | None = None,
    value_range: tuple[int, int] | None = None,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> "Dataset":
    """Load a data set; the same call always gives the same splits.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, or your own images: ``imagefolder:DIR``,
            ``datasets:DIR``, ``arrays:FILE.npz`` or ``package.module:function``. The function
            returns a `Dataset`; it is called with `validation_fraction`, `image_size` and
            `value_range` if it has these parameters.
        data_dir: Folder with the CIFAR files, as original batches or as parquet; with `download`,
            missing files are put there. For CIFAR only.
        validation_fraction: Share of every class taken from the training images for validation,
            0 to 0.5; 0 leaves the validation split empty.
        download: Whether to download missing CIFAR files from their authors' site.
        image_size: Height and width to resize all images to, or one number for both.
        value_range: Pixel values of black and white; must be given for images of 16 bits.
        reading: How images are read.

    Raises:
        LayerticketError: If the name is unknown, an argument does not fit, or files are missing or
            damaged.

    Example:
        >>> data = load_data("digits")
        >>> len(data.train), len(data.validation), len(data.test)
        (1295, 143, 359)
    """
    name = data_name(name)
    if not 0 <= validation_fraction <= 0.5:
        raise LayerticketError(
            f"validation_fraction is {validation_fraction}; it must lie in 0 to 0.5."
        )
    size = None if image_size is None else size_of(image_size)
    if name not in ("cifar10", "cifar100") and (data_dir is not None or download):
        raise LayerticketError(
            f"data_dir and download are for CIFAR only; {name!r} needs neither. Leave them out."
        )
    from layerticket.data import folders

    if name in SHAPES:
        if value_range not in (None, (0, 255)):
            raise LayerticketError(f"{name!r} has pixels from 0 to 255; leave value_range out.")
        if name == "digits":
            from layerticket.data.dataset import load_digits

            data = load_digits(validation_fraction)
        else:
            from layerticket.data.cifar import load_cifar

            folder = None if data_dir is None else Path(data_dir)
            data = load_cifar(name, folder, validation_fraction, download=download)
        if size is None or size == data.shape[1:]:
            return replace(data, reading=reading)
        return folders.resized_data(data, size, reading)
    kind, _, home = name.partition(":")
    load = {
        "imagefolder": folders.from_folder,
        "datasets": folders.from_datasets,
        "arrays": folders.from_array_file,
    }.get(kind)
    if load is not None:
        return load(
            home,
            image_size=size,
            value_range=value_range,
            validation_fraction=validation_fraction,
            reading=reading,
        )
    options = {"image_size": size, "value_range": value_range}
    return folders.from_function(name, options, validation_fraction, reading)
