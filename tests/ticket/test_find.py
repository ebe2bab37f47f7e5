"""Removing in rounds: what goes when, on scores made by hand."""

import dataclasses
import warnings

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
    with pytest.raises(lt.LayerticketError, match="removes 2 blocks, which meets"):
        find(first.apply(model), budget=lt.Budget(remove=2), within=first)
    with pytest.raises(lt.LayerticketError, match="ticket was not applied to"):
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


def scores_of(values, seconds=0.5):
    return finding.BlockScores(
        criterion="snip", options={}, batch_digest="", examples=40, seconds=seconds,
        values=dict(zip("abcd", values, strict=True)),
    )  # fmt: skip


def test_a_gap_below_its_noise_is_warned_of():
    # The halves, each over its mean, are (0.5, 1, 1, 1.5) and (0.5, 1.1, 0.9, 1.5): they differ by
    # (0, -0.1, 0.1, 0), over their sums (0, -1/21, 1/19, 0); the root of the mean square is 0.0355.
    halves = [scores_of((1, 2, 2, 3)), scores_of((10, 22, 18, 30), seconds=0.25)]
    relative = (((1 / 21) ** 2 + (1 / 19) ** 2) / 4) ** 0.5
    chosen = lt.select(
        {"layer1.0": 1.0, "layer1.1": 2.0},
        lt.Blocks(removable=lt.find_blocks(small_resnet(), BATCH[0][:1]).removable[:2],
                  rejected=(), params=10**6, macs=10**6),
        lt.Budget(remove=1),
    )  # fmt: skip
    assert (chosen.order, chosen.following) == (("layer1.0",), "layer1.1")
    chosen = dataclasses.replace(chosen, order=("a", "b"), following="c")
    far = finding.cut_of(chosen, scores_of((1, 2, 2.2, 3)), halves)
    assert (far.removed, far.kept, far.seconds) == ("b", "c", 0.75)
    assert far.gap == pytest.approx(0.2)
    assert far.noise == pytest.approx(relative * (2**2 + 2.2**2) ** 0.5)
    with pytest.warns(UserWarning, match=r"b \(removed\) and c \(kept\) differ.*batch of 40"):
        near = finding.cut_of(chosen, scores_of((1, 2, 2.1, 3)), halves)
    assert near.gap < near.noise


def test_noise_is_measured_where_asked_and_where_data_are_read(tmp_path):
    budget, model = lt.Budget(remove=2), small_resnet()
    plain = lt.find_ticket(model, BATCH, criterion="snip", budget=budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = lt.find_ticket(model, BATCH, criterion="snip", budget=budget, noise=True, rounds=2)
        once = lt.find_ticket(model, BATCH, criterion="snip", budget=budget, noise=True)
    assert plain.cuts == ()
    assert [cut.removed for cut in asked.cuts] == [order[-1] for order in asked.order]
    assert once.digest == plain.digest
    (cut,) = once.cuts
    assert cut.noise > 0
    assert cut.gap == once.scores[cut.kept] - once.scores[cut.removed]
    order = sorted(once.scores, key=once.scores.get)
    assert [cut.removed, cut.kept] == order[1:3]
    assert lt.Ticket.load(once.save(tmp_path / "t")).cuts == once.cuts
    assert lt.find_ticket(model, BATCH, criterion="magnitude", budget=budget, noise=True).cuts == ()
    seven = lt.Budget(remove=7)  # nothing is kept
    assert lt.find_ticket(model, BATCH, criterion="snip", budget=seven, noise=True).cuts == ()
    single = BATCH[0][:1], BATCH[1][:1]
    with pytest.warns(UserWarning, match="two halves of the batch, but it has 1"):
        found = lt.find_ticket(
            model, single, criterion="kl", normalization="running", budget=budget, noise=True
        )
    assert found.cuts == ()


def test_halves_hold_every_class_alike():
    classes = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])
    first, second = finding.halves_of((torch.arange(8.0)[:, None], classes))
    assert first[1].tolist() == second[1].tolist() == [0, 0, 1, 1]
    assert first[0].flatten().tolist() == [1, 5, 0, 4]
    odd, even = finding.halves_of({"x": torch.arange(5), "y": torch.rand(5, 2)})
    assert (odd["x"].tolist(), even["x"].tolist()) == ([0, 2, 4], [1, 3])
    with pytest.raises(lt.LayerticketError, match=r"two examples of every class.*class 7 has one"):
        finding.halves_of((torch.rand(5, 1), torch.tensor([3, 3, 7, 4, 4])))
