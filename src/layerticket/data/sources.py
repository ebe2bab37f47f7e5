"""Data sets by name: what there is, and the one function that loads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerticket.errors import LayerticketError, unknown_name
from layerticket.settings import Bytes, Whole, settings

if TYPE_CHECKING:
    from layerticket.data.dataset import Dataset

# Name -> (C, H, W) and number of classes.
SHAPES = {
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
DATASETS = tuple(SHAPES)
PUBLISHED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""Data sets whose corrupted test images are published, and under which name."""


@settings
class Reading:
    """How images are read on this machine; changes no bit of any batch."""

    memory: Bytes = 2 * 1024**3
    """Images that take up to so much, decoded, are kept in memory (2GiB, 900MB); others are read
    from disk whenever they are needed."""
    readers: Whole = 2
    """Processes that read or change images one by one beside training; 0: training itself does."""


POLICIES = {"trivialaugment": "TrivialAugmentWide", "randaugment": "RandAugment"}
"""Augmentations that change images one by one, and their classes in torchvision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How a later test set for CIFAR-10 is published."""

    title: str
    images: str
    """File of the images; of images and labels where `labels` is empty."""
    labels: str = ""
    count: int
    """Images in it."""


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


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation_fraction: float = 0.1,
    download: bool = False,
) -> "Dataset":
    """Load a data set with fixed splits; the same call always gives the same images.

    Args:
        name: One of `DATASETS`.
        data_dir: Folder with the CIFAR files, as original batches or as parquet; with
            `download`, where they are put if they are not there yet. Not for the digits.
        validation_fraction: Share of every class taken from the training images for validation,
            0 to 0.5; 0 leaves the validation split empty.
        download: Whether missing CIFAR files may be fetched from their authors' site.

    Raises:
        LayerticketError: If the name is unknown, an argument does not fit, or the files are
            absent or damaged.

    Example:
        >>> data = load_data("digits")
        >>> len(data.train), len(data.validation), len(data.test)
        (1295, 143, 359)
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    if not 0 <= validation_fraction <= 0.5:
        raise LayerticketError(
            f"validation_fraction is {validation_fraction}; it must lie in 0 to 0.5."
        )
    if name == "digits":
        from layerticket.data.dataset import load_digits

        if data_dir is not None or download:
            raise LayerticketError(
                "the digits come with scikit-learn; leave out the data folder and the download."
            )
        return load_digits(validation_fraction)
    from layerticket.data.cifar import load_cifar

    folder = None if data_dir is None else Path(data_dir)
    return load_cifar(name, folder, validation_fraction, download=download)


def image_shape(name: str) -> tuple[tuple[int, int, int], int]:
    """Return channels, height and width of a data set's images, and its number of classes.

    Raises:
        LayerticketError: If the name is unknown.

    Example:
        >>> image_shape("digits")
        ((1, 8, 8), 10)
    """
    if name not in SHAPES:
        raise unknown_name("data set", name, DATASETS)
    return SHAPES[name]
