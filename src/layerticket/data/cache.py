"""Keeps tensors in the user's cache folder; whatever goes wrong here costs time, never the work."""

import logging
import os
import tempfile
import warnings
import zlib
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

FORMAT = 1  # raise it when the same source files should give other tensors
CHECK = "crc32"  # name of the checksum among the tensors
log = logging.getLogger(__name__)


def folder() -> Path:
    """Return the folder for what this package keeps between runs; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layerticket"


def recall(key: str) -> dict[str, torch.Tensor] | None:
    """Return what was kept under `key`, or None; a damaged file is reported with a warning."""
    path = _path(key)
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    try:
        tensors = tensors_from_bytes(raw)
        check = tensors.pop(CHECK, None)
        if check is not None and torch.equal(check, torch.tensor(_checksum(tensors))):
            return tensors
    except safetensors.SafetensorError as err:
        log.debug("%s: %s", path, err)
    warnings.warn(f"the cached file {path.name} is damaged; it is made again.", stacklevel=2)
    return None


def keep(key: str, tensors: dict[str, torch.Tensor]) -> None:
    """Keep tensors under `key`; the file appears whole or not at all."""
    path = _path(key)
    content = tensors_to_bytes({**tensors, CHECK: torch.tensor(_checksum(tensors))})
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError as err:
        log.warning("decoded images are not kept for the next run: %s", err)
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _checksum(tensors: dict[str, torch.Tensor]) -> int:
    """Return the CRC-32 over the tensors' bytes: it finds accidents, not intent."""
    check = 0
    for name in sorted(tensors):
        check = zlib.crc32(tensors[name].contiguous().numpy().data, check)
    return check


def _path(key: str) -> Path:
    return folder() / "decoded" / f"{key}-{FORMAT}.safetensors"
