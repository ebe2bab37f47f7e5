"""Energy and carbon of a run: what training took and what finding its ticket took.

Enters: measured energies. Leaves: the figures of ``result.json``, and a small file beside a
ticket. A sum that lacks a part is null.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerticket.evaluation import Metering, carbon_kg
from layerticket.files import read_json
from layerticket.study.runs.record import write_record
from layerticket.training import Energy

__all__ = ["SEARCH", "SearchBill", "energy_bill"]

SEARCH = "search.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchBill:
    """What finding a ticket took; that of a dense network is nothing at all."""

    seconds: float | None = 0.0
    """Wall-clock time; None when it was not measured."""
    kwh: float | None = 0.0
    """Energy; None when it was not metered."""
    method: str | None = None
    """How the energy was metered."""

    def save(self, ticket: Path) -> None:
        """Leave the bill in the folder of the ticket."""
        write_record(ticket / SEARCH, asdict(self))

    def plus(self, other: "SearchBill") -> "SearchBill":
        """Add what came after; what one of the two lacks is lacking in the sum."""
        return SearchBill(
            seconds=_sum(self.seconds, other.seconds),
            kwh=_sum(self.kwh, other.kwh),
            method=other.method,
        )

    @classmethod
    def of(cls, ticket: Path | None) -> "SearchBill":
        """Read the bill of a ticket; nothing for no ticket, unknown for one without a bill."""
        if ticket is None:
            return cls()
        if not (ticket / SEARCH).exists():
            return cls(seconds=None, kwh=None)
        return cls(**read_json(ticket / SEARCH))


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def energy_bill(
    energy: Mapping[str, float | None] | None,
    search: SearchBill,
    metering: Metering | None,
    method: str | None,
) -> dict[str, Any]:
    """Put the energy figures of a run together.

    Args:
        energy: Energy of training and validation by part; None when it was not metered.
        search: What finding the ticket took.
        metering: States the carbon intensity.
        method: How the energy was metered.

    Returns:
        energy_kwh and co2_kg (training and search), energy (their parts), energy_method; None for
        what was not measured.

    Example:
        >>> energy_bill({"cpu_kwh": 1.0}, SearchBill(kwh=0.5), None, "counter")["energy_kwh"]
        1.5
    """
    train = None if energy is None else Energy(**energy).kwh
    total = _sum(train, search.kwh)
    parts = None if energy is None else {**energy, "train_kwh": train, "search_kwh": search.kwh}
    return {
        "energy_kwh": total,
        "co2_kg": carbon_kg(total, metering),
        "energy": parts,
        "energy_method": method if energy is not None else None,
    }
