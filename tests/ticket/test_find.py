"""Removing in rounds: what goes when, on scores made by hand."""

import dataclasses

import pytest
import torch

import layerticket as lt
from layerticket.ticket import find as finding
from toy_lottery import small_resnet

BATCH = (torch.randn(20, 1, 8, 8), torch.arange(20) % 10)
# Seven removable blocks. The first table ranks the dense network; once 1.0 is gone, 3.2 is worth
# little, which only a second look shows.
DENSE = {
    "layer1.0": 1.0, "layer1.1": 2.0, "layer1.2": 3.0, "layer2.1": 4.0,
    "layer2.2": 5.0, "layer3.1": 6.0, "layer3.2": 7.0,
}  # fmt: skip


@pytest.fixture
def looks(monkeypatch):
    """Replace the criterion by the table above; note which blocks it is asked about."""
    seen = []
    real = finding.score

    def score(model, blocks, batch, criterion, **options):
        found = real(model, blocks, batch, "random")
        values = {block.name: DENSE[block.name] for block in blocks}
        if "layer1.0" not in values and "layer3.2" in values:
            values["layer3.2"] = 0.0
        seen.append((set(values), blocks.params == sum(p.numel() for p in model.parameters())))
        return dataclasses.replace(found, values=values)

    monkeypatch.setattr(finding, "score", score)
    return seen


def find(model=None, **options):
    return lt.find_ticket(model or small_resnet(), BATCH, criterion="random", **options)


def test_all_at_once_goes_by_the_first_look_and_rounds_look_again(looks):
    once = find(budget=lt.Budget(remove=3))
    assert once.order == (("layer1.0", "layer1.1", "layer1.2"),)
    assert once.later_scores == ()
    looks.clear()
    rounds = find(budget=lt.Budget(remove=3), rounds=3)
    assert rounds.order == (("layer1.0",), ("layer3.2",), ("layer1.1",))
    assert rounds.removed == ("layer1.0", "layer1.1", "layer3.2")  # in the order of execution
    assert [names for names, _ in looks] == [
        set(DENSE), set(DENSE) - {"layer1.0"}, set(DENSE) - {"layer1.0", "layer3.2"}
    ]  # fmt: skip
    assert all(fits for _, fits in looks)  # the network scored is the smaller one
    assert dict(rounds.scores) == DENSE
    assert [s["layer3.2"] for s in rounds.later_scores if "layer3.2" in s] == [0.0]
    assert rounds.apply(small_resnet())(BATCH[0]).shape == (20, 10)
    assert rounds.macs["dense"] == once.macs["dense"]


def test_two_rounds_of_three_remove_two_and_one(looks):
    assert find(budget=lt.Budget(remove=3), rounds=2).order == (
        ("layer1.0", "layer1.1"), ("layer3.2",)
    )  # fmt: skip


def test_rules_count_what_earlier_rounds_removed(looks):
    ticket = find(budget=lt.Budget(remove=1), min_per_stage=2)
    # layer1 may lose one of three, layer2 and layer3 have two each and may lose none.
    assert ticket.order == (("layer1.0",),)
    with pytest.raises(lt.LayerticketError, match="at most 1 of 7"):
        find(budget=lt.Budget(remove=2), rounds=2, min_per_stage=2)
    ticket = find(budget=lt.Budget(remove=3), rounds=3, min_per_stage=1)
    assert ticket.order == (("layer1.0",), ("layer3.2",), ("layer1.1",))
    with pytest.raises(lt.LayerticketError, match="at most 4 of 7"):
        find(budget=lt.Budget(remove=5), rounds=5, min_per_stage=1)


def test_a_share_is_of_the_dense_network_and_met(looks):
    for rounds in (1, 2, 3, 4):
        ticket = find(budget=lt.Budget(save_macs=0.4), rounds=rounds)
        assert 0.4 <= 1 - ticket.macs["ticket"] / ticket.macs["dense"] < 0.4 + 1 / 7
        assert len(ticket.order) == rounds
        assert sorted(name for names in ticket.order for name in names) == sorted(ticket.removed)


def test_going_on_within_a_ticket_equals_rounds_without_training(looks):
    model = small_resnet()
    whole = find(model, budget=lt.Budget(remove=4), rounds=2)
    first = find(model, budget=lt.Budget(remove=2))
    second = find(first.apply(model), budget=lt.Budget(remove=4), within=first)
    for name in ("order", "removed", "kept", "scores", "later_scores", "macs", "params",
                 "architecture", "blocks"):  # fmt: skip
        assert getattr(second, name) == getattr(whole, name), name
    assert all(torch.equal(second.init[name], whole.init[name]) for name in whole.init)
    with pytest.raises(lt.LayerticketError, match="already removes 2 blocks"):
        find(first.apply(model), budget=lt.Budget(remove=2), within=first)
    with pytest.raises(lt.LayerticketError, match="not cut down to the ticket"):
        find(model, budget=lt.Budget(remove=4), within=first)


def test_rounds_are_saved_and_loaded(looks, tmp_path):
    ticket = find(budget=lt.Budget(remove=3), rounds=2)
    loaded = lt.Ticket.load(ticket.save(tmp_path / "t"))
    assert loaded.digest == ticket.digest
    assert (loaded.order, loaded.later_scores) == (ticket.order, ticket.later_scores)
    assert loaded.origin is None
    assert loaded.rewind_epoch == 0
    assert {path.name for path in (tmp_path / "t").iterdir()} == {
        "ticket.json", "init.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("rounds", [0, -1, 4])
def test_impossible_rounds_are_refused(rounds):
    with pytest.raises(lt.LayerticketError, match=f"rounds is {rounds}; .* must be 1 to 3"):
        find(budget=lt.Budget(remove=3), rounds=rounds)


def test_a_real_criterion_scores_the_smaller_network():
    model = small_resnet()
    budget = lt.Budget(remove=2)
    ticket = lt.find_ticket(model, BATCH, criterion="snip", budget=budget, rounds=2)
    first = lt.find_ticket(model, BATCH, criterion="snip", budget=lt.Budget(remove=1))
    blocks = lt.find_blocks(model, BATCH[0][:1]).without(first.removed)
    again = lt.score(first.apply(model), blocks, BATCH, "snip")
    assert ticket.later_scores == (again.values,)
    assert ticket.order[1] == (min(again.values, key=again.values.get),)
