"""Masked weights: exactly as many as the ticket leaves, and zero for good."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from layerticket.baselines.weights import (
    find_weight_ticket,
    keep_highest,
    kept_shares,
    next_mask_ticket,
    prunable_weights,
)
from layerticket.blocks.find import find_blocks
from layerticket.counting import count_macs, count_params
from layerticket.criteria.saliency import network_weights
from layerticket.errors import LayerticketError
from layerticket.modules import copy_of
from layerticket.scoring import score, score_weights
from layerticket.surgery.masks import (
    masked,
    masked_optimizer,
    masked_state,
    permanent,
    plain_state,
)
from layerticket.tensors import tensor_digest
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import ResumePoint, Snapshot, read_snapshot
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from tiny import TwoBlocks, half_square, one, owned_by_the_caller
from toy_baselines import batch_of, projected, ticket_of
from toy_training import make_data

CRITERIA = ("snip", "grasp", "synflow", "magnitude")
RECIPE = Recipe(epochs=3, batch_size=16, precision="fp32", weight_decay=0.1)


def found(criterion="snip", model=None, **options):
    model, batch = model or projected(), batch_of()
    if criterion == "synflow":
        options.setdefault("rounds", 4)
    reference = ticket_of(model, batch)
    return (
        model,
        reference,
        find_weight_ticket(
            model, batch, criterion=criterion, reference=reference, name="toy", seed=0, **options
        ),
    )


@pytest.mark.parametrize("criterion", CRITERIA)
def test_as_many_parameters_are_left_as_in_the_ticket(criterion):
    model = projected()
    before = owned_by_the_caller(model)
    _, reference, baseline = found(criterion, model)
    assert owned_by_the_caller(model) == before
    small = permanent(baseline.apply(model))
    zeros = {name: int((p == 0).sum()) for name, p in small.named_parameters() if p.ndim > 1}
    assert zeros == baseline.removed_record
    assert count_params(small) - sum(zeros.values()) == reference.params["ticket"]
    assert baseline.params == {"dense": count_params(model), "ticket": reference.params["ticket"]}
    assert baseline.match["difference"] == 0
    assert baseline.macs["ticket"] == baseline.macs["dense"] == count_macs(model, batch_of()[0])
    assert baseline.options.get("rounds") == (4 if criterion == "synflow" else 1)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_lowest_of_the_whole_network_go(criterion):
    model, _, baseline = found(criterion, rounds=1)
    saliency = score_weights(model, batch_of(), criterion).values
    kept = torch.cat([saliency[n][m] for n, m in baseline.masks.items()])
    gone = torch.cat([saliency[n][~m] for n, m in baseline.masks.items()])
    assert gone.max() <= kept.min()


def test_saliencies_by_hand():
    model = TwoBlocks(1.0, 2.0)  # g = (18, 12), H g = (306, 264), see tiny
    by_hand = {
        "snip": [18.0, 24.0],
        "grasp": [306.0, 528.0],
        "synflow": [3.0, 4.0],  # R = (1 + a)(1 + b)
        "magnitude": [1.0, 2.0],
    }
    for criterion, expected in by_hand.items():
        loss = {"loss_fn": half_square} if criterion in ("snip", "grasp") else {}
        found = score_weights(model, one(), criterion, **loss)
        assert [value.item() for value in found.values.values()] == expected


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow", "magnitude"])
def test_summed_over_blocks_they_are_the_block_scores(criterion):
    model, batch = projected(), batch_of()
    exact = {"hessian": "exact"} if criterion == "grasp" else {}
    scores = score(model, find_blocks(model, batch[0][:1]), batch, criterion, **exact).values
    saliency = score_weights(model, batch, criterion).values
    for block, value in scores.items():
        own = sum(v.sum().item() for n, v in saliency.items() if n.startswith(f"{block}."))
        assert own == pytest.approx(value, rel=1e-9)


def test_rounds_follow_the_exponential_schedule():
    assert kept_shares(0.8**3, rounds=3) == pytest.approx([0.8, 0.64, 0.512])
    assert kept_shares(0.25, rounds=2) == (0.5, 0.25)
    assert kept_shares(0.9, rounds=1) == (0.9,)
    assert kept_shares(0.9) == (0.9,)
    assert kept_shares(0.8) == (0.8,)
    shares = kept_shares(0.1)
    assert shares[:-1] == pytest.approx([0.8**r for r in range(1, 11)])
    assert (len(shares), shares[-1]) == (11, 0.1)
    for wrong in ({"target": 1.0}, {"target": 0.5, "rounds": 0}):
        with pytest.raises(LayerticketError, match="between 0 and 1"):
            kept_shares(**wrong)


def test_rounds_are_scored_on_what_is_left():
    _, _, one_round = found("synflow", rounds=1)
    _, _, many = found("synflow", rounds=20)
    assert any(not torch.equal(one_round.masks[n], many.masks[n]) for n in many.masks)
    assert one_round.params == many.params


def test_ranking_by_hand():
    saliency = {"a": torch.tensor([[3.0, 1.0]]), "b": torch.tensor([2.0, 5.0, 0.0])}
    every = {n: torch.ones_like(v, dtype=torch.bool) for n, v in saliency.items()}
    masks = keep_highest(saliency, every, 3)
    assert masks["a"].tolist() == [[True, False]]
    assert masks["b"].tolist() == [True, True, False]
    masks["b"][1] = False  # what is gone stays gone, however large
    with pytest.warns(UserWarning, match="no weight is left in b"):
        masks = keep_highest(saliency, masks, 1)
    assert masks["a"].tolist() == [[True, False]]
    with pytest.warns(UserWarning, match="2 kept weights have the same saliency"):
        keep_highest({"a": torch.ones(3)}, {"a": torch.ones(3, dtype=torch.bool)}, 2)
    with pytest.raises(LayerticketError, match="4 of the 3 remaining weights"):
        keep_highest({"a": torch.ones(3)}, {"a": torch.ones(3, dtype=torch.bool)}, 4)


def zeros_hold(network, baseline):
    state = network.state_dict()
    for name, mask in baseline.masks.items():
        assert torch.equal(state[f"{name}_mask"].bool(), mask)
        assert not state[f"{name}_orig"][~mask].any(), name
        owner, _, own = name.rpartition(".")
        assert not getattr(network.get_submodule(owner), own)[~mask].any(), name
    return True


def watched(baseline, initialization="ticket"):
    """A network of the baseline that is looked at before every call."""
    network = baseline.apply(projected(seed=8), initialization=initialization)
    seen = []
    network.register_forward_pre_hook(lambda m, _: seen.append(zeros_hold(m, baseline)))
    return network, seen


def train(network, folder, **options):
    how = {"seed": 1, "where": Where(device="cpu", progress=False)} | options
    return fit(network, make_data(), RECIPE, folder=folder, **how)


@pytest.mark.parametrize("initialization", ["ticket", "model"])
def test_pruned_weights_stay_zero_through_training_and_resuming(tmp_path, initialization):
    _, _, baseline = found()
    network, seen = watched(baseline, initialization)
    train(network, tmp_path / "whole")
    assert len(seen) >= 12
    assert zeros_hold(network, baseline)
    kept = [network.state_dict()[f"{n}_orig"][m] for n, m in baseline.masks.items()]
    first = [baseline.init[n][m] for n, m in baseline.masks.items()]
    assert all(not torch.equal(a, b) for a, b in zip(kept, first, strict=True))  # it did train
    momentum = read_snapshot(tmp_path / "whole" / "checkpoint.safetensors")[0].optimizer
    for name, mask in baseline.masks.items():
        assert not momentum[f"{name}_orig/momentum_buffer"][~mask].any()
        assert momentum[f"{name}_orig/momentum_buffer"][mask].any()

    other, _ = watched(baseline, initialization)
    calls = iter([0.1, KeyboardInterrupt()])

    def judge(_):
        if isinstance(value := next(calls), BaseException):
            raise value
        return value

    with pytest.raises(KeyboardInterrupt):
        train(other, tmp_path / "cut", validate=judge)
    resumed, seen = watched(baseline, initialization)
    train(resumed, tmp_path / "cut")
    assert len(seen) >= 8
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_masked_network_can_be_copied_before_and_ordinary_after_training(tmp_path):
    _, _, baseline = found()
    network = baseline.apply(projected())
    images = batch_of()[0]
    assert torch.equal(copy_of(network).eval()(images), network.eval()(images))
    train(network, tmp_path)
    before = network.eval()(images)
    state = plain_state(network.state_dict())
    again = masked_state(state, baseline.masks)
    assert tensor_digest(again) == tensor_digest(network.state_dict())
    plain = permanent(network)
    assert plain is network
    assert not prune.is_pruned(plain)
    assert torch.equal(plain(images), before)
    assert plain.state_dict().keys() == projected().state_dict().keys() == state.keys()
    assert all(torch.equal(state[n], t) for n, t in plain.state_dict().items())
    ordinary = projected()
    assert permanent(ordinary) is ordinary


def test_kept_weights_are_those_of_theta_0(tmp_path):
    model, _, baseline = found("grasp")
    folder = baseline.save(tmp_path / "baseline")
    loaded = Ticket.load(folder)
    assert loaded.kind == "masks"
    assert loaded.removal_identity() == baseline.removal_identity()
    assert loaded.digest == baseline.digest
    other = projected(seed=1)
    for initialization, source in (("ticket", model), ("model", other)):
        state = permanent(loaded.apply(other, initialization=initialization)).state_dict()
        for name, tensor in source.state_dict().items():
            mask = baseline.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(state[name][mask], tensor[mask])
            assert not state[name][~mask].any()
    assert torch.equal(other.state_dict()["0.weight"], projected(seed=1).state_dict()["0.weight"])
    masks = {n: ~m for n, m in baseline.masks.items()}
    changed = copy.copy(baseline)
    object.__setattr__(changed, "masks", masks)
    assert changed.digest != baseline.digest
    assert changed.removal_identity() != baseline.removal_identity()


def kept_at(epoch, model, seed):
    random = torch.Generator().manual_seed(seed)
    weights = {n: torch.rand(t.shape, generator=random) + 0.1 if t.is_floating_point() else t
               for n, t in model.state_dict().items()}  # fmt: skip
    optimizer = {f"{n}/momentum_buffer": torch.ones_like(p) for n, p in model.named_parameters()}
    return Snapshot(epoch=epoch, weights=weights, optimizer=optimizer if 0 < epoch < 3 else {})


def test_rounds_of_magnitude_pruning_rewind_and_go_on(tmp_path):
    model, reference, _ = found()
    theta_1 = kept_at(1, model, 1)
    step = {"rewind_to": theta_1, "reference": reference, "run": "r", "recipe": RECIPE}
    example = batch_of()[0][:1]
    first = next_mask_ticket(
        model, example, scored=kept_at(3, model, 2), within=None, share=0.9, **step
    )
    total = sum(m.numel() for m in first.masks.values())
    assert sum(int(m.sum()) for m in first.masks.values()) == round(0.9 * total)
    assert first.rewind_epoch == 1
    network = first.apply(projected(seed=5))
    for name, tensor in plain_state(network.state_dict()).items():
        mask = first.masks.get(name)
        assert torch.equal(tensor, theta_1.weights[name] * (1 if mask is None else mask))
    assert torch.equal(
        first.optimizer["0.weight_orig/momentum_buffer"], first.masks["0.weight"] * 1.0
    )
    start = ResumePoint(epoch=1, optimizer=first.optimizer)
    train(network, tmp_path, start=start)
    assert zeros_hold(network, first)

    trained = Snapshot(epoch=3, weights=network.state_dict(), optimizer={})
    second = next_mask_ticket(model, example, scored=trained, within=first, share=0.0, **step)
    assert second.params["ticket"] == reference.params["ticket"]
    assert all(bool((first.masks[n] | ~second.masks[n]).all()) for n in first.masks)
    assert (first.options["round"], second.options["round"]) == (1, 2)
    alive = {n: plain_state(network.state_dict())[n].abs()[first.masks[n]] for n in first.masks}
    stay = {n: plain_state(network.state_dict())[n].abs()[second.masks[n]] for n in first.masks}
    lowest = torch.cat(list(alive.values())).sort().values
    assert torch.cat(list(stay.values())).min() == lowest[-sum(len(v) for v in stay.values())]
    with pytest.raises(LayerticketError, match="leaves nothing to train"):
        next_mask_ticket(
            model, example, scored=trained, within=None, share=0.9,
            **step | {"rewind_to": kept_at(3, model, 1)},
        )  # fmt: skip
    odd = Snapshot(epoch=3, weights={"x": torch.ones(1)}, optimizer={})
    with pytest.raises(LayerticketError, match="do not fit"):
        next_mask_ticket(model, example, scored=odd, within=None, share=0.9, **step)


def test_tied_and_foreign_weights_are_refused():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    every = torch.ones(3, 3, dtype=torch.bool)
    for name, mask in (("0.weight", every), ("2.weight", every), ("1.bias", every)):
        with pytest.raises(LayerticketError, match="cannot be masked"):
            masked(tied, {name: mask})
    kept = masked_optimizer({"a/step": torch.tensor(2.0), "b/m": torch.ones(2)}, {"a": every})
    assert set(kept) == {"a_orig/step", "b/m"}


class Tokens(nn.Module):
    """A class token and positions beside a linear layer, an attention and an embedding."""

    def __init__(self):
        super().__init__()
        self.token, self.scale = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(2, 4))
        self.words, self.read = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm, self.conv = nn.LayerNorm([2, 4]), nn.ConvTranspose1d(4, 4, 3)


def test_only_weights_of_layers_may_go():
    assert list(prunable_weights(Tokens())) == ["words.weight", "read.weight", "conv.weight"]
    assert list(prunable_weights(projected())) == list(network_weights(projected()))


def test_tied_weights_are_refused_before_anything_is_scored(monkeypatch):
    model, batch = projected(), batch_of()
    reference = ticket_of(model, batch)
    model[4].conv1.weight = model[3].conv1.weight
    monkeypatch.setattr(
        "layerticket.baselines.weights.score_weights", lambda *_, **__: pytest.fail("scored")
    )
    monkeypatch.setattr("layerticket.baselines.weights.require_same_network", lambda *_: None)
    with pytest.raises(LayerticketError, match=r"'3\.conv1\.weight' is tied"):
        find_weight_ticket(model, batch, reference=reference)


def test_wishes_that_make_no_sense_are_refused():
    for options, message in (
        ({"criterion": "hrank"}, "criterion for weights 'hrank' is not known"),
        (
            {"criterion": "synflow", "normalization": "batch"},
            "normalization is 'batch'; allowed: 'running'",
        ),
        ({"criterion": "magnitude", "micro_batches": 2}, "'micro_batches' is not known"),
        ({"criterion": "synflow", "temperature": 2.0}, "'temperature' is not known"),
        ({"criterion": "snip", "reduction": "mean"}, "on single weights 'reduction' is not known"),
        ({"criterion": "grasp", "hessian": "auto"}, "on single weights 'hessian' is not known"),
    ):
        with pytest.raises(LayerticketError, match=message):
            score_weights(projected(), batch_of(), **options)
    model, batch = projected(), batch_of()
    with torch.no_grad():
        model[3].conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(LayerticketError, match=r"gives nan for weight '0\.weight' \(11 of 11"):
        score_weights(model, batch, "snip")
    silent = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    nn.init.zeros_(silent[1].weight)
    with pytest.raises(LayerticketError, match="weights cannot be ranked"):
        score_weights(silent, batch, "snip")
    reference = ticket_of(projected(), batch, remove=3)
    small = {"dense": reference.params["dense"], "ticket": 10}
    object.__setattr__(reference, "params", small)
    with pytest.raises(LayerticketError, match=r"removes 1 to [\d,]+ parameters"):
        find_weight_ticket(projected(), batch, reference=reference)


def test_sparse_macs_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(144, 3)
    )
    from layerticket.baselines.weights import _sparse_macs

    gone = {"0.weight": 18, "2.weight": 32}
    macs = {"": 36 * 72 + 432, "0": 36 * 72, "1": 0, "2": 432}
    assert _sparse_macs(model, macs, gone) == 36 * 54 + 400
