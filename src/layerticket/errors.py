"""The exceptions of this package, helpers for common messages, and imports that may fail."""

import contextlib
import difflib
import errno
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

ECHO = "also raised by process 0"
"""Note on an exception that every process of a training raises, so that it is printed once."""


class LayerticketError(ValueError):
    """An argument is wrong; the message says what to do (exit code 2)."""


class ModelError(LayerticketError):
    """The caller's network or loss raised an error when it was called (exit code 1)."""


class TrainingError(RuntimeError):
    """Training failed while running (exit code 1)."""


OUR_ERRORS = (LayerticketError, TrainingError)
"""Errors whose message is meant for the user and says what to do."""


WAYS_OUT = (
    (
        "is not implemented|double backward|differentiate twice",
        "A part of the network has no second derivative; GraSP takes one. Use criterion 'snip', or "
        "replace that part.",
    ),
    (
        "use_reentrant=True",
        "Set use_reentrant=False in torch.utils.checkpoint; scores take gradients of chosen "
        "weights, which the other form does not support.",
    ),
    (
        "more than 1 value per channel",
        "Batch normalization over one value has no spread. Give more examples or larger images, or "
        "normalization='running'.",
    ),
)
"""Advice for messages of PyTorch: pattern, advice."""


@contextlib.contextmanager
def raised_by(what: object, doing: str, advise: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn errors of the caller's network or loss into a `ModelError` with the same cause.

    Our own errors, out of memory and interrupts pass unchanged.

    Args:
        what: The network or loss that is called.
        doing: When it was called, such as "when called on the inputs".
        advise: Says what to do, after an error; by default what is known of messages of PyTorch.

    Example:
        >>> with raised_by(len, "when called"):
        ...     {}["key"]
        Traceback (most recent call last):
        layerticket.errors.ModelError: len raised KeyError when called: 'key'.
    """
    try:
        yield
    except (LayerticketError, MemoryError):
        raise
    except Exception as err:
        if type(err).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(err):
            raise
        name = getattr(what, "__name__", type(what).__name__)
        said = short(err)
        known = (do for mark, do in WAYS_OUT if re.search(mark, str(err)))
        advice = advise() or next(known, "")
        text = f"{name} raised {type(err).__name__} {doing}: {said}"
        raise ModelError(f"{text.rstrip('.')}. {advice}".strip()) from err


def short(err: BaseException) -> str:
    """Return the first line of an error message, at most 200 characters."""
    line = next((part.strip() for part in str(err).splitlines() if part.strip()), "no message")
    return line if len(line) <= 200 else f"{line[:197]}..."


def in_words(err: BaseException) -> str:
    """Return the message of an exception in one line, with clear words for system errors.

    Example:
        >>> in_words(FileExistsError(17, "File exists", "/etc/hostname"))
        '/etc/hostname: File exists.'
        >>> in_words(KeyError("epochs"))
        "KeyError: 'epochs'"
    """
    said = " ".join(str(err).split())
    if isinstance(err, OSError) and err.strerror:
        where = f"{err.filename}: " if err.filename is not None else ""
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"{where}there is no space left on the disk. Free some space and repeat the "
                "command: finished work is kept."
            )
        return f"{where}{err.strerror}."
    if isinstance(err, OUR_ERRORS):
        return said
    return f"{type(err).__name__}: {said}" if said else type(err).__name__


def unknown_name(kind: str, given: str, available: Iterable[str]) -> LayerticketError:
    """Return the error for an unknown name, with the nearest known one.

    Example:
        >>> str(unknown_name("criterion", "grap", ["snip", "grasp"]))
        "criterion 'grap' is not known. Did you mean 'grasp'? Available: grasp, snip."
    """
    names = sorted(available)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return LayerticketError(f"{kind} {given!r} is not known.{hint} Available: {', '.join(names)}.")


def need(module: str, *, extra: str = "", why: str = "") -> Any:  # noqa: ANN401 - a module
    """Import an optional module; if it is missing, raise an error that says how to install it.

    Args:
        module: Module to import, such as ``ray`` or ``PIL.Image``.
        extra: The extra of layerticket that installs it; by default the package itself.
        why: Beginning of the message, such as "reading images needs Pillow".

    Raises:
        LayerticketError: If the package is not installed.

    Example:
        >>> need("no_such_package", extra="figures", why="pictures need it")
        Traceback (most recent call last):
        layerticket.errors.LayerticketError: pictures need it: pip install "layerticket[figures]"
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] != package:
            raise  # the package is installed but lacks a dependency
        command = f'"layerticket[{extra}]"' if extra else package
        raise LayerticketError(
            f"{why or f'{package} is not installed'}: pip install {command}"
        ) from err


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """Put the current folder first on the import path, as ``python -m`` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def imported(module: str, what: str, *, hint: str = "") -> ModuleType:
    """Import a module of the user's; the current folder is searched too.

    Args:
        module: Its dotted name.
        what: What names it, for the message, such as "data 'mine:images'".
        hint: End of the message.

    Raises:
        LayerticketError: If there is no such module; an error inside it passes unchanged.
    """
    with current_folder_importable():
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as err:
            if not f"{module}.".startswith(f"{err.name}."):
                raise
            raise LayerticketError(
                f"{what}: there is no module {err.name!r}. Install it, or run from the folder that "
                f"contains it.{hint}"
            ) from err
