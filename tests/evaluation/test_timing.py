"""Turns, medians and intervals; no clock of this machine is trusted."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.evaluation.timing import inference_seconds, interleave, median_of, ratio_of


def test_sides_take_turns_in_turned_order():
    calls, after = [], []
    sides = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = interleave(sides, rounds=2, warmup=1, after=after.append)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert after == ["a", "b", "b", "a"]
    assert [len(taken) for taken in seconds.values()] == [2, 2]


def test_ratios_are_taken_within_rounds():
    # the machine is ten times slower in the second round; the ratio is 2 all the same
    found = ratio_of([2.0, 20.0, 2.0] * 2, [1.0, 10.0, 1.0] * 2)
    assert (found.value, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 6)


@pytest.mark.parametrize(
    ("n", "confidence", "place"),
    [  # the k-th smallest of n; 2 P(B < k) of a fair coin, by hand
        (5, 0.95, None),  # 2 / 32 outside the range: too much
        (6, 0.95, 0),  # 2 / 64
        (8, 0.95, 0),  # the second one would leave 2 * 9 / 256
        (9, 0.95, 1),  # 2 * 10 / 512
        (5, 0.9, 0),
    ],
)
def test_the_interval_of_a_median_by_hand(n, confidence, place):
    values = [float(value * value) for value in range(n, 0, -1)]
    found = median_of(values, confidence=confidence)
    ends = (None, None) if place is None else (sorted(values)[place], sorted(values)[-1 - place])
    assert (found.low, found.high) == ends


def test_the_interval_of_a_median_covers_it():
    drawn = np.random.default_rng(0).exponential(size=(4000, 9))
    found = [median_of(list(row)) for row in drawn]
    covered = sum(one.low <= math.log(2) <= one.high for one in found) / len(found)
    assert 0.95 <= covered <= 0.97  # 1 - 20 / 512


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: median_of([]),
        lambda: ratio_of([1.0], [1.0, 2.0]),
        lambda: interleave({}, rounds=0),
        lambda: inference_seconds({}, torch.ones(2, 3), batch_size=3, rounds=1),
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(LayerticketError):
        wrong()


def test_inference_times_whole_batches_and_keeps_modes():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((len(x), self.training, torch.is_grad_enabled()))
            return x

    model = Spy()
    taken = inference_seconds({"a": model}, torch.ones(5, 3), batch_size=4, rounds=3)
    assert len(taken["a"]) == 3
    assert set(seen) == {(4, False, False)}
    assert model.training
