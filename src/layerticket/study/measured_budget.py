"""Measure the cost of training steps and of blocks, for a budget in time, energy or memory."""

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
from layerticket.training.steps import TimedSteps, timed_steps, weight_copies

# A meter needs windows much longer than its resolution: 10 ms for CPU time; a GPU sensor samples
# only part of the time.
_WINDOW_SECONDS = {"cpu": 1.0, "cuda": 5.0}
# Steps of a GPU are timed together, because training does not wait for each.
_TOGETHER = {"cpu": 1, "cuda": 20}


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingSetup:
    """What steps are measured on: data, recipe and device."""

    dataset: Dataset
    recipe: Recipe
    where: Where = Where()  # noqa: RUF009 - frozen
    rounds: int = 7
    """Timed rounds; every network is timed once in each."""
    granularity: Granularity = "block"
    """Granularity of the blocks whose memory is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Measured training steps by network; one value per round."""

    seconds: Mapping[str, list[float]]
    """Seconds per step, including the time to fetch its batch."""
    kwh: Mapping[str, list[float]] | None
    """Energy per step; None if it was not metered."""
    data_wait_share: Mapping[str, float]
    """Share of the time spent fetching batches."""
    startup_seconds: Mapping[str, float]
    """Extra seconds of the first step, compared with later ones."""
    steps_per_epoch: int
    method: str | None
    """How energy was metered."""


class _Timed:
    """Runs a number of steps of one network, and adds up the time spent fetching batches."""

    def __init__(self, single: TimedSteps, steps: int) -> None:
        self._single, self.steps = single, steps
        start = time.perf_counter()
        single.step()
        single.wait()
        self.first = time.perf_counter() - start
        self.waited = 0.0

    def __call__(self) -> None:
        for _ in range(self.steps):
            start = time.perf_counter()
            self._single.fetch()
            self.waited += time.perf_counter() - start
            self._single.step()
        self._single.wait()


def measure_steps(models: Mapping[str, nn.Module], setup: TimingSetup) -> Steps:
    """Time training steps of several networks in alternation; meter energy if configured.

    Args:
        models: Networks by name; not modified.
        setup: Data, recipe and device.

    Returns:
        The measurement.

    Raises:
        LayerticketError: If the device is absent or energy cannot be metered as stated.
    """
    device = resolve_device(setup.where.device)
    with (
        metered(setup.where) as (meter, method),
        timed_steps(models, setup.dataset, setup.recipe, device=setup.where.device) as timed,
    ):
        together = _TOGETHER[device.type]
        sides = {name: _Timed(single, together) for name, single in timed.items()}
        interleave(sides, rounds=1, warmup=1)
        if meter is not None:
            taken = interleave(sides, rounds=1, warmup=0)
            longest = max(seconds[0] for seconds in taken.values())
            for side in sides.values():
                side.steps = math.ceil(together * _WINDOW_SECONDS[device.type] / longest)
        for side in sides.values():
            side.waited = 0.0
        seconds, kwh = _alternate(sides, setup.rounds, meter)
    return Steps(
        seconds={name: [s / sides[name].steps for s in found] for name, found in seconds.items()},
        kwh=kwh,
        data_wait_share={name: sides[name].waited / sum(seconds[name]) for name in sides},
        startup_seconds={
            name: max(0.0, side.first - statistics.median(seconds[name]) / side.steps)
            for name, side in sides.items()
        },
        steps_per_epoch=next(iter(timed.values())).steps_per_epoch,
        method=method,
    )


def _alternate(
    sides: Mapping[str, _Timed], rounds: int, meter: Meter | None
) -> tuple[dict[str, list[float]], dict[str, list[float]] | None]:
    """Return the seconds of every round, and kWh per step if there is a meter."""
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
    each such group, and the difference is divided among its blocks. All costs are then scaled so
    that their sum is what removing all blocks saves.

    Args:
        model: Dense network; not modified.
        blocks: Its removable blocks.
        setup: Data, recipe and device.
        energy: Whether energy (kWh) is measured instead of time (s).

    Returns:
        The costs.

    Raises:
        LayerticketError: If energy is asked for but no meter is configured, or the blocks make no
            measurable difference.
    """
    if energy and not setup.where.metering.wanted:
        raise LayerticketError(
            "an energy budget needs a meter. Describe the electricity and the processor: "
            "--country or --carbon-intensity, and --cpu-tdp if counters cannot be read."
        )
    groups = _groups(blocks)
    models = {f"without {i}": remove_blocks(model, group) for i, group in enumerate(groups)}
    models |= {"dense": model, "bare": remove_blocks(model, blocks)}
    steps = measure_steps(models, setup)
    found = steps.seconds if not energy else steps.kwh
    assert found is not None
    # Differences below zero are noise of the clock.
    raw = [max(0.0, _difference(found, f"without {i}")) for i in range(len(groups))]
    everything = _difference(found, "bare")
    if sum(raw) <= 0 or everything <= 0:
        raise LayerticketError(
            "removing blocks makes no measurable difference: the network is too small or the "
            "machine is too busy. Measure more rounds, or use a budget of MACs."
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
    """Return the median over the rounds of dense minus another network."""
    return statistics.median(a - b for a, b in zip(found["dense"], found[other], strict=True))


def memory_costs(
    model: nn.Module, blocks: Blocks, setup: TimingSetup, *, peak: Callable[[], int]
) -> Costs:
    """Count the bytes that each block adds to the memory of training.

    A block costs what it stores for the backward pass of a batch, counted exactly, and its
    parameters as often as the recipe holds them, see `weight_copies`.

    Args:
        model: Dense network on the CPU; not modified.
        blocks: Its removable blocks.
        setup: Gives recipe and device.
        peak: Measures the peak of the dense network, in bytes.

    Returns:
        The costs.
    """
    size = min(setup.recipe.batch_size, len(setup.dataset.train))
    batch = scoring_batch(setup.dataset, setup.dataset.train, size, seed=0, balanced=False)
    bf16 = resolve_precision(setup.recipe.precision, resolve_device(setup.where.device)) == "bf16"
    whole = held_bytes(model, batch, bf16=bf16)
    copies, cost = weight_copies(setup.recipe), {}
    for group in _groups(blocks):
        less = held_bytes(remove_blocks(model, group), batch, bf16=bf16)
        for block in group:
            cost[block.name] = (whole - less) / len(group) + copies * _weight_bytes(model, block)
    return Costs(
        what="bytes at the peak of training",
        total=peak(),
        blocks={block.name: cost[block.name] for block in blocks},
    )


def _weight_bytes(model: nn.Module, block: Block) -> int:
    parameters = model.get_submodule(block.name).parameters()
    return sum(p.numel() * p.element_size() for p in parameters)


def _groups(blocks: Blocks) -> list[Sequence[Block]]:
    """Group the blocks that cost the same."""
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

    The costs of single blocks add up only roughly, so the ticket is measured against the dense
    network. If it misses the budget, the block costs are corrected and a new ticket is found.

    Args:
        name: Name of the network.
        dense: The network; not modified.
        budget: `save_time`, `save_energy` or `max_memory`.
        find: Finds a ticket, given a function that measures the blocks.
        setup: Data, recipe and device.

    Returns:
        The ticket, and the measurement: `asked`, and `saved` with its interval or `peak_bytes`.

    Raises:
        LayerticketError: If the budget cannot be met; the message gives the best that was reached.
    """
    known: list[Costs] = []
    scale, best = 1.0, (-math.inf, "")
    for _ in range(_TRIES):

        def costs(blocks: Blocks, factor: float = scale) -> Costs:
            if not known:
                known.append(_costs(name, dense, blocks, budget, setup))
            scaled = {block: factor * cost for block, cost in known[0].blocks.items()}
            return replace(known[0], blocks=scaled)

        ticket = find(costs)
        saved, met, record = _measure_ticket(name, dense, ticket, budget, known[0], setup)
        if met:
            return ticket, record
        reached = f"removing {len(ticket.removed)} blocks reaches {_reached(record)}"
        best = max(best, (saved, reached))
        if saved <= 0:
            break
        scale = saved / sum(known[0].blocks[block] for block in ticket.removed)
    raise LayerticketError(
        f"the budget cannot be met as measured on this machine: {best[1]}, but {record['asked']:g} "
        "was asked for. Ask for less, protect fewer blocks, or measure more rounds."
    )


def _costs(
    name: str, dense: nn.Module, blocks: Blocks, budget: Budget, setup: TimingSetup
) -> Costs:
    """Measure the costs of the blocks in the unit of the budget."""
    if budget.max_memory is not None:
        return memory_costs(dense, blocks, setup, peak=lambda: _peak(name, (), setup))
    return block_costs(dense, blocks, setup, energy=budget.save_energy is not None)


def _measure_ticket(
    name: str, dense: nn.Module, ticket: Ticket, budget: Budget, costs: Costs, setup: TimingSetup
) -> tuple[float, bool, dict[str, Any]]:
    """Return what a ticket saves in the unit of the costs, whether it is enough, and the record."""
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
    """Return the peak memory of training, measured in a new process."""
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
