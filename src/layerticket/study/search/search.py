"""Finding a ticket, with its bill. Enters: a way to find one. Leaves: it, saved, and its price."""

import time
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from layerticket.evaluation import carbon_kg, metered
from layerticket.selection import Budget
from layerticket.study.runs.bill import SearchBill
from layerticket.study.search.costing import FindTicket, find_measured
from layerticket.study.search.measuring import Bench
from layerticket.ticket import Ticket

__all__ = ["search"]


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
    measured = None
    with metered(bench.metering, bench.device) as (meter, method):
        started = time.perf_counter()
        if budget.measured:
            by_costs: FindTicket = lambda costs: find(costs=costs)  # noqa: E731 - a name for its type
            ticket, measured = find_measured(name, dense, budget, by_costs, bench)
        else:
            ticket = find()
        seconds = time.perf_counter() - started
        used = None if meter is None else meter.lap().kwh
    ticket.save(out)
    bill = before.plus(SearchBill(seconds=seconds, kwh=used, method=method))
    bill.save(out)
    return ticket, {
        "search_seconds": bill.seconds,
        "search_energy_kwh": bill.kwh,
        "search_co2_kg": carbon_kg(bill.kwh, bench.metering),
        "energy_method": method,
        "measured": measured,
    }
