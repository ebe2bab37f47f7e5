"""Every criterion against figures worked out by hand; see `tiny` for the derivatives."""

import math

import pytest
import torch

from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError
from layerticket.scoring import score
from tiny import ScalarBlock, TwoBlocks, chain, half_square, one

# a = 1, b = 2, p = 6: snip |a g_a| = 18, |b g_b| = 24; grasp a (H g)_a = 306, b (H g)_b = 528;
# synflow R = (1 + |a|)(1 + |b|), |a| dR/d|a| = 3, |b| dR/d|b| = 4; magnitude |a| = 1, |b| = 2.
BY_HAND = {
    "snip": (18.0, 24.0),
    "grasp": (306.0, 528.0),
    "synflow": (3.0, 4.0),
    "magnitude": (1.0, 2.0),
}
# a = -1/2, b = 2, p = 3/2, g = (9/2, 3/4), H = [[9, 3], [3, 1/4]], H g = (171/4, 219/16)
NEGATIVE = {
    "snip": (2.25, 1.5),
    "grasp": (-21.375, 27.375),
    "synflow": (1.5, 3.0),
    "magnitude": (0.5, 2.0),
}


def scores(criterion, model, **options):
    if criterion in ("snip", "grasp"):
        options = {"loss_fn": half_square} | options
    found = find_blocks(model, one()[0])
    return tuple(score(model, found, one(), criterion, **options).values.values())


@pytest.mark.parametrize("criterion", BY_HAND)
def test_two_scalar_blocks(criterion):
    assert scores(criterion, TwoBlocks()) == BY_HAND[criterion]
    assert scores(criterion, TwoBlocks(a=-0.5)) == NEGATIVE[criterion]


@pytest.mark.parametrize("criterion", BY_HAND)
def test_mean_divides_by_the_number_of_weights(criterion):
    assert scores(criterion, TwoBlocks(), reduction="mean") == BY_HAND[criterion]
    wide = chain(ScalarBlock(0.5, 3), ScalarBlock(0.25, 3), entering=3)
    batch = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    found = find_blocks(wide, batch[0])
    total = score(wide, found, batch, criterion).values
    mean = score(wide, found, batch, criterion, reduction="mean").values
    assert mean == {name: value / 9 for name, value in total.items()}


@pytest.mark.parametrize("criterion", BY_HAND)
def test_unknown_reduction(criterion):
    with pytest.raises(LayerticketError, match="reduction is 'max'; allowed are 'sum' and 'mean'"):
        scores(criterion, TwoBlocks(), reduction="max")


def test_random_depends_on_the_draw_alone():
    first = scores("random", TwoBlocks())
    assert scores("random", TwoBlocks(a=7.0)) == first
    assert scores("random", TwoBlocks(), draw=1) != first
    assert all(0 <= value < 1 for value in first)
    assert not math.isclose(*first)
