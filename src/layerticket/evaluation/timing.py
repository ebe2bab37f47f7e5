"""Time several functions in alternation, and compute ratios with intervals.

The speed of a machine drifts. So every round calls each side once, every other round in reversed
order, and ratios are computed only within a round.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy import special
from torch import nn

from layerticket.batch import call, head
from layerticket.errors import LayerticketError
from layerticket.modules import copy_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A median with its interval."""

    value: float
    """The median."""
    low: float | None
    """Lower end of the interval; None for too few values (at 95 %: fewer than six)."""
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
    """Call and time every side once per round, in reversed order every other round.

    Args:
        sides: Functions to time, by name; each must return after its work is done.
        rounds: Number of timed rounds, at least 1.
        warmup: Number of earlier rounds that are not timed.
        after: Called with the name after every timed call; its time does not count.

    Returns:
        Seconds of each side, one per round, in the order of the rounds.

    Raises:
        LayerticketError: If a number is out of range.
    """
    if rounds < 1 or warmup < 0:
        raise LayerticketError(
            f"rounds is {rounds} and warmup is {warmup}; they must be at least 1 and 0."
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
    """Return the median of values with its distribution-free interval.

    The interval goes from the k-th smallest to the k-th largest of n independent values. It misses
    the median with probability ``2 P(B < k)``, B binomial (n, 1/2); k is the largest for which this
    is at most ``1 - confidence``.

    Args:
        values: At least one value.
        confidence: Confidence of the two-sided interval, in (0, 1).

    Returns:
        The median; values too few for any k have no interval (at 95 %: fewer than six).

    Raises:
        LayerticketError: If there is no value.

    References:
        Thompson, "On confidence ranges for the median and other expectation distributions", Annals
        of Mathematical Statistics 7 (1936).

    Example:
        >>> median_of([2.0, 1.0, 2.0, 9.0]).value
        2.0
    """
    if not values:
        raise LayerticketError("the median needs at least one value.")
    low = high = None
    ordered, n = sorted(values), len(values)
    outside = sum(2 * special.bdtr(k, n, 0.5) <= 1 - confidence for k in range(n // 2))
    if outside:
        low, high = ordered[outside - 1], ordered[-outside]
    return Figure(value=statistics.median(values), low=low, high=high, n=n, confidence=confidence)


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Figure:
    """Return the median of the ratios within each round, with its interval.

    Args:
        above: Seconds of one side, one per round.
        below: Seconds of the other side in the same rounds, above 0.

    Returns:
        The median ratio; with dense above and ticket below it is a speed-up.

    Raises:
        LayerticketError: If the lists are empty or differ in length.
    """
    if len(above) != len(below):
        raise LayerticketError(
            f"there are {len(above)} and {len(below)} values, but rounds must be paired. "
            "Give one of each for every round."
        )
    return median_of([a / b for a, b in zip(above, below, strict=True)])


def inference_seconds(
    models: Mapping[str, nn.Module], inputs: torch.Tensor, *, batch_size: int, rounds: int
) -> dict[str, list[float]]:
    """Time forward passes of several networks in alternation, in eval mode without gradients.

    With one example, the median is the latency; N divided by the median of N examples is the
    throughput.

    Args:
        models: Networks by name, on the device of the inputs; copied, so not modified.
        inputs: (N, ...), at least `batch_size` examples.
        batch_size: Examples per call.
        rounds: Timed rounds.

    Returns:
        Seconds of each network, one per round.

    Raises:
        LayerticketError: If there are too few examples.
    """
    if not 1 <= batch_size <= len(inputs):
        raise LayerticketError(
            f"batch_size is {batch_size}; it must be from 1 to the number of inputs, {len(inputs)}."
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
