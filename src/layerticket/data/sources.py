"""The one door to all data sets: a name in, a `Dataset` out."""

from pathlib import Path

from layerticket.data.cifar import CIFARS, load_cifar
from layerticket.data.dataset import Dataset, load_digits
from layerticket.errors import LayerticketError, unknown_name

DATASETS = ("digits", *CIFARS)


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation_fraction: float = 0.1,
    download: bool = False,
) -> Dataset:
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
    if name in CIFARS:
        folder = None if data_dir is None else Path(data_dir)
        return load_cifar(name, folder, validation_fraction, download=download)
    if data_dir is not None or download:
        raise LayerticketError(
            "the digits come with scikit-learn; leave out the data folder and the download."
        )
    return load_digits(validation_fraction)


def image_shape(name: str) -> tuple[tuple[int, int, int], int]:
    """Return channels, height and width of a data set's images, and its number of classes.

    Raises:
        LayerticketError: If the name is unknown.

    Example:
        >>> image_shape("digits")
        ((1, 8, 8), 10)
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return ((1, 8, 8), 10) if name == "digits" else ((3, 32, 32), 100 if "100" in name else 10)
