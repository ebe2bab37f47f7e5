"""Budgets of measured costs, on blocks and costs worked out by hand."""

import pytest

from layerticket.blocks.block import Block, Blocks
from layerticket.errors import LayerticketError
from layerticket.selection import Budget, Costs, select

NAMES = ("a", "b", "c")
BLOCKS = Blocks(
    removable=tuple(
        Block(
            name=name,
            position=i,
            stage=0,
            shape=(4,),
            params=10,
            macs=10,
            call="plain",
            post_norm=False,
        )
        for i, name in enumerate(NAMES)
    ),
    rejected=(),
    params=100,
    macs=100,
)
SCORES = {"a": 3.0, "b": 1.0, "c": 2.0}  # b goes first, then c, then a


def costs(total=10.0, **each):
    return Costs(what="time in s", total=total, blocks={"a": 1.0, "b": 2.0, "c": 3.0} | each)


@pytest.mark.parametrize(
    ("budget", "removed"),
    [
        (Budget(save_time=0.2), ("b",)),
        (Budget(save_time=0.21), ("b", "c")),
        (Budget(save_energy=0.5), ("b", "c")),
        (Budget(save_time=0.6), ("a", "b", "c")),
        (Budget(max_memory=8), ("b",)),
        (Budget(max_memory=7), ("b", "c")),
    ],
)
def test_measured_budgets_are_met_in_the_order_of_scores(budget, removed):
    assert select(SCORES, BLOCKS, budget, costs=costs()).removed == removed


def test_what_cannot_be_met_tells_the_most_that_is_possible():
    with pytest.raises(LayerticketError, match=r"61\.0% of the time in s.*3 of 3.*98\.4% of what"):
        select(SCORES, BLOCKS, Budget(save_time=0.61), costs=costs())


def test_a_network_that_fits_already_is_told_so():
    with pytest.raises(LayerticketError, match="keeps as it is"):
        select(SCORES, BLOCKS, Budget(max_memory=10), costs=costs())


@pytest.mark.parametrize("given", [None, Costs(what="s", total=1.0, blocks={"a": 1.0})])
def test_measured_budgets_need_costs_of_every_block(given):
    with pytest.raises(LayerticketError, match="every removable block"):
        select(SCORES, BLOCKS, Budget(save_time=0.1), costs=given)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"remove": 1, "save_time": 0.1},
        {"save_time": 1.0},
        {"save_energy": 0},
        {"max_memory": 0},
    ],
)
def test_a_budget_is_one_thing_in_its_range(wrong):
    with pytest.raises(LayerticketError):
        Budget(**wrong)
    assert Budget(max_memory=1).measured
    assert not Budget(remove=1).measured


def test_measured_budgets_are_parted_for_rounds():
    assert [part.save_time for part in Budget(save_time=0.4).parts(2)] == [0.2, 0.4]
    assert [part.save_energy for part in Budget(save_energy=0.3).parts(1)] == [0.3]
    with pytest.raises(LayerticketError, match="in one round"):
        Budget(max_memory=5).parts(2)


def test_blocks_gone_before_count_towards_a_measured_budget():
    left = {name: score for name, score in SCORES.items() if name != "c"}
    found = select(left, BLOCKS, Budget(save_time=0.5), gone=("c",), costs=costs())
    assert found.order == ("b",)
