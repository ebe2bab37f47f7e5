"""What a meter of energy has to offer to the loop. Knows no library that measures."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

__all__ = ["Energy", "Meter", "Tally"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Electrical energy in kWh, by part; None for a part that was not measured."""

    cpu_kwh: float | None = None
    gpu_kwh: float | None = None
    ram_kwh: float | None = None

    @property
    def kwh(self) -> float | None:
        """Sum of the parts that were measured; None when none was.

        Example:
            >>> Energy(cpu_kwh=0.25, gpu_kwh=0.5).kwh
            0.75
        """
        known = [part for part in (self.cpu_kwh, self.gpu_kwh, self.ram_kwh) if part is not None]
        return sum(known) if known else None

    def __add__(self, other: "Energy") -> "Energy":
        """Add part by part; a part that one side lacks is lacking in the sum."""
        mine, theirs = asdict(self), asdict(other)
        return Energy(
            **{
                name: None if mine[name] is None or theirs[name] is None else value + theirs[name]
                for name, value in mine.items()
            }
        )


class Meter(Protocol):
    """A meter that runs."""

    def lap(self) -> Energy:
        """Return the energy since the last lap, or since the meter was started."""


class Tally:
    """Adds the laps of a session to what earlier sessions of the same training used."""

    # A lap costs milliseconds, so epochs shorter than this share one.
    every_seconds = 1.0

    def __init__(
        self, meter: Meter | None, carried: Mapping[str, float | None] | None, *, fresh: bool
    ) -> None:
        """Start from the energy of earlier sessions, which is None where it was not metered."""
        self._meter = meter if fresh or carried is not None else None
        self._sum = None if carried is None else Energy(**carried)
        self._last = time.perf_counter()
        if self._meter is not None:
            self._meter.lap()  # what came before training is not its own

    def read(self, *, final: bool) -> dict[str, float | None] | None:
        """Energy so far by part, as JSON values; None when a part of the training was unmetered."""
        if self._meter is None:
            return None
        now = time.perf_counter()
        if final or self._sum is None or now - self._last >= self.every_seconds:
            lap = self._meter.lap()
            self._sum = lap if self._sum is None else self._sum + lap
            self._last = now
        return asdict(self._sum)
