"""What is kept between runs in the user's cache folder; a failure here costs time, never work."""

import hashlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from layerticket.errors import LayerticketError
from layerticket.files import digest, read_json, write_json
from layerticket.tensors import load_tensors, save_tensors

FORMAT = 2  # raise it when the same source files should give other tensors
SETTLED_SECONDS = 2.0  # a file written this lately may change again within one tick of its clock
log = logging.getLogger(__name__)
_known: dict[str, str] = {}


def folder() -> Path:
    """Return the folder for what this package keeps between runs; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layerticket"


def recall(key: str) -> dict[str, Tensor] | None:
    """Return what was kept under `key`, or None; a damaged file is reported with a warning."""
    path = _tensors(key)
    if not path.is_file():
        return None
    try:
        return load_tensors(path)[0]
    except LayerticketError as err:
        log.debug("%s", err)
    warnings.warn(f"the cached file {path.name} is damaged; it is made again.", stacklevel=2)
    return None


def keep(key: str, tensors: dict[str, Tensor]) -> None:
    """Keep tensors under `key`."""
    try:
        save_tensors(_tensors(key), tensors, {})
    except OSError as err:
        log.warning("decoded images are not kept for the next run: %s", err)


def _tensors(key: str) -> Path:
    return folder() / "decoded" / f"{key}-{FORMAT}.safetensors"


def known_by_files(what: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return a digest of files, computed once and then known by their path, size and time.

    Args:
        what: What the digest is of; another purpose has another digest.
        files: All that it depends on.
        compute: Reads the files.
    """
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = digest([what, *states])
    path = folder() / "digests" / f"{key}.json"
    if key not in _known:
        try:
            _known[key] = str(read_json(path)["digest"])
        except (LayerticketError, KeyError):
            found = compute()
            if any(time.time() - at / 1e9 < SETTLED_SECONDS for _, _, at in states):
                return found
            _known[key] = found
            try:
                write_json(path, {"digest": found, "of": what, "files": states[:100]})
            except OSError as err:
                log.warning("the digest of %s is not kept for the next run: %s", what, err)
    return _known[key]


def sha256_of(files: Sequence[Path], *, start: str) -> str:
    """SHA-256 over a text and the contents of files, in hexadecimal; known by path, size, time."""

    def compute() -> str:
        sha = hashlib.sha256(start.encode())
        for file in files:
            with file.open("rb") as stream:
                while part := stream.read(1 << 20):
                    sha.update(part)
        return sha.hexdigest()

    return known_by_files(f"sha256 {start}", files, compute)
