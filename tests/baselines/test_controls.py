"""Blocks without a criterion, at the cost of the ticket; networks and epochs of equal cost."""

import dataclasses

import pytest
import torch

from layerticket.baselines.controls import (
    CONTROLS,
    _chosen,
    control_ticket,
    equal_compute_epochs,
    shallower,
)
from layerticket.blocks.block import Block
from layerticket.counting import count_macs, count_params
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.ticket.ticket import Origin, Ticket
from toy_baselines import batch_of, projected, resnet20, ticket_of


def block(position, macs):
    return Block(name=str(position), position=position, stage=0, shape=(1,), params=1, macs=macs,
                 call="plain", post_norm=False)  # fmt: skip


def reference_of(costs, saved, base=None):
    """A ticket of blocks that cost so much, which saved so much."""
    base = base or ticket_of(projected(), batch_of())
    return dataclasses.replace(
        base,
        blocks=tuple(block(i, macs) for i, macs in enumerate(costs)),
        macs={"dense": sum(costs) + 10, "ticket": sum(costs) + 10 - saved},
    )


def names(reference, control, draw=0, seed=0):
    return [int(one.name) for one in _chosen(reference, control, draw, seed)]


def test_which_blocks_go():
    base = ticket_of(projected(), batch_of())
    reference = reference_of([1] * 9, 3, base)
    assert names(reference, "first") == [0, 1, 2]
    assert names(reference, "last") == [8, 7, 6]
    assert names(reference, "even") == [1, 4, 7]
    assert len(set(names(reference, "random"))) == 3
    unequal = reference_of([5, 1, 1, 2], 4, base)
    assert names(unequal, "first") == [0]  # 5 is nearer to 4 than 0 or 6
    assert names(unequal, "last") == [3, 2, 1]
    for seed in range(20):  # 1 + 1 + 2 is the only sum of 4
        assert sorted(names(unequal, "random", seed=seed)) == [1, 2, 3]
    with pytest.raises(LayerticketError, match="draw is 1, but only 1 sets"):
        names(unequal, "random", 1)


def test_random_blocks_are_drawn_evenly_and_the_same_for_the_same_draw():
    reference = reference_of([1] * 5, 1)
    drawn = [names(reference, "random", seed=seed)[0] for seed in range(500)]
    assert drawn == [names(reference, "random", seed=seed)[0] for seed in range(500)]
    counts = torch.bincount(torch.tensor(drawn), minlength=5)
    assert counts.min() > 70  # 100 expected, standard deviation 9
    assert counts.max() < 130


def test_draws_are_without_replacement_and_end_with_the_last_set():
    reference = reference_of([2, 2, 2, 2, 2, 4], 4)  # two of five, or the one of 4
    sets = [frozenset(names(reference, "random", draw)) for draw in range(11)]
    assert len(set(sets)) == 11
    assert frozenset([5]) in sets
    with pytest.raises(LayerticketError, match=r"only 11 sets .* allowed are 0 to 10"):
        names(reference, "random", 11)


def test_each_seed_draws_its_own_blocks():
    reference = reference_of([1] * 27, 8)
    sets = {frozenset(names(reference, "random", draw, seed))
            for draw in range(5) for seed in range(5)}  # fmt: skip
    assert len(sets) == 25  # of 2,220,075


def test_costs_that_hardly_differ_count_as_equal():
    reference = reference_of([1_000_000 + i for i in range(8)], 2_000_001)
    sets = {frozenset(names(reference, "random", draw)) for draw in range(28)}
    assert len(sets) == 28


@pytest.mark.parametrize("control", [c for c in CONTROLS if c != "each"])
def test_a_control_is_an_ordinary_ticket_of_equal_cost(control, tmp_path):
    batch = batch_of(10, 3, 16, 20)
    reference = ticket_of(resnet20(), batch, remove=2)
    model = build_model("resnet20-projection", classes=10, channels=3, seed=4)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ticket = control_ticket(model, reference, control, name="resnet20-projection", seed=4)
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    small = ticket.apply(model)
    assert count_macs(small, batch[0]) == ticket.macs["ticket"] == reference.macs["ticket"]
    assert count_params(small) == ticket.params["ticket"]
    assert ticket.match["difference"] == 0
    assert (ticket.criterion, ticket.scores, ticket.batch, ticket.seed) == (control, {}, "", 4)
    assert ticket.options["reference"] == reference.digest
    assert set(ticket.removed) | set(ticket.kept) == {b.name for b in reference.blocks}
    assert set(ticket.order[0]) == set(ticket.removed)
    for name, tensor in small.state_dict().items():  # theta_0 of this seed, not the reference's
        assert torch.equal(tensor, state[name])
    found = Ticket.load(ticket.save(tmp_path / "t"))
    assert (found.kind, found.match) == ("blocks", ticket.match)
    assert found.digest == ticket.digest


def test_each_block_goes_alone_once():
    model, reference = resnet20(), ticket_of(resnet20(), batch_of(10, 3, 16, 20), remove=3)
    every = [block.name for block in reference.blocks]
    alone = [control_ticket(model, reference, "each", draw=d, seed=0) for d in range(len(every))]
    assert [ticket.removed for ticket in alone] == [(name,) for name in every]
    for ticket, block in zip(alone, reference.blocks, strict=True):
        assert ticket.macs["ticket"] == ticket.macs["dense"] - block.macs
        assert count_params(ticket.apply(model)) == ticket.params["ticket"]
        assert ticket.removal_identity() == [block.name]
        assert ticket.match is None  # it is matched to nothing
    assert [ticket.options["draw"] for ticket in alone] == list(range(len(every)))
    with pytest.raises(LayerticketError, match=rf"draw is {len(every)}, .* allowed are 0 to"):
        control_ticket(model, reference, "each", draw=len(every))


def test_draws_differ_and_senseless_ones_are_refused():
    model, reference = resnet20(), ticket_of(resnet20(), batch_of(10, 3, 16, 20))
    drawn = {control_ticket(model, reference, "random", draw=d).removed for d in range(5)}
    assert len(drawn) == 5
    for control, draw in (("last", 1), ("random", -1)):
        with pytest.raises(LayerticketError, match="draw is"):
            control_ticket(model, reference, control, draw=draw)
    with pytest.raises(LayerticketError, match="control 'lst' is not known"):
        control_ticket(model, reference, "lst")
    with pytest.raises(LayerticketError, match="another network"):
        control_ticket(projected(), reference, "last")


@pytest.mark.parametrize("name", ["resnet44", "resnet32-projection"])
def test_the_shallower_network_is_the_nearest_in_cost(name):
    model = build_model(name, classes=10, channels=3, seed=0)
    batch = batch_of(10, 3, 16, 20)
    reference = ticket_of(model, batch, remove=3)
    found = shallower(name, reference)
    suffix = name[8:]
    costs = {
        other: count_macs(build_model(other, classes=10, channels=3, seed=0), batch[0])
        for other in (f"resnet{depth}{suffix}" for depth in (20, 32, 44))
        if other != name
    }
    nearest = min(costs, key=lambda other: abs(costs[other] - reference.macs["ticket"]))
    if name == "resnet32-projection":
        assert found == nearest == "resnet20-projection"
    else:
        assert found == nearest == "resnet32"


def test_shallower_knows_its_limits():
    reference = reference_of([1] * 4, 1)
    three = dataclasses.replace(
        reference,
        blocks=tuple(
            dataclasses.replace(b, stage=min(i, 2)) for i, b in enumerate(reference.blocks)
        ),
        macs={"dense": 30, "ticket": 27},
    )
    assert shallower("resnet26", three) == "resnet20"  # no standard depth itself
    assert shallower("resnet62-projection", three) == "resnet56-projection"
    four = tuple(dataclasses.replace(b, stage=i) for i, b in enumerate(reference.blocks))
    reference = dataclasses.replace(reference, blocks=four)
    for name, message in (
        ("resnet14", "shallowest"),
        ("resnet34", "Give one by name"),
        ("timm:resnet34", '`model = "NAME"`'),
        ("torchvision:resnet152", "Give one by name"),
        ("my.module:net", "Give one by name"),
        ("resnet56", "have 3"),  # this ticket has four stages
    ):
        with pytest.raises(LayerticketError, match=message):
            shallower(name, reference)


def test_equal_compute():
    reference = reference_of([10] * 9, 30)  # 100 -> 70
    assert equal_compute_epochs(reference, 200) == 140
    assert equal_compute_epochs(reference, 1) == 1
    origin = Origin(run="r", scored_epoch=10, rewind_epoch=2, recipe={"epochs": 10})
    late = dataclasses.replace(reference, origin=origin)
    assert equal_compute_epochs(late, 10) == 16  # 10 dense epochs, then 8 at 0.7
    with pytest.raises(LayerticketError, match="leaves nothing to train"):
        equal_compute_epochs(late, 2)
    early = Origin(run="r", scored_epoch=2, rewind_epoch=6, recipe={"epochs": 10})
    early = dataclasses.replace(reference, origin=early)
    assert equal_compute_epochs(early, 10) == 9  # 6 dense epochs to rewind to, then 4 at 0.7
