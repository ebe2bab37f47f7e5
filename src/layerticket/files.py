"""Write files atomically, JSON in a canonical form, and lock folders for one writer."""

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from layerticket.errors import LayerticketError, in_words

_LOCK, _HOLDER, _PARTIAL = ".lock", ".holder", ".partial"
_ABANDONED_SECONDS = 86_400.0
"""Age at which a temporary file of another host counts as abandoned: one day."""


class FolderInUse(LayerticketError):
    """Another process writes to the folder, until it ends."""


def canonical_json(value: object) -> str:
    """Return a JSON value as canonical text, equal for equal values.

    Args:
        value: Mappings with text keys, lists, texts, finite numbers, booleans, None.

    Returns:
        JSON text with sorted keys and no spaces.

    Raises:
        LayerticketError: If the value is not a JSON value, or has a number that is not finite.

    Example:
        >>> canonical_json({"b": [1, 0.5], "a": None})
        '{"a":null,"b":[1,0.5]}'
    """
    return _json_text(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _json_text(value: object, **how: Any) -> str:  # noqa: ANN401 - options of json.dumps
    try:
        _check_keys(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, **how)
        text.encode()  # fails for a lone surrogate, as in a file name that is not UTF-8
        return text
    except LayerticketError:
        raise
    except (TypeError, ValueError, RecursionError) as err:
        raise LayerticketError(
            f"a value cannot be written as JSON: {err}. Use texts, finite numbers and lists."
        ) from err


def _check_keys(value: object) -> None:
    """Raise for keys that JSON would silently convert to texts."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise LayerticketError(f"a JSON key is {odd[0]!r}, but keys must be texts.")
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_keys(part)


def write_json(path: Path, value: object) -> None:
    """Write a JSON value as readable text, in the order of its keys.

    Raises:
        LayerticketError: If the value is not a JSON value, or has a number that is not finite.
    """
    write_atomically(path, _json_text(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with one object.

    Raises:
        LayerticketError: If the file is missing, unreadable or not an object.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=no_constant)
        if "\\u" in text:  # an escaped lone surrogate can be read but not written
            _json_text(value).encode()
    except (OSError, ValueError, RecursionError) as err:
        raise LayerticketError(
            f"{path} cannot be read as JSON ({err}). Check the path; delete a damaged folder."
        ) from err
    if not isinstance(value, dict):
        raise LayerticketError(f"{path} has a JSON {type(value).__name__}; it must be an object.")
    return value


def check_folder(path: Path) -> Path:
    """Raise if a path cannot be used as a folder; nothing is created.

    Args:
        path: Folder to write to, which may be missing.

    Returns:
        The path.

    Raises:
        LayerticketError: If a part of the path is not a folder, or cannot be written.
    """
    for place in (path, *path.absolute().parents):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as err:  # too long, looped, or with a null byte
            raise LayerticketError(f"{in_words(err)} Choose another folder.") from err
        if not stat.S_ISDIR(found.st_mode):
            inside = "" if place == path else f", so nothing can be written into {path}"
            raise LayerticketError(f"{place} is not a folder{inside}. Choose another folder.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise LayerticketError(f"{place} is not writable. Choose another folder.")
        break
    return path


def no_constant(word: str) -> None:
    """Raise for NaN and Infinity, which are not valid JSON; for `parse_constant` of json.loads."""
    raise ValueError(f"{word} is not valid JSON")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: readers see all of it or nothing, also after a power cut.

    Missing folders are created. A symbolic link at the path is replaced, not followed. Temporary
    files that a killed process left for this path are deleted.

    Args:
        path: File to write or replace.
        content: All of it; text is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content.encode() if isinstance(content, str) else content, durable=True)


def _replace(path: Path, content: bytes, *, durable: bool) -> None:
    """Write a temporary file and rename it; durable means that a power cut cannot undo it."""
    _clear_leftovers(path.parent)
    prefix = f".{path.name}.{Process.current().key}-"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.chmod(name, 0o644)
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if durable and os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # only now is the new name on disk
        finally:
            os.close(folder)


def _clear_leftovers(folder: Path) -> None:
    """Delete temporary files of a folder whose writer has died."""
    here = Process.current()
    for name in os.listdir(folder):
        if not (name.startswith(".") and name.endswith(_PARTIAL)):
            continue
        left = folder / name
        with contextlib.suppress(OSError, ValueError):
            written = name.removesuffix(_PARTIAL).rpartition(".")[2]
            machine, pid, started, _ = written.split("-", 3)
            if machine == here.key.partition("-")[0]:
                over = not _lives(int(pid), started)
            else:
                over = time.time() - left.lstat().st_mtime > _ABANDONED_SECONDS
            if over:
                left.unlink()


def remove_written(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Remove files that we wrote from a folder, and then the folder if it is empty.

    Args:
        folder: Folder, which may be missing; folders inside it stay.
        patterns: Names of our files, such as ``*.safetensors``; locks and temporary files of
            ended processes are removed too.

    Returns:
        Names of the remaining entries, which we did not write.
    """
    if not folder.is_dir() or folder.is_symlink():
        return []
    _clear_leftovers(folder)
    ours = (_LOCK, _HOLDER, *patterns)
    for path in list(folder.iterdir()):
        file = path.is_symlink() or not path.is_dir()
        if file and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in ours):
            path.unlink(missing_ok=True)
    left = sorted(path.name for path in folder.iterdir())
    if not left:
        folder.rmdir()
    return left


def check_regular(path: Path, *, follow_links: bool = True) -> None:
    """Raise if a path is a folder or special file: a pipe, for example, would block the reader.

    Args:
        path: File, which may be missing.
        follow_links: Whether a symbolic link to a regular file is allowed.

    Raises:
        LayerticketError: If the path exists but is not a regular file.
    """
    if (path.exists() and not path.is_file()) or (path.is_symlink() and not follow_links):
        links = "" if follow_links else " (links are not followed)"
        raise LayerticketError(
            f"{path} is not a regular file{links}. Move it away, or give another path."
        )


def open_to_append(path: Path) -> BinaryIO:
    """Open a log for appending; create it if missing; never follow a symbolic link.

    Raises:
        LayerticketError: If the path exists but is not a regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)  # not on every system
    check_regular(path, follow_links=False)
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as err:
        raise LayerticketError(f"{path} cannot be written ({err}). Move it away.") from err
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise LayerticketError(f"{path} is not a regular file. Move it away.")
    os.set_blocking(handle, True)  # non-blocking was for opening only
    return os.fdopen(handle, "ab")


@dataclass(frozen=True)
class Process:
    """A process, described so that another process can check later whether it still runs."""

    pid: int
    host: str
    machine: str
    """Scope of process numbers: this boot of the system, and its container."""
    started: str
    """Start time in the system's unit, since process numbers are reused; "" if unknown."""

    @classmethod
    def current(cls) -> "Process":
        """Return this process."""
        started = (_state(os.getpid()) or ("", ""))[1]
        return cls(os.getpid(), socket.gethostname(), _machine(), started)

    @property
    def key(self) -> str:
        """The process as part of a file name: machine, number, start time."""
        machine = hashlib.sha256(f"{self.host} {self.machine}".encode()).hexdigest()[:12]
        return f"{machine}-{self.pid}-{self.started}"

    def lives(self) -> bool:
        """Whether it still runs, as far as can be checked from here; see `in_use`."""
        here = Process.current()
        if (self.host, self.machine) == (here.host, here.machine):
            return _lives(self.pid, self.started)
        restarted = self.machine.partition(" ")[0] != here.machine.partition(" ")[0]
        return not (self.host == here.host and restarted)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@functools.cache
def _machine() -> str:
    """Return the boot id and the namespace of process numbers; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, str] | None:
    """Return state and start time of a process; None if not on Linux."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError):
        return None


def _lives(pid: int, started: str) -> bool:
    """Whether a process of this machine runs; if this cannot be checked, it is assumed."""
    state = _state(pid)
    if state is not None:
        return state[0] not in "ZX" and started in ("", state[1])  # Z: dead, not yet reaped
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if missing, inside a with statement.

    The operating system holds the lock (on the file ``.lock``, which stays), so it is released when
    the process ends for any reason. While locked, ``.holder`` names the process; see `in_use`.

    Args:
        folder: Folder that only one process may write to.

    Yields:
        Nothing.

    Raises:
        FolderInUse: If another process (or another use in this one) holds the folder.
        LayerticketError: If the lock is not a regular file.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    check_regular(folder / _LOCK, follow_links=False)
    lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as err:
        raise FolderInUse(
            f"{folder} is being written by another process ({holder_of(folder) or 'not yet named'})"
            ". Wait until it ends, or choose another folder."
        ) from err
    try:
        named = json.dumps(asdict(Process.current())).encode()
        _replace(folder / _HOLDER, named, durable=False)
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a process has locked a folder with `exclusive`, as ``.holder`` says.

    This takes no lock, so it never blocks a writer. A process of this host counts if it still runs
    with the start time in the file (process numbers are reused). A process of another host or
    container cannot be checked and is assumed to run until the next writer locks the folder. So use
    this for display only; a writer must use `exclusive`.

    Args:
        folder: Any folder, which may be missing; nothing in it is changed.
    """
    holder = _holder(folder)
    return holder is not None and holder.lives()


def is_held(folder: Path) -> bool:
    """Whether a process has locked a folder, for a caller that wants to write to it.

    If the holder cannot be checked, for example after a node of a cluster has died, try the lock.
    """
    holder, here = _holder(folder), Process.current()
    if holder is None or not holder.lives():
        return False
    if (holder.host, holder.machine) == (here.host, here.machine):
        return True
    from filelock import FileLock, Timeout

    check_regular(folder / _LOCK, follow_links=False)
    lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def holder_of(folder: Path) -> str | None:
    """Return the process that has locked a folder, as known to `in_use`: "pid 7 on host"."""
    holder = _holder(folder)
    return str(holder) if holder is not None and holder.lives() else None


def _holder(folder: Path) -> Process | None:
    """Return the process in ``.holder``, running or killed; None if missing or unreadable."""
    path = folder / _HOLDER
    try:
        return Process(**json.loads(path.read_text())) if path.is_file() else None
    except (OSError, ValueError, TypeError):
        return None
