"""How every verb speaks: one JSON object or text on stdout, all else on stderr."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from layerticket.errors import ECHO, TrainingError


def say(record: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's answer: the record as one JSON object, or the text made from it."""
    print(json.dumps(record, allow_nan=False) if as_json else text.rstrip("\n"))


LONGEST = 2000  # letters of one line


class StudyFailedError(TrainingError):
    """Some runs of a study failed; the others are done."""


def news(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def complain(what: object, code: int) -> int:
    """Print an error as one line on stderr and return the exit code; an echo is not printed."""
    if ECHO in getattr(what, "__notes__", ()):
        return code
    text = " ".join(str(what).split()) or type(what).__name__
    if len(text) > LONGEST:  # a number of 5,000 digits, given back by whoever refuses it
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    news(f"layerticket: {text}")
    return code
