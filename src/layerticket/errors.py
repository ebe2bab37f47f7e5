"""The errors of this package, and the two that are built often: unknown name, missing package."""

import contextlib
import difflib
import errno
import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

ECHO = "said by process 0 too"
"""Note on an exception that every process of a training raises, so that it is printed once."""


class LayerticketError(ValueError):
    """What the caller gave is wrong; the message says what to do (exit code 2)."""


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
"""What stands in a message of PyTorch, and what to do then."""


@contextlib.contextmanager
def raised_by(what: object, doing: str) -> Iterator[None]:
    """Turn what the caller's network or loss raises inside into a `ModelError`; its cause is kept.

    Errors of ours, running out of memory, and interrupts pass unchanged.

    Args:
        what: The network or the loss that is called.
        doing: What it was called for, such as "when called on the inputs".

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
        advice = next((do for mark, do in WAYS_OUT if re.search(mark, str(err))), "")
        text = f"{name} raised {type(err).__name__} {doing}: {said}"
        raise ModelError(f"{text.rstrip('.')}. {advice}".strip()) from err


def short(err: BaseException) -> str:
    """Return the first line of what an error says, at most 200 letters of it."""
    line = next((part.strip() for part in str(err).splitlines() if part.strip()), "no message")
    return line if len(line) <= 200 else f"{line[:197]}..."


def in_words(err: BaseException) -> str:
    """Say in one line what an exception is about; errors of the system are spelled out.

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
                f"{where}there is no space left on the disk. Free some and give the same command "
                "again: what was finished stays."
            )
        return f"{where}{err.strerror}."
    if isinstance(err, OUR_ERRORS):
        return said
    return f"{type(err).__name__}: {said}" if said else type(err).__name__


def unknown_name(kind: str, given: str, available: Iterable[str]) -> LayerticketError:
    """Build the error for a name that is not in a list, suggesting the nearest one.

    Example:
        >>> str(unknown_name("criterion", "grap", ["snip", "grasp"]))
        "criterion 'grap' is not known. Did you mean 'grasp'? Available: grasp, snip."
    """
    names = sorted(available)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return LayerticketError(f"{kind} {given!r} is not known.{hint} Available: {', '.join(names)}.")


def need(module: str, *, extra: str = "", why: str = "") -> Any:  # noqa: ANN401 - a module
    """Import an optional module, or raise an error that says how to install it.

    Args:
        module: What to import, such as ``ray`` or ``PIL.Image``.
        extra: The extra of layerticket that brings it; without one, the package's own name.
        why: What the message says before the command, such as "reading images needs Pillow".

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
            raise  # the package is there, and lacks something of its own
        command = f'"layerticket[{extra}]"' if extra else package
        raise LayerticketError(
            f"{why or f'{package} is not installed'}: pip install {command}"
        ) from err
