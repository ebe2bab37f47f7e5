"""Finding a ticket, with its bill. Enters: a way to find one. Leaves: it, saved, and its price."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from layerticket.evaluation import Metering, carbon_kg, metered
from layerticket.selection import Budget
from layerticket.study.runs.bill import SearchBill
from layerticket.study.search.costing import FindTicket, find_measured
from layerticket.study.search.measuring import Bench
from layerticket.ticket import Ticket

__all__ = ["priced", "search"]

Found = TypeVar("Found")


class _Find(Protocol):
    """`find_ticket` with everything but the block costs filled in."""

    def __call__(self, *, costs: Any = None) -> Ticket: ...  # noqa: ANN401 - as find_ticket has it


def search(
    find: _Find,
    name: str,
    dense: nn.Module,
    budget: Budget,
    bench: Bench,
    out: Path,
    before: SearchBill = SearchBill(),  # noqa: B008 - frozen
) -> tuple[Ticket, dict[str, Any]]:
    """Find a ticket, save it, and leave the bill of the search beside it.

    Args:
        find: Finds a ticket, given what measures the blocks.
        name: What the network is built by.
        dense: The network; not modified.
        budget: How much is to go; what is measured is measured here.
        bench: What is measured on, and how energy is metered.
        out: Folder of the ticket.
        before: What was paid before, such as the training of the network that is scored.

    Returns:
        The ticket; and its search in seconds, kWh and kg CO2e (None where not metered), how
        energy was metered, and what a measured budget came to.

    Raises:
        LayerticketError: As `find_ticket` does, or when a measured budget cannot be met.
    """

    def either() -> tuple[Ticket, dict[str, Any] | None]:
        if not budget.measured:
            return find(), None
        by_costs: FindTicket = lambda costs: find(costs=costs)  # noqa: E731 - a name for its type
        return find_measured(name, dense, budget, by_costs, bench)

    (ticket, measured), bill, told = priced(either, bench.metering, bench.device, before)
    ticket.save(out)
    bill.save(out)
    return ticket, told | {"measured": measured}


def priced(
    find: Callable[[], Found],
    metering: Metering | None,
    device: str,
    before: SearchBill = SearchBill(),  # noqa: B008 - frozen
) -> tuple[Found, SearchBill, dict[str, Any]]:
    """Find something, and tell what it took.

    Args:
        find: Does the search.
        metering: What the user states about energy; None: it is not metered.
        device: Device it runs on.
        before: What was paid before.

    Returns:
        What was found; the bill, to be left beside it; the bill as `find --json` prints it.
    """
    with metered(metering, device) as (meter, method):
        started = time.perf_counter()
        found = find()
        seconds = time.perf_counter() - started
        used = None if meter is None else meter.lap().kwh
    bill = before.plus(SearchBill(seconds=seconds, kwh=used, method=method))
    return (
        found,
        bill,
        {
            "search_seconds": bill.seconds,
            "search_energy_kwh": bill.kwh,
            "search_co2_kg": carbon_kg(bill.kwh, metering),
            "energy_method": method,
        },
    )
