"""A ticket for a budget of measured costs: solved from block costs, then held against the clock.

Enters: a way to find a ticket, a bench. Leaves: the ticket and what it saves as measured, or a
refusal with the most that was reached.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from layerticket.blocks import Blocks
from layerticket.errors import LayerticketError
from layerticket.evaluation import ratio_of
from layerticket.evaluation.memory import MemoryRequest, peak_memory
from layerticket.selection import Budget, Costs
from layerticket.study.search.measuring import Bench, block_costs, held_costs, measure_steps
from layerticket.ticket import Ticket

__all__ = ["find_measured"]

_TRIES = 4

FindTicket = Callable[[Callable[[Blocks], Costs]], Ticket]


def find_measured(
    name: str, dense: nn.Module, budget: Budget, find: FindTicket, bench: Bench
) -> tuple[Ticket, dict[str, Any]]:
    """Find a ticket that meets a budget of time, energy or memory when it is measured.

    Block costs add up only roughly, so the ticket is measured against the dense network; when it
    falls short, the block costs are corrected by as much and the ticket is found anew.

    Args:
        name: What the network is built by.
        dense: The network; not modified.
        budget: `save_time`, `save_energy` or `max_memory`.
        find: Finds a ticket, given what measures the blocks.
        bench: What is measured on.

    Returns:
        The ticket, and what was measured: asked, and saved with its interval or the peak in bytes.

    Raises:
        LayerticketError: If the budget cannot be met; the message tells the most that was reached.
    """
    known: list[Costs] = []
    scale, best = 1.0, ""
    for _ in range(_TRIES):

        def costs(blocks: Blocks, factor: float = scale) -> Costs:
            if not known:
                known.append(_costs(name, dense, blocks, budget, bench))
            scaled = {block: factor * cost for block, cost in known[0].blocks.items()}
            return replace(known[0], blocks=scaled)

        ticket = find(costs)
        saved, met, record = _hold_against(name, dense, ticket, budget, known[0], bench)
        if met:
            return ticket, record
        best = f"{len(ticket.removed)} removed blocks reach {_reached(record)}"
        if saved <= 0:
            break
        scale = saved / sum(known[0].blocks[block] for block in ticket.removed)
    raise LayerticketError(
        f"the budget cannot be met as measured on this machine: {best}, asked is "
        f"{record['asked']:g}. Ask for less, protect fewer blocks, or measure more rounds."
    )


def _costs(name: str, dense: nn.Module, blocks: Blocks, budget: Budget, bench: Bench) -> Costs:
    """Measure the blocks in what the budget is about."""
    if budget.max_memory is not None:
        return held_costs(dense, blocks, bench, peak=lambda: _peak(name, (), bench))
    return block_costs(dense, blocks, bench, energy=budget.save_energy is not None)


def _hold_against(
    name: str, dense: nn.Module, ticket: Ticket, budget: Budget, costs: Costs, bench: Bench
) -> tuple[float, bool, dict[str, Any]]:
    """Measure a ticket: what it saves in the unit of the costs, whether that is enough, figures."""
    if budget.max_memory is not None:
        peak = _peak(name, ticket.removed, bench)
        facts = {"asked": budget.max_memory, "peak_bytes": peak, "dense_peak_bytes": costs.total}
        return costs.total - peak, peak <= budget.max_memory, facts
    asked = budget.save_time if budget.save_time is not None else budget.save_energy
    assert asked is not None
    steps = measure_steps({"dense": dense, "ticket": ticket.apply(dense)}, bench)
    found = steps.seconds if budget.save_time is not None else steps.kwh
    assert found is not None
    kept = ratio_of(found["ticket"], found["dense"])
    saving = asdict(kept) | {
        "value": 1 - kept.value,
        "low": None if kept.high is None else 1 - kept.high,
        "high": None if kept.low is None else 1 - kept.low,
    }
    record = {"asked": asked, "saved": saving}
    return (1 - kept.value) * costs.total, 1 - kept.value >= asked, record


def _reached(record: dict[str, Any]) -> str:
    if "peak_bytes" in record:
        return f"a peak of {record['peak_bytes']:,} bytes"
    return f"a saving of {record['saved']['value']:.1%}"


def _peak(name: str, removed: tuple[str, ...], bench: Bench) -> int:
    """Peak memory of training, in a fresh process."""
    channels, height, width = bench.dataset.train.images.shape[1:]
    request = MemoryRequest(
        model=name,
        shape=(channels, height, width),
        classes=bench.dataset.classes,
        removed=removed,
        recipe=bench.recipe,
        device=bench.device,
    )
    return peak_memory(request).peak_bytes
