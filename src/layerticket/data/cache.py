"""Results cached between runs in the user's cache folder; without it they are computed again."""

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

FORMAT = 2  # increased when the same source files give other tensors
MIN_AGE = 2.0  # seconds; a newer file may change again without a new modification time
log = logging.getLogger(__name__)
_known: dict[str, str] = {}


def folder() -> Path:
    """Return the cache folder of this package; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layerticket"


def load(key: str) -> dict[str, Tensor] | None:
    """Return cached tensors, or None if there are none; a damaged file raises a warning."""
    path = _tensors(key)
    if not path.is_file():
        return None
    try:
        return load_tensors(path)[0]
    except LayerticketError as err:
        log.debug("%s", err)
    warnings.warn(f"the cached file {path.name} is damaged; it is replaced.", stacklevel=2)
    return None


def save(key: str, tensors: dict[str, Tensor]) -> None:
    """Cache tensors."""
    try:
        save_tensors(_tensors(key), tensors, {})
    except OSError as err:
        log.warning("images cannot be cached: %s", err)


def _tensors(key: str) -> Path:
    return folder() / "decoded" / f"{key}-{FORMAT}.safetensors"


def cached_by_files(what: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return a text computed from files, cached by their path, size and modification time.

    Args:
        what: What the text is; texts for different purposes are cached separately.
        files: All files that it depends on.
        compute: Computes the text.
    """
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = digest([what, *states])
    path = folder() / "digests" / f"{key}.json"
    if key not in _known:
        try:
            _known[key] = str(read_json(path)["digest"])
        except (LayerticketError, KeyError):
            found = compute()
            if any(time.time() - at / 1e9 < MIN_AGE for _, _, at in states):
                return found
            _known[key] = found
            try:
                write_json(path, {"digest": found, "of": what, "files": states[:100]})
            except OSError as err:
                log.warning("result %r cannot be cached: %s", what, err)
    return _known[key]


def sha256_of(files: Sequence[Path], *, start: str) -> str:
    """Return the SHA-256 of a text and the contents of files, in hexadecimal; cached by files."""

    def compute() -> str:
        sha = hashlib.sha256(start.encode())
        for file in files:
            with file.open("rb") as stream:
                while part := stream.read(1 << 20):
                    sha.update(part)
        return sha.hexdigest()

    return cached_by_files(f"sha256 {start}", files, compute)
