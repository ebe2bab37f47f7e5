"""Turns, medians and intervals; no clock of this machine is trusted."""

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
    found = ratio_of([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert (found.value, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 3)


def test_intervals_hold_the_median_and_repeat():
    values = [1.0, 1.1, 1.2, 1.3, 5.0]
    found = median_of(values)
    assert found.value == 1.2
    assert 1.0 <= found.low < 1.2 < found.high <= 5.0
    assert found == median_of(values)
    assert median_of([1.0, 2.0]).low is None


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
