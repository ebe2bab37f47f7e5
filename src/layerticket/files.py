"""Files: one spelling per JSON value, whole files only, one writer per folder.

Enters: JSON values, texts, folders. Leaves: hashes, files, locks. Refuses to know what a run is.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError

_LOCK = ".lock"


class FolderInUse(LayerticketError):
    """Another process writes the folder; it is free again when that process ends."""


def canonical_json(value: object) -> str:
    """Spell a JSON value in the one way that equal values share.

    Args:
        value: Mappings with text keys, lists, texts, finite numbers, booleans, None.

    Returns:
        JSON text with sorted keys and no spaces.

    Raises:
        LayerticketError: If the value is no JSON value, or holds a number that is not finite.

    Example:
        >>> canonical_json({"b": [1, 0.5], "a": None})
        '{"a":null,"b":[1,0.5]}'
    """
    _check_keys(value)
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
        )
    except (TypeError, ValueError) as err:
        raise LayerticketError(
            f"a value cannot be written as JSON: {err}. Use texts, finite numbers and lists."
        ) from err


def _check_keys(value: object) -> None:
    """Refuse keys that JSON would turn into texts unasked."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise LayerticketError(f"a JSON key is {odd[0]!r}, but keys must be texts.")
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_keys(part)


def digest(value: object) -> str:
    """SHA-256 of a JSON value, as 64 hexadecimal digits.

    Args:
        value: As in `canonical_json`.

    Returns:
        The digest.

    Raises:
        LayerticketError: As in `canonical_json`.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that readers see whole or not at all; missing folders are made.

    Args:
        path: File to write or replace.
        content: All of it; text is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_bytes(path, content.encode() if isinstance(content, str) else content)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        LayerticketError: If the file is missing, unreadable or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise LayerticketError(
            f"{path} cannot be read as JSON ({err}). Check the path; delete a damaged folder."
        ) from err
    if not isinstance(value, dict):
        raise LayerticketError(f"{path} holds a {type(value).__name__}, but must hold an object.")
    return value


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep a folder to ourselves; made if missing.

    The operating system holds the lock, so it ends with the process, however that dies. The lock
    file itself stays: deleting it would let two processes lock two files of one name.

    Args:
        folder: Folder that only one process may write.

    Yields:
        Nothing; the folder is ours inside the with statement.

    Raises:
        FolderInUse: If another process (or another use in this one) holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "not yet named"
            raise FolderInUse(
                f"{folder} is being written by another process ({holder}). "
                "Wait until it ends, or choose another folder."
            ) from err
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)  # closing lets go of the lock


def in_use(folder: Path) -> bool:
    """Tell whether a process holds a folder with `exclusive` at this moment.

    Args:
        folder: Any folder, there or not; nothing in it is changed.
    """
    if not (folder / _LOCK).exists():
        return False
    handle = os.open(folder / _LOCK, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def holder_of(folder: Path) -> str | None:
    """Name the process that holds a folder, or held it last: "pid 7 on host"; None if none did."""
    path = folder / _LOCK
    text = path.read_text(errors="replace").strip() if path.exists() else ""
    return text or None


def _write_bytes(path: Path, content: bytes) -> None:
    """Replace a file so that readers see the old content or the new, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself is on disk only now
    finally:
        os.close(folder)
