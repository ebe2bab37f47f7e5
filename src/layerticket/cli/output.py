"""Output of every verb: one JSON object or text on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from layerticket.errors import ECHO, TrainingError


def emit(record: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of a verb: its record as one JSON object, or the text."""
    print(json.dumps(record, allow_nan=False) if as_json else text.rstrip("\n"))


LONGEST = 2000  # characters in one line


class StudyFailedError(TrainingError):
    """Some runs of a study failed; the others are done."""


def log(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def fail(what: object, code: int) -> int:
    """Print an error as one line on stderr, unless process 0 does; return the exit code."""
    if ECHO in getattr(what, "__notes__", ()):
        return code
    text = " ".join(str(what).split()) or type(what).__name__
    if len(text) > LONGEST:  # a message may contain a very long value
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    log(f"layerticket: {text}")
    return code
