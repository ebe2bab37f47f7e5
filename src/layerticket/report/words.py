"""Figures in words. Enters: fractions, seconds, kWh, counts. Leaves: text with its unit.

None is "not measured" wherever a figure is asked for; it is never shown as 0.
"""

from collections.abc import Mapping
from typing import Any

ABSENT = "not measured"
MINUS = "−"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)


def accuracy(value: float | None) -> str:
    """Tell a fraction in percent."""
    return ABSENT if value is None else f"{100 * value:.2f} %"


def difference(value: float | None) -> str:
    """Tell a difference of fractions in percentage points."""
    return ABSENT if value is None else f"{_signed(100 * value, 2)} pp"


def interval(figure: Mapping[str, Any]) -> str:
    """Tell a difference with its interval, if it has one."""
    text = difference(figure["mean"])
    if figure["low"] is None:
        return text
    ends = f"{_signed(100 * figure['low'], 2)} to {_signed(100 * figure['high'], 2)}"
    return f"{text} ({ends})"


def saving(value: float | None) -> str:
    """Tell a share saved: "34 % less"; what costs more says so."""
    if value is None:
        return ABSENT
    percent = f"{100 * abs(value):.1f}"
    if percent == "0.0":
        return "none saved"
    return f"{percent} % {'less' if value > 0 else 'more'}"


def speedup(figure: Mapping[str, Any]) -> str:
    """Tell a ratio of times with its interval, if it has one."""
    if figure["mean"] is None:
        return ABSENT
    text = f"{figure['mean']:.2f}×"
    return (
        text if figure["low"] is None else f"{text} ({figure['low']:.2f} to {figure['high']:.2f})"
    )


def share(value: float | None) -> str:
    """Tell a fraction in whole percent."""
    return ABSENT if value is None else f"{100 * value:.0f} %"


def duration(seconds: float | None) -> str:
    """Tell a time in a unit of its size."""
    if seconds is None:
        return ABSENT
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def energy(kwh: float | None) -> str:
    """Tell an energy in a unit of its size."""
    if kwh is None:
        return ABSENT
    return f"{kwh:.3g} kWh" if kwh >= 1 else f"{1000 * kwh:.3g} Wh"


def memory(count: float | None) -> str:
    """Tell bytes in MiB."""
    return ABSENT if count is None else f"{count / 2**20:,.0f} MiB"


def carbon(kg: float | None) -> str:
    """Tell carbon (CO2e) in a unit of its size."""
    if kg is None:
        return ABSENT
    return f"{kg:.3g} kg" if kg >= 1 else f"{1000 * kg:.3g} g"


def count(value: float | None) -> str:
    """Tell a count with its thousands apart."""
    return ABSENT if value is None else f"{value:,.0f}"


def millions(value: float | None) -> str:
    """Tell a count in millions."""
    return ABSENT if value is None else f"{value / 1e6:.2f} M"
