"""The errors of this package, and the two that are built often: unknown name, missing package."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

ECHO = "said by process 0 too"
"""Note on an exception that every process of a training raises, so that it is printed once."""


class LayerticketError(ValueError):
    """What the caller gave is wrong; the message says what to do (exit code 2)."""


class ModelError(LayerticketError):
    """The caller's network raised an error when it was called (exit code 1)."""


class TrainingError(RuntimeError):
    """Training failed while running (exit code 1)."""


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
