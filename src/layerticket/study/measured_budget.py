"""What training steps cost, measured: of blocks, for a budget in time, energy or memory."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from layerticket.blocks.block import Block, Blocks, Granularity
from layerticket.counting import held_bytes
from layerticket.data.batches import scoring_batch
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import metered
from layerticket.evaluation.memory import MemoryRequest, peak_memory
from layerticket.evaluation.timing import interleave, ratio_of
from layerticket.selection import Budget, Costs
from layerticket.surgery.remove import remove_blocks
from layerticket.ticket.ticket import Ticket
from layerticket.training.device import Meter, Where, resolve_device, resolve_precision
from layerticket.training.recipe import Recipe
from layerticket.training.steps import TimedSteps, timed_steps

# A meter needs windows that are long against its resolution: 10 ms of CPU time; on a GPU
# a sensor that looks at a part of the time only.
_WINDOW_SECONDS = {"cpu": 1.0, "cuda": 5.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingSetup:
    """What steps are measured on."""

    dataset: Dataset
    recipe: Recipe
    where: Where = Where()  # noqa: RUF009 - frozen
    rounds: int = 7
    """Timed rounds; every network takes its turn in each."""
    granularity: Granularity = "block"
    """Granularity of the blocks whose memory is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Measured training steps by network; one figure per round."""

    seconds: Mapping[str, list[float]]
    """Seconds per step, fetching its batch included."""
    kwh: Mapping[str, list[float]] | None
    """Energy per step; None when it was not metered."""
    data_wait_share: Mapping[str, float]
    """Share of the time spent fetching batches."""
    startup_seconds: Mapping[str, float]
    """By how much the first step took longer than later ones."""
    steps_per_epoch: int
    method: str | None
    """How energy was metered."""


class _Side:
    """Steps of one network in one go, with the time spent fetching."""

    def __init__(self, rehearsal: TimedSteps) -> None:
        self._rehearsal, self.steps = rehearsal, 1
        start = time.perf_counter()
        rehearsal.step()
        self.first = time.perf_counter() - start
        self.waited = 0.0

    def __call__(self) -> None:
        for _ in range(self.steps):
            start = time.perf_counter()
            self._rehearsal.fetch()
            self.waited += time.perf_counter() - start
            self._rehearsal.step()


def measure_steps(models: Mapping[str, nn.Module], setup: TimingSetup) -> Steps:
    """Time training steps of several networks in turns, and meter them if something is stated.

    Args:
        models: Networks by name; not modified.
        setup: What they are measured on.

    Returns:
        The measurement.

    Raises:
        LayerticketError: If the device is absent or energy cannot be metered as stated.
    """
    device = resolve_device(setup.where.device)
    with (
        metered(setup.where) as (meter, method),
        timed_steps(models, setup.dataset, setup.recipe, device=setup.where.device) as lent,
    ):
        sides = {name: _Side(rehearsal) for name, rehearsal in lent.items()}
        interleave(sides, rounds=1, warmup=1)
        if meter is not None:
            taken = interleave(sides, rounds=1, warmup=0)
            longest = max(seconds[0] for seconds in taken.values())
            for side in sides.values():
                side.steps = math.ceil(_WINDOW_SECONDS[device.type] / longest)
        for side in sides.values():
            side.waited = 0.0
        seconds, kwh = _take_turns(sides, setup.rounds, meter)
    return Steps(
        seconds={name: [s / sides[name].steps for s in found] for name, found in seconds.items()},
        kwh=kwh,
        data_wait_share={name: sides[name].waited / sum(seconds[name]) for name in sides},
        startup_seconds={
            name: max(0.0, side.first - statistics.median(seconds[name]) / side.steps)
            for name, side in sides.items()
        },
        steps_per_epoch=next(iter(lent.values())).steps_per_epoch,
        method=method,
    )


def _take_turns(
    sides: Mapping[str, _Side], rounds: int, meter: Meter | None
) -> tuple[dict[str, list[float]], dict[str, list[float]] | None]:
    """Seconds of every go, and kWh per step where there is a meter."""
    if meter is None:
        return interleave(sides, rounds=rounds, warmup=0), None
    kwh: dict[str, list[float]] = {name: [] for name in sides}

    def read(name: str) -> None:
        used = meter.lap().kwh
        assert used is not None
        kwh[name].append(used / sides[name].steps)

    meter.lap()
    return interleave(sides, rounds=rounds, warmup=0, after=read), kwh


def block_costs(
    model: nn.Module, blocks: Blocks, setup: TimingSetup, *, energy: bool = False
) -> Costs:
    """Measure what each block adds to the time, or the energy, of a training step.

    Blocks of equal stage, parameters and MACs cost the same, so the network is measured without
    each such group, and the difference is shared out among its blocks. The network without any
    block sets the scale: the costs of all blocks together are what removing all of them saves.

    Args:
        model: Dense network; not modified.
        blocks: Its removable blocks.
        setup: What it is measured on.
        energy: Whether energy is measured, in kWh, and not time, in s.

    Returns:
        The costs.

    Raises:
        LayerticketError: If energy is asked for and nothing about it is stated, or the blocks
            make no measurable difference.
    """
    if energy and not setup.where.metering.wanted:
        raise LayerticketError(
            "a budget of energy needs a meter. State the electricity and the processor: "
            "--country or --carbon-intensity, and --cpu-tdp where counters cannot be read."
        )
    groups = _groups(blocks)
    models = {f"without {i}": remove_blocks(model, group) for i, group in enumerate(groups)}
    models |= {"dense": model, "bare": remove_blocks(model, blocks)}
    steps = measure_steps(models, setup)
    found = steps.seconds if not energy else steps.kwh
    assert found is not None
    # What the clock cannot tell from nothing is nothing.
    raw = [max(0.0, _difference(found, f"without {i}")) for i in range(len(groups))]
    everything = _difference(found, "bare")
    if sum(raw) <= 0 or everything <= 0:
        raise LayerticketError(
            "removing blocks makes no measurable difference here: the network is too small or the "
            "machine too busy. Measure more rounds, or budget MACs."
        )
    each = {
        block.name: value * everything / sum(raw) / len(group)
        for group, value in zip(groups, raw, strict=True)
        for block in group
    }
    what = "energy of a training step in kWh" if energy else "time of a training step in s"
    total = statistics.median(found["dense"])
    return Costs(what=what, total=total, blocks={b.name: each[b.name] for b in blocks})


def _difference(found: Mapping[str, list[float]], other: str) -> float:
    """Median over the rounds of dense minus another network."""
    return statistics.median(a - b for a, b in zip(found["dense"], found[other], strict=True))


def held_costs(
    model: nn.Module, blocks: Blocks, setup: TimingSetup, *, peak: Callable[[], int]
) -> Costs:
    """Count the bytes each block adds to the memory of training.

    A block costs what it holds for the backward pass of a batch, counted exactly, and three times
    its parameters (weights, gradients, momentum).

    Args:
        model: Dense network on the CPU; not modified.
        blocks: Its removable blocks.
        setup: Gives batch size and precision.
        peak: Measures the peak of the dense network, in bytes.

    Returns:
        The costs.
    """
    size = min(setup.recipe.batch_size, len(setup.dataset.train))
    batch = scoring_batch(setup.dataset, setup.dataset.train, size, seed=0, balanced=False)
    bf16 = resolve_precision(setup.recipe.precision, resolve_device(setup.where.device)) == "bf16"
    whole = held_bytes(model, batch, bf16=bf16)
    cost = {}
    for group in _groups(blocks):
        less = held_bytes(remove_blocks(model, group), batch, bf16=bf16)
        for block in group:
            cost[block.name] = (whole - less) / len(group) + 3 * _weight_bytes(model, block)
    return Costs(
        what="bytes at the peak of training",
        total=peak(),
        blocks={block.name: cost[block.name] for block in blocks},
    )


def _weight_bytes(model: nn.Module, block: Block) -> int:
    parameters = model.get_submodule(block.name).parameters()
    return sum(p.numel() * p.element_size() for p in parameters)


def _groups(blocks: Blocks) -> list[Sequence[Block]]:
    """Blocks that cost the same, together."""
    groups: dict[tuple[object, ...], list[Block]] = {}
    for block in blocks:
        groups.setdefault((block.stage, block.shape, block.params, block.macs), []).append(block)
    return list(groups.values())


_TRIES = 4

FindTicket = Callable[[Callable[[Blocks], Costs]], Ticket]


def find_measured(
    name: str, dense: nn.Module, budget: Budget, find: FindTicket, setup: TimingSetup
) -> tuple[Ticket, dict[str, Any]]:
    """Find a ticket that meets a budget of time, energy or memory when it is measured.

    Block costs add up only roughly, so the ticket is measured against the dense network; when it
    falls short, the block costs are corrected by as much and the ticket is found anew.

    Args:
        name: What the network is built by.
        dense: The network; not modified.
        budget: `save_time`, `save_energy` or `max_memory`.
        find: Finds a ticket, given what measures the blocks.
        setup: What is measured on.

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
                known.append(_costs(name, dense, blocks, budget, setup))
            scaled = {block: factor * cost for block, cost in known[0].blocks.items()}
            return replace(known[0], blocks=scaled)

        ticket = find(costs)
        saved, met, record = _hold_against(name, dense, ticket, budget, known[0], setup)
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


def _costs(
    name: str, dense: nn.Module, blocks: Blocks, budget: Budget, setup: TimingSetup
) -> Costs:
    """Measure the blocks in what the budget is about."""
    if budget.max_memory is not None:
        return held_costs(dense, blocks, setup, peak=lambda: _peak(name, (), setup))
    return block_costs(dense, blocks, setup, energy=budget.save_energy is not None)


def _hold_against(
    name: str, dense: nn.Module, ticket: Ticket, budget: Budget, costs: Costs, setup: TimingSetup
) -> tuple[float, bool, dict[str, Any]]:
    """Measure a ticket: what it saves in the unit of the costs, whether that is enough, figures."""
    if budget.max_memory is not None:
        peak = _peak(name, ticket.removed, setup)
        facts = {"asked": budget.max_memory, "peak_bytes": peak, "dense_peak_bytes": costs.total}
        return costs.total - peak, peak <= budget.max_memory, facts
    asked = budget.save_time if budget.save_time is not None else budget.save_energy
    assert asked is not None
    steps = measure_steps({"dense": dense, "ticket": ticket.apply(dense)}, setup)
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


def _peak(name: str, removed: tuple[str, ...], setup: TimingSetup) -> int:
    """Peak memory of training, in a fresh process."""
    channels, height, width = setup.dataset.shape
    request = MemoryRequest(
        model=name,
        shape=(channels, height, width),
        classes=setup.dataset.classes,
        removed=removed,
        granularity=setup.granularity,
        recipe=setup.recipe,
        device=setup.where.device,
    )
    return peak_memory(request).peak_bytes
