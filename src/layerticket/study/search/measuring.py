"""Training steps of several networks, timed and metered in turns; block costs for a budget.

Enters: networks, data, a recipe. Leaves: seconds and kWh per step, or `Costs` for `select`.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from layerticket.blocks import Block, Blocks
from layerticket.data import Dataset, scoring_batch
from layerticket.errors import LayerticketError
from layerticket.evaluation import Metering, held_bytes, interleave, metered
from layerticket.selection import Costs
from layerticket.surgery import remove_blocks
from layerticket.training import (
    Meter,
    Recipe,
    Rehearsal,
    rehearse,
    resolve_device,
    resolve_precision,
)

__all__ = ["Bench", "Steps", "block_costs", "held_costs", "measure_steps"]

# A meter needs windows that are long beside what it can tell apart: 10 ms of CPU time; on a GPU
# a sensor that looks at a part of the time only.
_WINDOW_SECONDS = {"cpu": 1.0, "cuda": 5.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What steps are measured on."""

    dataset: Dataset
    recipe: Recipe
    device: str = "auto"
    rounds: int = 7
    """Timed rounds; every network takes its turn in each."""
    metering: Metering | None = None


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

    def __init__(self, rehearsal: Rehearsal) -> None:
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


def measure_steps(models: Mapping[str, nn.Module], bench: Bench) -> Steps:
    """Time training steps of several networks in turns, and meter them if something is stated.

    Args:
        models: Networks by name; not modified.
        bench: What they are measured on.

    Returns:
        The measurement.

    Raises:
        LayerticketError: If the device is absent or energy cannot be metered as stated.
    """
    where = resolve_device(bench.device)
    with (
        metered(bench.metering, bench.device) as (meter, method),
        rehearse(models, bench.dataset, bench.recipe, device=bench.device) as lent,
    ):
        sides = {name: _Side(rehearsal) for name, rehearsal in lent.items()}
        interleave(sides, rounds=1, warmup=1)
        if meter is not None:
            taken = interleave(sides, rounds=1, warmup=0)
            longest = max(seconds[0] for seconds in taken.values())
            for side in sides.values():
                side.steps = math.ceil(_WINDOW_SECONDS[where.type] / longest)
        for side in sides.values():
            side.waited = 0.0
        seconds, kwh = _take_turns(sides, bench.rounds, meter)
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


def block_costs(model: nn.Module, blocks: Blocks, bench: Bench, *, energy: bool = False) -> Costs:
    """Measure what each block adds to the time, or the energy, of a training step.

    Blocks of equal stage, parameters and MACs cost the same, so the network is measured without
    each such group, and the difference is shared out among its blocks. The network without any
    block sets the scale: the costs of all blocks together are what removing all of them saves.

    Args:
        model: Dense network; not modified.
        blocks: Its removable blocks.
        bench: What it is measured on.
        energy: Whether energy is measured, in kWh, and not time, in s.

    Returns:
        The costs.

    Raises:
        LayerticketError: If energy is asked for and nothing about it is stated, or the blocks
            make no measurable difference.
    """
    if energy and (bench.metering is None or not bench.metering.wanted):
        raise LayerticketError(
            "a budget of energy needs a meter. State the electricity and the processor: "
            "--country or --carbon-intensity, and --cpu-tdp where counters cannot be read."
        )
    groups = _groups(blocks)
    models = {f"without {i}": remove_blocks(model, group) for i, group in enumerate(groups)}
    models |= {"dense": model, "bare": remove_blocks(model, blocks)}
    steps = measure_steps(models, bench)
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


def held_costs(model: nn.Module, blocks: Blocks, bench: Bench, *, peak: Callable[[], int]) -> Costs:
    """Count the bytes each block adds to the memory of training.

    A block costs what it holds for the backward pass of a batch, counted exactly, and three times
    its parameters (weights, gradients, momentum).

    Args:
        model: Dense network on the CPU; not modified.
        blocks: Its removable blocks.
        bench: Gives batch size and precision.
        peak: Measures the peak of the dense network, in bytes.

    Returns:
        The costs.
    """
    size = min(bench.recipe.batch_size, len(bench.dataset.train))
    batch = scoring_batch(bench.dataset, bench.dataset.train, size, seed=0, balanced=False)
    bf16 = resolve_precision(bench.recipe.precision, resolve_device(bench.device)) == "bf16"
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
