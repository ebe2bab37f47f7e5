"""CIFAR-10 and CIFAR-100: finds the files in a folder, whatever their layout, and reads them."""

from dataclasses import dataclass
from pathlib import Path

from layerticket.data import download as fetching
from layerticket.data.dataset import Augment, Dataset, Split
from layerticket.data.parquet import read_parquet
from layerticket.data.pickles import read_batches
from layerticket.data.splits import assemble
from layerticket.errors import LayerticketError

__all__ = ["CIFARS", "Cifar", "load_cifar"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar:
    """How one of the two data sets is published."""

    title: str
    classes: int
    label: str
    """Column of the parquet files."""
    labels_key: str
    """Entry of the original batches."""
    folder: str
    """Of the original batches."""
    train_files: tuple[str, ...]
    test_file: str


CIFARS = {
    "cifar10": Cifar(
        title="CIFAR-10",
        classes=10,
        label="label",
        labels_key="labels",
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test_file="test_batch",
    ),
    "cifar100": Cifar(
        title="CIFAR-100",
        classes=100,
        label="fine_label",
        labels_key="fine_labels",
        folder="cifar-100-python",
        train_files=("train",),
        test_file="test",
    ),
}
NESTINGS = ("", "data", "plain_text")


def load_cifar(
    name: str, data_dir: Path | None, validation_fraction: float, *, download: bool
) -> Dataset:
    """Load one of `CIFARS` from a folder; original batches are preferred to parquet files.

    Raises:
        LayerticketError: If the files are absent, incomplete or damaged.
    """
    published = CIFARS[name]
    if data_dir is None and not download:
        raise LayerticketError(
            f"{name!r} needs its files. Give their folder (--data-dir), or allow fetching them "
            "(--download)."
        )
    folder = fetching.default_folder() if data_dir is None else data_dir.expanduser()
    if download and not _is_there(name, folder):
        fetching.fetch(name, published.folder, folder)
    if not folder.is_dir():
        raise LayerticketError(f"the data folder {str(folder)!r} does not exist. Give another.")
    training, test, jpeg = _read(name, folder)
    return assemble(
        name,
        f"{published.title} (JPEG)" if jpeg else published.title,
        training,
        test,
        classes=published.classes,
        augment=Augment(pad=4, flip=True),
        validation_fraction=validation_fraction,
    )


def _is_there(name: str, folder: Path) -> bool:
    return _batches_folder(name, folder) is not None or _parquet_files(name, folder) is not None


def _read(name: str, folder: Path) -> tuple[Split, Split, bool]:
    """Read training and test images, and whether any was stored as JPEG."""
    published = CIFARS[name]
    batches = _batches_folder(name, folder)
    if batches is not None:
        files = [batches / file for file in published.train_files]
        train = read_batches(files, published.labels_key, published.classes)
        test = read_batches(
            [batches / published.test_file], published.labels_key, published.classes
        )
        return train, test, False
    shards = _parquet_files(name, folder)
    if shards is not None:
        train, train_jpeg = read_parquet(shards[0], published.label, published.classes)
        test, test_jpeg = read_parquet(shards[1], published.label, published.classes)
        return train, test, train_jpeg or test_jpeg
    raise LayerticketError(
        f"no {published.title} in {str(folder)!r}. It should hold {published.folder!r} with "
        f"{', '.join((*published.train_files, published.test_file))}, or train.parquet and "
        "test.parquet. Give another folder (--data-dir), or allow fetching (--download)."
    )


def _batches_folder(name: str, folder: Path) -> Path | None:
    """Find the original batches: in the folder itself, or in the one they are published in."""
    published = CIFARS[name]
    files = (*published.train_files, published.test_file)
    for candidate in (folder, folder / published.folder):
        if all((candidate / file).is_file() for file in files):
            return candidate
    return None


def _parquet_files(name: str, folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Find the parquet files of both splits, as the Hugging Face hub lays them out."""
    for candidate in (root / nest for root in (folder, folder / name) for nest in NESTINGS):
        train, test = _shards(candidate, "train"), _shards(candidate, "test")
        if train and test:
            return train, test
    return None


def _shards(folder: Path, split: str) -> list[Path]:
    """List the files of one split in order.

    Raises:
        LayerticketError: If one of several numbered files is absent.
    """
    single = folder / f"{split}.parquet"
    if single.is_file():
        return [single]
    shards = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    if shards:
        announced = shards[0].stem.rpartition("-")[2]
        expected = {f"{split}-{i:0{len(announced)}d}-of-{announced}" for i in range(int(announced))}
        if {shard.stem for shard in shards} != expected:
            raise LayerticketError(
                f"{str(folder)!r} holds {len(shards)} of {int(announced)} {split} files. "
                "Add the others."
            )
    return shards
