"""Modules that differ in the values of their parameters only are tested once, others each."""

import copy

import pytest
import torch
from torch import nn

from layerticket.blocks import probe
from layerticket.blocks.find import find_blocks

IMAGE = torch.ones(1, 3, 4, 4)


class Block(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 3, 3, padding=1), scale

    def forward(self, x):
        return self.scale * x + self.conv(x)


class Twice(nn.Module):
    """Calls its first block twice, so that it must stay; its like may go."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        return self.second(self.first(self.first(x)))


def examined(monkeypatch, model):
    """Find the blocks, and count the modules that were put to the last test."""
    count, test = [], probe.branch_test
    monkeypatch.setattr(probe, "branch_test", lambda *given: count.append(1) or test(*given))
    return [block.name for block in find_blocks(model, IMAGE)], len(count)


def test_alike_modules_are_tested_once(monkeypatch):
    model = nn.Sequential(*(Block() for _ in range(4)))
    assert examined(monkeypatch, model) == (["0", "1", "2", "3"], 1)


def test_another_setting_is_another_kind(monkeypatch):
    model = nn.Sequential(Block(), Block(scale=2.0), Block())
    assert examined(monkeypatch, model) == (["0", "2"], 1)  # with its weights at zero, 1 doubles x


def test_a_module_called_twice_stays_and_its_like_goes():
    found = find_blocks(Twice(), IMAGE)
    assert [block.name for block in found] == ["second"]
    assert [r.reason for r in found.rejected] == ["is called more than once in a forward pass"]


def kind(module, *args, **kwargs):
    return probe.RecordedCall.of(module, 0, args, kwargs).kind_of(module)


def changed(change):
    block = nn.Sequential(Block(), nn.BatchNorm2d(3), nn.Dropout(0.5))
    change(block)
    return block


def test_weights_do_not_matter():
    assert kind(changed(lambda b: b[0].conv.weight.data.zero_()), IMAGE) == kind(
        changed(lambda b: b.eval()), 2 * IMAGE
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b[0], "scale", 2.0),
        lambda b: setattr(b[0], "scale", 1),  # another type
        lambda b: setattr(b[0], "extra", object()),
        lambda b: setattr(b[0].conv, "padding", (2, 2)),
        lambda b: setattr(b[0].conv, "bias", None),
        lambda b: b[1].running_mean.add_(1),
        lambda b: b[2].register_forward_hook(print),
        lambda b: setattr(b[0], "conv", nn.Conv2d(3, 4, 3)),
        lambda b: b.append(nn.ReLU()),
    ],
)
def test_everything_else_does(change):
    assert kind(changed(change), IMAGE) != kind(changed(lambda b: None), IMAGE)


def test_what_cannot_be_compared_is_the_same_or_another():
    shared = object()
    one, two = (changed(lambda b: setattr(b[0], "extra", shared)) for _ in range(2))
    assert kind(one, IMAGE) == kind(two, IMAGE)
    two[0].extra = copy.copy([shared, object()])
    assert kind(one, IMAGE) != kind(two, IMAGE)


def test_how_a_module_is_called_counts():
    block = Block()
    assert kind(block, IMAGE) != kind(block, torch.ones(1, 3, 5, 4))
    assert kind(block, IMAGE, flag=True) != kind(block, IMAGE, flag=False)
    assert kind(block, IMAGE, mask=IMAGE) is None
