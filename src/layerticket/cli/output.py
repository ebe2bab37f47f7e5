"""How every verb speaks: one JSON object or text on stdout, all else on stderr."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from layerticket.errors import ECHO


def say(record: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's answer: the record as one JSON object, or the text made from it."""
    print(json.dumps(record, allow_nan=False) if as_json else text.rstrip("\n"))


def energy_text(kwh: float | None, kg: float | None, before: str = ", ") -> str:
    """Tell energy and carbon after what stands before; nothing if they were not measured."""
    energy = "" if kwh is None else f"{before}{1000 * kwh:.4g} Wh"
    return energy if kg is None else f"{energy}, {1000 * kg:.4g} g CO2e"


def forecast_text(record: Mapping[str, Any] | None) -> str:
    """Tell a forecast in lines, the first after a line break; nothing if there is none."""
    if record is None:
        return ""
    lines = [f"\nForecast for {record['epochs']} epochs ({record['steps']:,} steps):"]
    lines += [
        f"{name}: {one['train_seconds']:.4g} s of training, "
        f"{one['validation_seconds']:.3g} s of validation"
        f"{energy_text(one['energy_kwh'], one['co2_kg'])}"
        for name in ("dense", "ticket")
        if (one := record[name]) is not None
    ]
    if (saving := record["saving"]) is not None:
        speedup = saving["speedup"]
        interval = (
            f" ({speedup['low']:.2f} to {speedup['high']:.2f})"
            if speedup["low"] is not None
            else ""
        )
        share = saving["realized_share"]
        realized = "" if share is None else f"; {share:.0%} of the gain in MACs is realized"
        lines.append(
            f"The ticket trains {speedup['value']:.2f}x as fast{interval}, by its MACs it would be "
            f"{saving['theoretical_speedup']:.2f}x{realized}."
        )
    return "\n".join(lines)


def news(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def complain(what: object, code: int) -> int:
    """Print an error as one line on stderr and return the exit code; an echo is not printed."""
    if ECHO in getattr(what, "__notes__", ()):
        return code
    news(f"layerticket: {' '.join(str(what).split()) or type(what).__name__}")
    return code
