"""The failure of a training that was under way; refusals of bad input are `LayerticketError`."""

import difflib
from collections.abc import Iterable

ECHO = "said by process 0 too"
"""Note on an exception that every process of a training raises, so that it is printed once."""


class LayerticketError(ValueError):
    """Bad input or an impossible wish; the message says what to do."""


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


class TrainingError(RuntimeError):
    """Training failed while running; the command line exits with 1."""
