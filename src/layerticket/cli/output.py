"""How every verb speaks: one JSON object or text on stdout, all else on stderr."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from layerticket.errors import ECHO


def say(record: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's answer: the record as one JSON object, or the text made from it."""
    print(json.dumps(record, allow_nan=False) if as_json else text.rstrip("\n"))


def news(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def complain(what: object, code: int) -> int:
    """Print an error as one line on stderr and return the exit code; an echo is not printed."""
    if ECHO in getattr(what, "__notes__", ()):
        return code
    news(f"layerticket: {' '.join(str(what).split()) or type(what).__name__}")
    return code
