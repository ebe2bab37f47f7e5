"""Files that readers see whole or not at all, JSON in one spelling, and one writer per folder."""

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
"""A part-written file of another host is left over after a day; its writer cannot be asked."""


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
    return _spelled(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """SHA-256 of a JSON value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _spelled(value: object, **how: Any) -> str:  # noqa: ANN401 - options of json.dumps
    try:
        _check_keys(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, **how)
        text.encode()  # a lone surrogate, as of a name of a file that is no UTF-8, has no bytes
        return text
    except LayerticketError:
        raise
    except (TypeError, ValueError, RecursionError) as err:
        raise LayerticketError(
            f"a value cannot be written as JSON: {err}. Use texts, finite numbers and lists."
        ) from err


def _check_keys(value: object) -> None:
    """Refuse keys that JSON would silently turn into texts."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise LayerticketError(f"a JSON key is {odd[0]!r}, but keys must be texts.")
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_keys(part)


def write_json(path: Path, value: object) -> None:
    """Write a JSON value as text that people can read, in the order of its keys.

    Raises:
        LayerticketError: If the value is no JSON value, or holds a number that is not finite.
    """
    write_atomically(path, _spelled(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        LayerticketError: If the file is missing, unreadable or holds something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_no_number)
        if "\\u" in text:  # half a letter, spelled as an escape, can be read but not written
            _spelled(value).encode()
    except (OSError, ValueError, RecursionError) as err:
        raise LayerticketError(
            f"{path} cannot be read as JSON ({err}). Check the path; delete a damaged folder."
        ) from err
    if not isinstance(value, dict):
        raise LayerticketError(f"{path} holds a {type(value).__name__}, but must hold an object.")
    return value


def check_folder(path: Path) -> Path:
    """Refuse a path that can be no folder of ours; nothing is made.

    Args:
        path: Folder to be written into, there or not.

    Returns:
        The path.

    Raises:
        LayerticketError: If something on the way is no folder, or may not be written.
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
            raise LayerticketError(f"{place} is no folder{inside}. Choose another folder.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise LayerticketError(f"{place} may not be written. Choose another folder.")
        break
    return path


def _no_number(word: str) -> None:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(f"{word} is no JSON")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that readers see whole or not at all, also after a power cut.

    Missing folders are made. A symbolic link in the file's place is replaced, not followed.
    Part-written files that a killed process left behind for this path are deleted.

    Args:
        path: File to write or replace.
        content: All of it; text is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content.encode() if isinstance(content, str) else content, durable=True)


def _replace(path: Path, content: bytes, *, durable: bool) -> None:
    """Write beside the file and rename; durable means that a power cut cannot undo it."""
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
            os.fsync(folder)  # the new name itself is on disk only now
        finally:
            os.close(folder)


def _clear_leftovers(folder: Path) -> None:
    """Delete part-written files of a folder whose writer has died, whatever they were to become."""
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
    """Remove files that we wrote from a folder, and the folder when nothing is left in it.

    Args:
        folder: Folder, there or not; what lies in folders inside it stays.
        patterns: Names of our files, such as ``*.safetensors``; locks and part-written files of
            dead writers go too.

    Returns:
        Names of what stays, since it is somebody else's.
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


def check_regular(path: Path) -> None:
    """Refuse to read what is there but no regular file: a pipe would make the reader wait for ever.

    Raises:
        LayerticketError: Saying so; a file that is missing is left to whoever opens it.
    """
    if path.exists() and not path.is_file():
        raise LayerticketError(f"{path} is no regular file. Take it away, or give another.")


def open_to_append(path: Path) -> BinaryIO:
    """Open a log to append to, made if missing: a regular file, never through a symbolic link.

    Raises:
        LayerticketError: If something else stands in its place.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)  # not every system has each
    _check_regular(path)
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as err:
        raise LayerticketError(f"{path} cannot be written ({err}). Move it away.") from err
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise LayerticketError(f"{path} is no regular file. Move it away.")
    os.set_blocking(handle, True)  # not to wait for a pipe was for opening alone
    return os.fdopen(handle, "ab")


def _check_regular(path: Path) -> None:
    """Refuse a symbolic link, a pipe or a folder where a file of ours is to be."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise LayerticketError(
            f"{path} is no regular file, and nothing is written through links. Move it away."
        )


@dataclass(frozen=True)
class Process:
    """A process, so that another one can tell later whether it still runs."""

    pid: int
    host: str
    machine: str
    """What process numbers are counted by: this start of the system, and its container."""
    started: str
    """When it started, in the system's own unit, since numbers are used again; "" if unknown."""

    @classmethod
    def current(cls) -> "Process":
        """Describe this process."""
        started = (_state(os.getpid()) or ("", ""))[1]
        return cls(os.getpid(), socket.gethostname(), _machine(), started)

    @property
    def key(self) -> str:
        """The same as a part of a file name: machine, number, start."""
        machine = hashlib.sha256(f"{self.host} {self.machine}".encode()).hexdigest()[:12]
        return f"{machine}-{self.pid}-{self.started}"

    def lives(self) -> bool:
        """Whether it still runs, as far as that can be asked from here; see `in_use`."""
        here = Process.current()
        if (self.host, self.machine) == (here.host, here.machine):
            return _lives(self.pid, self.started)
        restarted = self.machine.partition(" ")[0] != here.machine.partition(" ")[0]
        return not (self.host == here.host and restarted)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@functools.cache
def _machine() -> str:
    """Name the start of the system and the set of process numbers; "" where Linux does not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, str] | None:
    """State and time of start of a process, as Linux tells them; None where it does not."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError):
        return None


def _lives(pid: int, started: str) -> bool:
    """Whether a process of this machine runs; one that cannot be asked is taken to run."""
    state = _state(pid)
    if state is not None:
        return state[0] not in "ZX" and started in ("", state[1])  # Z: dead, its parent asleep
    if os.name != "posix":
        return True  # os.kill would not ask but end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep a folder to ourselves; made if missing.

    The operating system holds the lock (the file ``.lock``, which stays), so it ends with the
    process, however that dies. While it is held, ``.holder`` names the process; see `in_use`.

    Args:
        folder: Folder that only one process may write.

    Yields:
        Nothing; the folder is ours inside the with statement.

    Raises:
        FolderInUse: If another process (or another use in this one) holds the folder.
        LayerticketError: If the lock is no regular file.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    _check_regular(folder / _LOCK)
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
    """Whether a process holds a folder with `exclusive`, found out by reading alone.

    Looking takes no lock, so it is never in the way of a writer. ``.holder`` says who holds the
    folder. A holder of this host is asked for: it must run, and must have started when the file
    says (process numbers are used again). A process killed without warning leaves the file
    behind, and counts as gone. One of another host, or of a container with process numbers of its
    own, cannot be asked for and is believed until the next writer takes the folder. So this is
    for showing; a writer decides by `exclusive`, which always knows.

    Args:
        folder: Any folder, there or not; nothing in it is changed.
    """
    holder = _holder(folder)
    return holder is not None and holder.lives()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder, for one that would write it: the lock itself decides.

    Where the holder cannot be asked, as after a node of a cluster has died, the lock is tried.
    """
    holder, here = _holder(folder), Process.current()
    if holder is None or not holder.lives():
        return False
    if (holder.host, holder.machine) == (here.host, here.machine):
        return True
    from filelock import FileLock, Timeout

    _check_regular(folder / _LOCK)
    lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def holder_of(folder: Path) -> str | None:
    """Name the process that holds a folder, as far as `in_use` can tell: "pid 7 on host"."""
    holder = _holder(folder)
    return str(holder) if holder is not None and holder.lives() else None


def _holder(folder: Path) -> Process | None:
    """Read who holds a folder, or did so when it was killed; None if nobody or unreadable."""
    path = folder / _HOLDER
    try:
        return Process(**json.loads(path.read_text())) if path.is_file() else None
    except (OSError, ValueError, TypeError):
        return None
