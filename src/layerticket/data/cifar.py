"""CIFAR-10 and CIFAR-100, from original batches or parquet files.

Original batches are pickles, which can run code when they are loaded. The unpickler here allows
only the few names that these files need, and replaces them by classes and functions of this file.
"""

import io
import logging
import pickle
import pickletools
import socket
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from layerticket.data import cache
from layerticket.data.dataset import (
    Array,
    Augment,
    Dataset,
    Split,
    assemble,
    check_array,
    check_labels,
)
from layerticket.data.images import pillow
from layerticket.data.sources import SHAPES
from layerticket.errors import LayerticketError, need
from layerticket.files import check_regular

SITE = "https://www.cs.toronto.edu/~kriz/"
SIDE = 32  # pixels
SUBFOLDERS = ("", "data", "plain_text")  # of the Hugging Face Hub, with parquet files
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar:
    """Files of a published data set."""

    title: str
    label: str
    """Label column of the parquet files."""
    labels_key: str
    """Key of the labels in the original batches."""
    folder: str
    """Folder of the original batches."""
    train_files: tuple[str, ...]
    test_file: str
    archive: str
    sha256: str


# source: the authors' page, www.cs.toronto.edu/~kriz/cifar.html (2009); SHA-256 of the archives
# with the MD5 given there
CIFARS = {
    "cifar10": Cifar(
        title="CIFAR-10",
        label="label",
        labels_key="labels",
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test_file="test_batch",
        archive="cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar100": Cifar(
        title="CIFAR-100",
        label="fine_label",
        labels_key="fine_labels",
        folder="cifar-100-python",
        train_files=("train",),
        test_file="test",
        archive="cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
}


def load_cifar(
    name: str, data_dir: Path | None, validation_fraction: float, *, download: bool
) -> Dataset:
    """Load a data set of `CIFARS` from original batches, or else from parquet files."""
    published, classes = CIFARS[name], SHAPES[name][1]
    if data_dir is None and not download:
        raise LayerticketError(
            f"{name!r} needs its files. Give their folder (--data-dir), or download them "
            "(--download)."
        )
    folder = cache.folder() / "data" if data_dir is None else data_dir.expanduser()
    batches = _batches_folder(published, folder)
    shards = None if batches else _parquet_files(name, folder)
    if download and not (batches or shards):
        _download(published, folder)
        batches = _batches_folder(published, folder)
    if not folder.is_dir():
        raise LayerticketError(f"the data folder {str(folder)!r} does not exist. Give another.")
    jpeg = False
    if batches:
        train, test = (
            read_batches([batches / file for file in files], published.labels_key, classes)
            for files in (published.train_files, (published.test_file,))
        )
    elif shards:
        (train, one), (test, other) = (
            read_parquet(files, published.label, classes) for files in shards
        )
        jpeg = one or other
    else:
        raise LayerticketError(
            f"no {published.title} in {str(folder)!r}. It should hold {published.folder!r} with "
            f"{', '.join((*published.train_files, published.test_file))}, or train.parquet and "
            "test.parquet. Give another folder (--data-dir), or download the files (--download)."
        )
    return assemble(
        name,
        f"{published.title} (JPEG)" if jpeg else published.title,
        train,
        test,
        classes=classes,
        augment=Augment(pad=4, flip=True),
        validation_fraction=validation_fraction,
    )


# Finding files


def _batches_folder(published: Cifar, folder: Path) -> Path | None:
    """Find the original batches in the folder or in its subfolder with the published name."""
    files = (*published.train_files, published.test_file)
    for candidate in (folder, folder / published.folder):
        if all((candidate / file).is_file() for file in files):
            return candidate
    return None


def _parquet_files(name: str, folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Find the parquet files of both splits, in the layout of the Hugging Face Hub."""
    for candidate in (root / sub for root in (folder, folder / name) for sub in SUBFOLDERS):
        train, test = _shards(candidate, "train"), _shards(candidate, "test")
        if train and test:
            return train, test
    return None


def _shards(folder: Path, split: str) -> list[Path]:
    """List the files of one split in order; raise if a numbered file is missing."""
    single = folder / f"{split}.parquet"
    if single.is_file():
        return [single]
    shards = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    if shards:
        total = shards[0].stem.rpartition("-")[2]
        expected = {f"{split}-{i:0{len(total)}d}-of-{total}" for i in range(int(total))}
        if {shard.stem for shard in shards} != expected:
            raise LayerticketError(
                f"{str(folder)!r} holds {len(shards)} of {int(total)} {split} files. "
                "Add the missing files."
            )
    return shards


def _download(published: Cifar, folder: Path) -> None:
    """Download the archive and move its files into a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            packed = Path(scratch) / published.archive
            url, bar = SITE + published.archive, sys.stderr.isatty()
            log.info("downloading %s", url)
            with _socket_timeout(60):
                torch.hub.download_url_to_file(
                    url, str(packed), hash_prefix=published.sha256, progress=bar
                )
            with tarfile.open(packed) as tar:
                tar.extractall(scratch, filter="data")
            (folder / published.folder).mkdir(exist_ok=True)
            for file in sorted((Path(scratch) / published.folder).iterdir()):
                file.replace(folder / published.folder / file.name)
    except (OSError, RuntimeError, tarfile.TarError) as err:  # RuntimeError: another SHA-256
        raise LayerticketError(
            f"{published.archive} could not be downloaded to {str(folder)!r} ({err}). Download it "
            f"from {SITE}cifar.html by hand, unpack it, and give the folder (--data-dir)."
        ) from err


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the timeout of connections that are opened inside."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# Original batches: pickles


def read_batches(files: Sequence[Path], labels_key: str, classes: int) -> Split:
    """Read one split: N images of 3x32x32, and their labels from a key of each file."""
    images, labels = [], []
    for file in files:
        content = read_pickle(file, "CIFAR batch")
        entries = content if isinstance(content, dict) else {}
        array = entries.get(b"data", entries.get("data"))
        found = entries.get(labels_key.encode(), entries.get(labels_key))
        if not isinstance(array, np.ndarray) or not isinstance(found, list) or not found:
            raise LayerticketError(
                f"{file.name!r} lacks 'data' (an array) or {labels_key!r} (a list). "
                "Is this another data set?"
            )
        check_array(array, np.uint8, (None, 3 * SIDE * SIDE), repr(file.name))
        if len(array) != len(found) or not all(type(label) is int for label in found):
            raise LayerticketError(
                f"{file.name!r} holds {len(array)} images and {len(found)} labels; it must hold "
                "one whole number per image. Is this another data set?"
            )
        check_labels(np.array(found), classes, repr(file.name))
        images.append(array.reshape(-1, 3, SIDE, SIDE))
        labels += found
    return Split(images=torch.from_numpy(np.concatenate(images)), labels=torch.tensor(labels))


def read_pickle(file: Path, kind: str, *, in_array: bool = False) -> object:
    """Read a pickle of dictionaries, lists, texts, numbers and arrays of whole numbers.

    Args:
        file: Path of the pickle.
        kind: Name of the file type in messages.
        in_array: Whether it is a ``.npy`` file that contains one Python object, as CIFAR-10.2 is.

    Raises:
        LayerticketError: If it is damaged, has other content, or refers to other code.
    """
    check_regular(file)
    try:
        with file.open("rb") as stream:
            if in_array:
                _skip_header(stream)
            raw = stream.read()  # once, so that what is checked is what is loaded
        _check_codes(raw)
        content = _arrays_of(_Unpickler(io.BytesIO(raw), encoding="bytes").load())
        if in_array:
            (content,) = content  # type: ignore[misc]  # one object in a list, or an error
        return content
    except _ForeignName as err:
        raise LayerticketError(
            f"{file.name!r} refers to {err}, which a {kind} does not contain and which could run "
            "code; it was not loaded. Download the file from its authors."
        ) from err
    except Exception as err:  # a damaged pickle can fail in any way
        raise LayerticketError(
            f"{file.name!r} cannot be read as a {kind} ({type(err).__name__}: {err}). "
            "Download the file again."
        ) from err


def _check_codes(raw: bytes) -> None:
    """Raise for codes of a pickle that `_Unpickler` cannot refuse."""
    for code, argument, _ in pickletools.genops(raw):
        # Objects of extension codes come from a cache of the process, not from `find_class`.
        if code.name.startswith("EXT"):
            raise _ForeignName("a registered extension")
        # Python makes room for all numbers up to this one, 16 bytes for each.
        if code.name.endswith("PUT") and int(argument or 0) > len(raw):
            raise ValueError(f"it stores an object under the number {argument}")


def _skip_header(stream: BinaryIO) -> None:
    """Move to the start of the pickle in a ``.npy`` file of one object."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape not in {(), (1,)} or not dtype.hasobject:
        raise ValueError(f"{dtype} of shape {shape}")


class _ForeignName(Exception):
    """A pickle refers to a name that is not in `KNOWN`."""


class _Dtype:
    """Replaces ``numpy.dtype``; allows whole numbers and Python objects."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        code = code.decode() if isinstance(code, bytes) else code
        self.objects = code in {"O", "O8"}
        if not self.objects and not (code[:1] in {"i", "u"} and code[1:] in {"1", "2", "4", "8"}):
            raise ValueError(f"it has an array of {code!r}, not of whole numbers")
        self.numbers = np.dtype("u1" if self.objects else code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.numbers = self.numbers.newbyteorder(order)


class _Array:
    """Replaces ``numpy.ndarray``; reads the state that NumPy pickles."""

    def __init__(self, *_: object) -> None:
        self.values: Array | list[object] = []

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, object, object]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, list if dtype.objects else bytes):
            raise ValueError("it has an array that is not of whole numbers")
        if isinstance(raw, list):
            self.values = raw
        else:
            flat = np.frombuffer(raw, dtype.numbers)
            self.values = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _scalar(dtype: _Dtype, raw: bytes) -> int:
    """Replace ``numpy.core.multiarray.scalar``, which makes one number."""
    if dtype.objects:
        raise ValueError("it has a number that is not whole")
    return int(np.frombuffer(raw, dtype.numbers)[0])


def _encoded(text: str, codec: str | bytes) -> bytes:
    """Replace ``_codecs.encode``, which old pickle protocols use for bytes."""
    if codec not in {"latin1", b"latin1"}:
        raise ValueError(f"it has text in {codec!r}, not in latin1")
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encoded,
}


class _Unpickler(pickle.Unpickler):
    """Allows only the names in `KNOWN`, and replaces them.

    The authors publish their Python batches and CIFAR-10.2 in no other format. No class or function
    that a file names is imported; a file can only call the replacements.
    """

    def find_class(self, module: str, name: str, /) -> Any:  # noqa: ANN401 - class or function
        try:
            known = KNOWN[module, name]
        except KeyError:
            raise _ForeignName(f"{module}.{name}") from None
        # A pickle may set attributes of a function that it names: of this one, not of ours. The
        # classes have a __setstate__, which is called instead.
        return known if isinstance(known, type) else lambda *given: known(*given)


def _arrays_of(value: object) -> object:
    """Replace `_Array` objects by NumPy arrays; refuse what is not data, such as a function."""
    if isinstance(value, dict):
        return {key: _arrays_of(entry) for key, entry in value.items()}
    if isinstance(value, _Array):
        return [*map(_arrays_of, value.values)] if isinstance(value.values, list) else value.values
    if isinstance(value, (list, tuple)):
        return [*map(_arrays_of, value)]
    if value is not None and not isinstance(value, (str, bytes, int, float)):
        raise ValueError(f"it has a {type(value).__name__}")
    return value


# Parquet files


def read_parquet(files: Sequence[Path], label: str, classes: int) -> tuple[Split, bool]:
    """Read one split from files or the cache; also return whether any image is a JPEG.

    Each file has a column ``img`` or ``image`` of {bytes, path}, and a column of labels.
    """
    key = cache.sha256_of(files, start=label)
    cached = cache.load(key)
    if cached is None:
        parts = [_decoded(file, label, classes) for file in files]
        cached = {
            "images": torch.cat([images for images, _, _ in parts]),
            "labels": torch.cat([labels for _, labels, _ in parts]),
            "jpeg": torch.tensor(any(jpeg for _, _, jpeg in parts)),
        }
        cache.save(key, cached)
    return Split(images=cached["images"], labels=cached["labels"]), bool(cached["jpeg"])


def _decoded(file: Path, label: str, classes: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Decode one file: images (N, 3, 32, 32) uint8, labels (N,) int64, whether any is a JPEG."""
    encoded, labels = _columns(file, label)
    if not encoded:
        raise LayerticketError(f"{file.name!r} holds no images. Download the file again.")
    check_labels(labels, classes, repr(file.name))
    # One thread, since two and four threads were not faster on two cores.
    raw = b"".join(_pixels(file, i, image) for i, image in enumerate(encoded))
    images = np.frombuffer(raw, np.uint8).reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    jpeg = any(image.startswith(b"\xff\xd8\xff") for image in encoded)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels), jpeg


def _columns(file: Path, label: str) -> tuple[list[bytes], Array]:
    """Read the encoded images and the labels (N,) of one file."""
    why = "reading parquet files needs pyarrow"
    pyarrow, parquet = (
        need(name, extra="cifar", why=why) for name in ("pyarrow", "pyarrow.parquet")
    )
    try:
        check_regular(file)
        source = parquet.ParquetFile(file)
        names = source.schema_arrow.names
        image = next((name for name in ("img", "image") if name in names), None)
        if image is None or label not in names:
            raise LayerticketError(
                f"{file.name!r} has the columns {', '.join(names)}; it needs {label!r} and "
                "'img' or 'image'. Is this another data set?"
            )
        table = source.read(columns=[image, label])
    except (pyarrow.ArrowException, OSError) as err:
        raise LayerticketError(
            f"{file.name!r} cannot be read as parquet ({err}). Download the file again."
        ) from err
    kind, label_kind = table.schema.field(image).type, table.schema.field(label).type
    holds_bytes = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not holds_bytes or not pyarrow.types.is_integer(label_kind):
        raise LayerticketError(
            f"{file.name!r} has {image!r} of type {kind} and {label!r} of type {label_kind}; they "
            "must be a struct with the field 'bytes', and whole numbers."
        )
    encoded = [row for chunk in table[image].chunks for row in chunk.field("bytes").to_pylist()]
    if table[label].null_count or not all(isinstance(row, bytes) for row in encoded):
        raise LayerticketError(f"{file.name!r} has empty entries. Download the file again.")
    return encoded, table[label].to_numpy().astype(np.int64)


def _pixels(file: Path, row: int, encoded: bytes) -> bytes:
    """Decode one image to 32x32x3 bytes."""
    library = pillow()
    try:
        with library.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            if image.size == (SIDE, SIDE):
                return bytes((image if image.mode == "RGB" else image.convert("RGB")).tobytes())
            problem = f"is {image.width}x{image.height} pixels"
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as err:
        problem = f"cannot be decoded ({err})"
    raise LayerticketError(
        f"image {row} of {file.name!r} {problem}; it must be a complete PNG or JPEG of "
        f"{SIDE}x{SIDE} pixels. Download the file again."
    )
