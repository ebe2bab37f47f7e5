"""From scores to what goes: partitions, budgets, protection, measured costs."""

import itertools
import math
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerticket.blocks.block import Block, Blocks
from layerticket.errors import LayerticketError
from layerticket.selection import Budget, Costs, downsampling_neighbours, select

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have the same score.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*with .* of the network's parameters.*:UserWarning"),
]


def make(stages, macs=None, params=None):
    """Blocks named s0.0, s0.1, s1.0, ... of the stages given as numbers of blocks."""
    places = [(s, i) for s, count in enumerate(stages) for i in range(count)]
    macs, params = macs or [10] * len(places), params or [7] * len(places)
    blocks = [
        Block(
            name=f"s{s}.{i}",
            position=position,
            stage=s,
            shape=(16 * 2**s, 8),
            params=params[position],
            macs=macs[position],
            call="plain",
            post_norm=False,
        )
        for position, (s, i) in enumerate(places)
    ]
    total = {"params": sum(params) + 30, "macs": sum(macs) + 50}
    return Blocks(removable=tuple(blocks), rejected=(), **total)


def scores_of(blocks, values):
    return {block.name: value for block, value in zip(blocks, values, strict=True)}


STAGES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def networks(draw):
    stages = draw(STAGES)
    n = sum(stages)
    numbers = st.lists(st.integers(1, 1000), min_size=n, max_size=n)
    blocks = make(stages, draw(numbers), draw(numbers))
    values = draw(st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n))  # with ties
    return blocks, scores_of(blocks, values)


@given(networks(), st.data())
def test_exactly_k_go_the_lowest_and_the_rest_stays(network, data):
    blocks, scores = network
    k = data.draw(st.integers(1, len(blocks)))
    chosen = select(scores, blocks, Budget(remove=k))
    order = [b.name for b in blocks]
    assert len(chosen.removed) == k
    assert sorted(chosen.removed + chosen.kept) == sorted(order)
    assert list(chosen.removed) == sorted(chosen.removed, key=order.index)
    assert list(chosen.kept) == sorted(chosen.kept, key=order.index)
    highest = max(scores[name] for name in chosen.removed)
    assert all(scores[name] >= highest for name in chosen.kept)
    gone = blocks.named(chosen.removed)
    assert chosen.saved_macs == pytest.approx(sum(b.macs for b in gone) / blocks.macs)
    assert chosen.saved_params == pytest.approx(sum(b.params for b in gone) / blocks.params)


@given(networks())
def test_a_larger_budget_takes_more_of_the_same(network):
    blocks, scores = network
    gone = [set(select(scores, blocks, Budget(remove=k + 1)).removed) for k in range(len(blocks))]
    assert all(less < more for less, more in itertools.pairwise(gone))


@given(networks(), st.integers(1, 3))
def test_only_the_order_of_scores_matters(network, k):
    blocks, scores = network
    k = min(k, len(blocks))
    stretched = {name: math.exp(value / 3) - 9 for name, value in reversed(scores.items())}
    assert select(stretched, blocks, Budget(remove=k)) == select(scores, blocks, Budget(remove=k))


@given(networks(), st.floats(0.001, 0.999), st.sampled_from(["save_macs", "save_params"]))
def test_a_share_is_met_without_waste_or_refused(network, share, what):
    blocks, scores = network
    name = "saved_macs" if what == "save_macs" else "saved_params"
    try:
        chosen = select(scores, blocks, Budget(**{what: share}))
    except LayerticketError:
        everything = select(scores, blocks, Budget(remove=len(blocks)))
        assert getattr(everything, name) < share
        return
    assert getattr(chosen, name) >= share - 1e-12
    if len(chosen.removed) > 1:  # the one before was not enough
        fewer = select(scores, blocks, Budget(remove=len(chosen.removed) - 1))
        assert getattr(fewer, name) < share


@given(networks(), st.integers(0, 2), st.integers(1, 4))
def test_a_floor_per_stage_holds_or_the_budget_is_refused(network, floor, k):
    blocks, scores = network
    try:
        chosen = select(scores, blocks, Budget(remove=k), min_per_stage=floor)
    except LayerticketError:
        free = sum(
            max(0, sum(b.stage == s for b in blocks) - floor) for s in {b.stage for b in blocks}
        )
        assert free < k
        return
    assert len(chosen.removed) == k
    for stage in {b.stage for b in blocks}:
        names = {b.name for b in blocks if b.stage == stage}
        assert len(names - set(chosen.removed)) >= min(floor, len(names))


def test_of_equal_scores_the_earlier_block_goes():
    blocks = make([3, 2])
    assert select(scores_of(blocks, [1] * 5), blocks, Budget(remove=2)).removed == ("s0.0", "s0.1")
    assert select(scores_of(blocks, [1, 0, 1, 0, 1]), blocks, Budget(remove=3)).removed == (
        "s0.0", "s0.1", "s1.0"
    )  # fmt: skip


def test_protected_blocks_stay():
    blocks = make([3, 3])
    scores = scores_of(blocks, range(6))
    chosen = select(scores, blocks, Budget(remove=2), protect=["s0.[01]", "s1.0"])
    assert chosen.removed == ("s0.2", "s1.1")
    assert select(scores, blocks, Budget(remove=1), protect=("s0.*",)).removed == ("s1.0",)
    with pytest.raises(LayerticketError, match=r"'layer\*' matches no removable block\. Removable"):
        select(scores, blocks, Budget(remove=1), protect=["s0.0", "layer*"])


def test_neighbours_of_a_change_of_shape_stay():
    blocks = make([3, 2, 3])
    assert downsampling_neighbours(blocks) == {"s0.2", "s1.0", "s1.1", "s2.0"}
    scores = scores_of(blocks, [9, 8, 0, 0, 0, 0, 7, 6])
    chosen = select(scores, blocks, Budget(remove=4), keep_neighbours=True)
    assert chosen.kept == ("s0.2", "s1.0", "s1.1", "s2.0")
    with pytest.raises(LayerticketError, match="at most 4 of 8 removable blocks can be"):
        select(scores, blocks, Budget(remove=5), keep_neighbours=True)


def test_containers_of_equal_shape_meet_without_down_sampling():
    first, second = make([2])
    moved = Block(**{f: getattr(second, f) for f in Block.__slots__} | {"stage": 1})
    blocks = Blocks(removable=(first, moved), rejected=(), params=1, macs=1)
    assert downsampling_neighbours(blocks) == set()


def test_what_cannot_be_saved_is_refused_with_the_most_that_can():
    blocks = make([2, 2])  # 40 of 90 MACs, 28 of 58 parameters
    scores = scores_of(blocks, range(4))
    for budget, said in (
        (Budget(remove=5), "asks for 5 blocks, but at most 4 of 4"),
        (Budget(save_macs=0.5), r"50.0% of the MACs, but.* saves 44.4% of the MACs and 48.3%"),
        (Budget(save_params=0.9), "90.0% of the parameters"),
    ):
        with pytest.raises(LayerticketError, match=said):
            select(scores, blocks, budget)
    with pytest.raises(LayerticketError, match=r"at most 2 of 4.*22.2% of the MACs"):
        select(scores, blocks, Budget(remove=3), min_per_stage=1)


@pytest.mark.parametrize(
    "given",
    [{}, {"remove": 1, "save_macs": 0.1}, {"remove": 0}, {"remove": -1}, {"save_macs": 0.0},
     {"save_macs": 1.0}, {"save_params": 34}, {"save_params": float("nan")}],
)  # fmt: skip
def test_a_budget_is_one_sensible_number(given):
    with pytest.raises(LayerticketError, match=r"exactly one of|at least 1|above 0|below 1"):
        Budget(**given)


def test_scores_must_be_of_these_blocks_and_finite():
    blocks = make([2])
    for scores in ({"s0.0": 1.0}, {"s0.0": 1.0, "s0.1": 1.0, "x": 1.0}):
        with pytest.raises(LayerticketError, match=r"have different names\. Score these blocks"):
            select(scores, blocks, Budget(remove=1))
    for value in (math.nan, math.inf):
        with pytest.raises(LayerticketError, match=r"'s0\.1' is .*; scores must be finite"):
            select({"s0.0": 1.0, "s0.1": value}, blocks, Budget(remove=1))


def test_a_tie_across_the_cut_is_said_and_one_inside_is_not():
    blocks = make([3])
    with pytest.warns(UserWarning, match=r"2 blocks .* score 1.0. .* s0.2 could equally"):
        chosen = select(scores_of(blocks, [2.0, 1.0, 1.0]), blocks, Budget(remove=1))
    assert chosen.removed == ("s0.1",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(scores_of(blocks, [2.0, 1.0, 1.0]), blocks, Budget(remove=2))


@pytest.mark.parametrize(
    ("stages", "values", "remove", "said"),
    [
        ([1, 2], [1, 1, 1], 1, "2 blocks have the same score 1.0. .*; s1.1 could"),  # s0.0 stays
        ([2, 2], [1, 1, 1, 1], 1, "4 blocks .*; s0.1, s1.0, s1.1 could"),
        ([2, 2], [1, 1, 1, 1], 2, "4 blocks .*; s0.1, s1.1 could"),  # each in place of its stage's
        ([2, 2], [1, 1, 5, 6], 2, "2 blocks have the same score 1.0. .*; s0.1 could"),
        ([1, 2], [1, 1, 3], 1, None),  # s0.0 stays, whatever its score
    ],
)
def test_a_tie_names_only_blocks_that_could_have_been_removed(stages, values, remove, said):
    blocks = make(stages)
    scores = scores_of(blocks, map(float, values))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select(scores, blocks, Budget(remove=remove), min_per_stage=1)
    assert len(caught) == (said is not None)
    assert said is None or re.search(said, str(caught[0].message))


# budgets of measured costs, on blocks and costs worked out by hand

NAMES = ("a", "b", "c")
MEASURED = Blocks(
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
    assert select(SCORES, MEASURED, budget, costs=costs()).removed == removed


def test_what_cannot_be_met_tells_the_most_that_is_possible():
    with pytest.raises(
        LayerticketError, match=r"61\.0% of the time in s.*3 of 3.*98\.4% of the target"
    ):
        select(SCORES, MEASURED, Budget(save_time=0.61), costs=costs())


def test_a_network_that_fits_already_is_told_so():
    with pytest.raises(LayerticketError, match="meets already"):
        select(SCORES, MEASURED, Budget(max_memory=10), costs=costs())


@pytest.mark.parametrize("given", [None, Costs(what="s", total=1.0, blocks={"a": 1.0})])
def test_measured_budgets_need_costs_of_every_block(given):
    with pytest.raises(LayerticketError, match="every removable block"):
        select(SCORES, MEASURED, Budget(save_time=0.1), costs=given)


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
    with pytest.raises(LayerticketError, match="memory budget it must be 1"):
        Budget(max_memory=5).parts(2)


def test_blocks_gone_before_count_towards_a_measured_budget():
    left = {name: score for name, score in SCORES.items() if name != "c"}
    found = select(left, MEASURED, Budget(save_time=0.5), gone=("c",), costs=costs())
    assert found.order == ("b",)
