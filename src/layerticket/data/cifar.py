"""CIFAR-10 and CIFAR-100: finds the files in a folder, whatever their layout, and reads them."""

import hashlib
import io
import logging
import math
import pickle
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from layerticket.data import cache
from layerticket.data import cifar as fetching
from layerticket.data.dataset import Augment, Dataset, Split, assemble
from layerticket.errors import LayerticketError

SHAPE = (3, 32, 32)
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]
Array = np.ndarray[Any, np.dtype[Any]]
Names = Mapping[tuple[str, str], Any]
OBJECTS = "O"
NUMBERS = {f"{kind}{width}" for kind in "iu" for width in (1, 2, 4, 8)}


def read_batches(files: Sequence[Path], labels_key: str, classes: int) -> Split:
    """Read the images and labels of one split.

    Args:
        files: In order.
        labels_key: Entry of the labels, ``labels`` or ``fine_labels``.
        classes: Labels must lie in 0 to `classes` - 1.

    Returns:
        N images of 3x32x32.

    Raises:
        LayerticketError: If a file is damaged, holds something else, or names foreign code.
    """
    parts = [_read(file, labels_key, classes) for file in files]
    return Split(
        images=torch.from_numpy(np.concatenate([images for images, _ in parts])),
        labels=torch.tensor([label for _, labels in parts for label in labels]),
    )


def read_pickled_array(file: Path) -> object:
    """Read the one object of a ``.npy`` file that holds a Python object, as CIFAR-10.2 does.

    Args:
        file: The file.

    Returns:
        The object, built of dictionaries, lists, text, numbers and arrays of whole numbers.

    Raises:
        LayerticketError: If the file is damaged, holds something else, or names foreign code.
    """
    content = _unpickled(file, "file of CIFAR-10.2", KNOWN_IN_ARRAYS, skip_header=True)
    if not isinstance(content, _Array) or content.dtype != OBJECTS or len(content.objects) != 1:
        raise LayerticketError(f"{file.name!r} does not hold one object. Is this another data set?")
    return _plain(content.objects[0])


def _plain(value: object) -> object:
    """Replace stubs by the arrays they stand for, in a dictionary one level deep."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.values if isinstance(value, _Array) and value.dtype != OBJECTS else value


def _unpickled(file: Path, kind: str, known: Names, *, skip_header: bool = False) -> object:
    """Read what a pickle holds, with stubs for arrays."""
    try:
        with file.open("rb") as stream:
            if skip_header:
                _skip_header(stream)
            return _Reader(stream, known).load()
    except _ForeignName as err:
        raise LayerticketError(
            f"{file.name!r} names {err}, which no {kind} does, and could run code; it was "
            "not opened. Get the file from its authors."
        ) from err
    except Exception as err:  # a damaged pickle can fail in any way
        raise LayerticketError(
            f"{file.name!r} cannot be read as a {kind} ({type(err).__name__}: {err}). "
            "Get the file again."
        ) from err


def _skip_header(stream: BinaryIO) -> None:
    """Go to where the pickle begins in a ``.npy`` file of one object."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape not in {(), (1,)} or not dtype.hasobject:
        raise ValueError(f"{dtype} of shape {shape}")


def _read(file: Path, labels_key: str, classes: int) -> tuple[ByteArray, list[int]]:
    """Read one file: images (N, 3, 32, 32) and N labels."""
    content = _unpickled(file, "CIFAR batch", KNOWN)
    entries = content if isinstance(content, dict) else {}
    array = entries.get(b"data", entries.get("data"))
    labels = entries.get(labels_key.encode(), entries.get(labels_key))
    problem = _problem(array, labels, labels_key, classes)
    if problem or not isinstance(array, _Array) or not isinstance(labels, list):
        raise LayerticketError(f"{file.name!r} {problem}. Is this another data set?")
    return array.values.reshape(-1, *SHAPE), labels


def _problem(array: object, labels: object, labels_key: str, classes: int) -> str:
    """Say what is wrong with the entries of a batch; empty when nothing is."""
    if not isinstance(array, _Array) or not isinstance(labels, list):
        return f"lacks 'data' (an array) or {labels_key!r} (a list)"
    if array.dtype != "u1" or array.values.ndim != 2 or array.values.shape[1] != math.prod(SHAPE):
        return f"holds data of shape {array.values.shape}, not (N, {math.prod(SHAPE)})"
    if len(labels) != len(array.values) or not labels:
        return f"holds {len(array.values)} images and {len(labels)} labels"
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        return f"holds labels that are not whole numbers from 0 to {classes - 1}"
    return ""


class _ForeignName(Exception):
    """A pickle names something that is not in the list."""


class _Marker:
    """Stands for ``numpy.ndarray`` where a pickle names the class."""


class _Dtype:
    """Stands for ``numpy.dtype``; whole numbers and objects are known."""

    allowed = frozenset({OBJECTS, *NUMBERS})

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code
        self.order = "<"
        if self.code == "O8":
            self.code = OBJECTS
        if self.code not in self.allowed:
            raise ValueError(f"array of {code!r}, not of {' or '.join(sorted(self.allowed))}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in {"<", ">", "|", "="}:
            raise ValueError(f"byte order {order!r}")
        self.order = order


class _Bytes(_Dtype):
    """Stands for ``numpy.dtype`` in CIFAR batches; only unsigned bytes are known."""

    allowed = frozenset({"u1"})


class _Array:
    """Stands for an array; takes its state as NumPy pickles it."""

    def __init__(self, *_: object) -> None:
        self.dtype = "u1"
        self.values: Array = np.zeros(0, np.uint8)
        self.objects: list[object] = []

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, object, object]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(
            raw, list if dtype.code == OBJECTS else bytes
        ):
            raise ValueError("array of something else than whole numbers")
        self.dtype = dtype.code
        if isinstance(raw, list):
            self.objects = raw
            return
        flat = np.frombuffer(raw, np.dtype(dtype.order + dtype.code))
        self.values = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _scalar(dtype: object, raw: object) -> int:
    """Stand for one number of an array."""
    if not isinstance(dtype, _Dtype) or dtype.code == OBJECTS or not isinstance(raw, bytes):
        raise ValueError("number that is not whole")
    return int(np.frombuffer(raw, np.dtype(dtype.order + dtype.code))[0])


def _encoded(text: str, codec: str) -> bytes:
    """Stand for ``_codecs.encode``, in which Python 3 writes bytes for Python 2."""
    if codec not in {"latin1", b"latin1"}:
        raise ValueError(f"text in {codec!r}, not in latin1")
    return text.encode("latin1")


KNOWN: Names = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Marker,
    ("numpy", "dtype"): _Bytes,
    ("_codecs", "encode"): _encoded,
}
KNOWN_IN_ARRAYS: Names = {
    **KNOWN,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names it is given and no other."""

    def __init__(self, stream: BinaryIO, known: Names) -> None:
        super().__init__(stream, encoding="bytes")
        self.known = known

    def find_class(self, module: str, name: str, /) -> Any:  # noqa: ANN401 - class or function
        try:
            return self.known[module, name]
        except KeyError:
            raise _ForeignName(f"{module}.{name}") from None


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


# source: the authors' page, www.cs.toronto.edu/~kriz/cifar.html (2009), with these MD5 sums
SITE = "https://www.cs.toronto.edu/~kriz/"
ARCHIVES = {
    "cifar10": ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    "cifar100": ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
}
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return where archives are unpacked when no folder is given; it may not exist yet."""
    return cache.folder() / "data"


def fetch(name: str, unpacked: str, folder: Path) -> None:
    """Fetch one archive and put what it holds into a folder.

    Args:
        name: ``cifar10`` or ``cifar100``.
        unpacked: The folder inside the archive; its files appear in `folder`, each whole.
        folder: Made if it is not there.

    Raises:
        LayerticketError: If the archive cannot be fetched, is not the published one, or cannot
            be written.
    """
    archive, md5 = ARCHIVES[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            packed = Path(scratch) / archive
            _download(SITE + archive, packed, md5)
            with tarfile.open(packed) as tar:
                tar.extractall(scratch, filter="data")
            (folder / unpacked).mkdir(exist_ok=True)
            for file in sorted((Path(scratch) / unpacked).iterdir()):
                file.replace(folder / unpacked / file.name)
    except (OSError, tarfile.TarError) as err:
        raise LayerticketError(
            f"{archive} could not be fetched into {str(folder)!r} ({err}). Fetch it from "
            f"{SITE}cifar.html by hand, unpack it, and give the folder (--data-dir)."
        ) from err


def _download(url: str, target: Path, md5: str) -> None:
    """Write what lies at `url` to a file and hold it against its MD5 sum."""
    log.info("fetching %s", url)
    found = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as source, target.open("wb") as out:
        while chunk := source.read(CHUNK_BYTES):
            found.update(chunk)
            out.write(chunk)
    if found.hexdigest() != md5:
        raise LayerticketError(
            f"{target.name} arrived with MD5 {found.hexdigest()}, published is {md5}; it was "
            "thrown away. Try again."
        )


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
    training, test, jpeg = _read_cifar(name, folder)
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


def _read_cifar(name: str, folder: Path) -> tuple[Split, Split, bool]:
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
