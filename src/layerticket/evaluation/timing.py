"""Times side by side, and their ratios with intervals.

A machine's speed drifts, so what is compared takes turns: every round calls each side once, every
other round in reversed order, and only times of one round are divided by each other.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from layerticket.batch import call, head
from layerticket.errors import LayerticketError
from layerticket.modules import copy_of

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A median with its bootstrap interval."""

    value: float
    """The median."""
    low: float | None
    """Lower end of the interval; None for fewer than three values."""
    high: float | None
    """Upper end."""
    n: int
    """Number of values."""
    confidence: float = 0.95
    """Confidence of the two-sided interval."""


def interleave(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    after: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Call every side once a round, in reversed order every other time, and time each call.

    Args:
        sides: What to time, by name; each call returns when its work is done.
        rounds: Timed rounds, from 1 up.
        warmup: Rounds before them that are not timed.
        after: Called with the name after every timed call, outside the time taken.

    Returns:
        Seconds of each side, one per round, in the order of the rounds.

    Raises:
        LayerticketError: If a number is out of range.
    """
    if rounds < 1 or warmup < 0:
        raise LayerticketError(
            f"rounds is {rounds} and warmup is {warmup}; give at least 1 round and 0 of warm-up."
        )
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warmup, rounds):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            start = time.perf_counter()
            sides[name]()
            taken = time.perf_counter() - start
            if turn >= 0:
                seconds[name].append(taken)
                if after is not None:
                    after(name)
    return seconds


def median_of(values: Sequence[float], *, confidence: float = 0.95) -> Figure:
    """Median of values with the percentile bootstrap interval of the median.

    The values are drawn again with replacement 2000 times, always by the same random numbers.

    Args:
        values: At least one.
        confidence: Of the two-sided interval, in (0, 1).

    Returns:
        The figure; fewer than three values have no interval.

    Raises:
        LayerticketError: If there is no value.

    Example:
        >>> median_of([2.0, 1.0, 2.0, 9.0]).value
        2.0
    """
    if not values:
        raise LayerticketError("there is no value to take the median of. Give at least one.")
    low = high = None
    if len(values) > 2:
        drawn = np.random.default_rng(0).choice(np.asarray(values), (_RESAMPLES, len(values)))
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = (float(end) for end in np.quantile(np.median(drawn, axis=1), tails))
    return Figure(
        value=statistics.median(values), low=low, high=high, n=len(values), confidence=confidence
    )


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Figure:
    """Median of the ratios within each round, with its interval.

    Args:
        above: Seconds of one side, one per round.
        below: Seconds of the other side in the same rounds, above 0.

    Returns:
        The figure; above / below = dense / ticket is a speed-up.

    Raises:
        LayerticketError: If the lists are empty or differ in length.
    """
    if len(above) != len(below):
        raise LayerticketError(
            f"{len(above)} values stand against {len(below)}, but rounds are paired. "
            "Give one of each for every round."
        )
    return median_of([a / b for a, b in zip(above, below, strict=True)])


def inference_seconds(
    models: Mapping[str, nn.Module], inputs: torch.Tensor, *, batch_size: int, rounds: int
) -> dict[str, list[float]]:
    """Time forward passes of several networks in turns, in eval mode and without gradients.

    With one example the median is the latency; N over the median of N examples the throughput.

    Args:
        models: Networks by name, on the device of the inputs; copied, so not modified.
        inputs: (N, ...), at least `batch_size` examples.
        batch_size: Examples a call.
        rounds: Timed rounds.

    Returns:
        Seconds of each network, one per round.

    Raises:
        LayerticketError: If there are too few examples.
    """
    if not 1 <= batch_size <= len(inputs):
        raise LayerticketError(
            f"batch_size is {batch_size}; with {len(inputs)} examples it must be 1 to that."
        )
    some = head(inputs, batch_size)

    def forward(model: nn.Module) -> None:
        with torch.inference_mode():
            call(model, some)
        if some.device.type == "cuda":
            torch.cuda.synchronize(some.device)

    own = {name: copy_of(model).eval() for name, model in models.items()}
    sides = {name: (lambda model=model: forward(model)) for name, model in own.items()}
    return interleave(sides, rounds=rounds, warmup=2)
