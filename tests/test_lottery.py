"""Algorithm 1 and 2: what is set back is what was kept, and training goes on from there."""

import dataclasses
import json
import re

import pytest
import torch

from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError
from layerticket.lottery import (
    draw_after_training,
    draw_at_initialization,
    draw_batch,
    find_in_rounds,
    find_in_training,
    origin_of,
    start_of,
)
from layerticket.modules import copy_of
from layerticket.selection import Budget
from layerticket.tensors import load_tensors
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import CHECKPOINT, METRICS, Snapshot, load_snapshot
from layerticket.training.device import Where
from layerticket.training.recipe import Recipe
from toy_lottery import few_digits, small_resnet

RECIPE = Recipe(epochs=4, batch_size=64, precision="fp32")
AVERAGED = dataclasses.replace(RECIPE, ema_decay=0.9)


def play(folder, recipe=RECIPE, model=None, **options):
    options = {"criterion": "snip", "budget": Budget(remove=2), "to": "50%"} | options
    how = {"seed": 3, "where": Where(device="cpu", progress=False), "folder": folder}
    return draw_after_training(model or small_resnet(), few_digits(), recipe, **how, **options)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def metrics(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lottery")
    return folder, play(folder)


def test_what_is_kept_is_set_back_bit_for_bit(played):
    folder, drawn = played
    ticket, theta = drawn.ticket, load_snapshot(folder / "round-1", 2)
    gone = tuple(f"{name}." for name in ticket.removed)
    kept = {n: t for n, t in theta.weights.items() if not n.startswith(gone)}
    assert same(dict(ticket.init), kept)
    assert any("running_mean" in name for name in kept)  # buffers too
    momentum = {n: t for n, t in theta.optimizer.items() if not n.startswith(gone)}
    assert momentum
    assert same(dict(ticket.optimizer), momentum)
    assert same(ticket.apply(small_resnet(seed=8)).state_dict(), kept)
    assert (ticket.origin.scored_epoch, ticket.origin.rewind_epoch) == (4, 2)
    assert Recipe(**ticket.origin.recipe) == RECIPE


def test_the_scores_are_those_of_the_trained_network(played):
    folder, drawn = played
    trained = small_resnet(seed=8)
    trained.load_state_dict(dict(load_snapshot(folder / "round-1", 4).weights))
    batch = draw_batch(few_digits(), None, seed=3)
    expected = find_ticket(trained, batch, criterion="snip", budget=Budget(remove=2))
    assert drawn.ticket.scores == expected.scores
    assert drawn.ticket.weights == expected.weights
    untrained = find_ticket(small_resnet(), batch, criterion="snip", budget=Budget(remove=2))
    assert drawn.ticket.scores != untrained.scores


def test_the_schedule_and_the_images_are_the_tail_of_the_dense_ones(tmp_path, monkeypatch):
    from layerticket.training import steps as session

    passes, real = [], session.batches

    def batches(*args, **options):
        labels = [labels.tolist() for _, labels in real(*args, **options)]
        passes.append((options["seed"], options["epoch"], labels))
        return real(*args, **options)

    monkeypatch.setattr(session, "batches", batches)
    drawn = play(tmp_path)
    assert drawn.training.epochs == 2
    dense, ticket = passes[:4], passes[4:]
    assert [epoch for _, epoch, _ in passes] == [0, 1, 2, 3, 2, 3]
    assert ticket == dense[2:]
    rates = [(m["epoch"], m["learning_rate"]) for m in metrics(tmp_path / "round-1")]
    assert [(m["epoch"], m["learning_rate"]) for m in metrics(tmp_path / "ticket")] == rates[2:]


def test_back_to_zero_is_theta_0_without_momentum(tmp_path):
    drawn = play(tmp_path, to=0)
    first = small_resnet().state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in drawn.ticket.init.items())
    assert drawn.ticket.optimizer == {}
    assert drawn.training.epochs == 4


def test_a_rewound_ticket_is_saved_and_loaded(played, tmp_path):
    ticket = played[1].ticket
    loaded = Ticket.load(ticket.save(tmp_path / "t"))
    assert loaded.digest == ticket.digest
    assert loaded.origin == ticket.origin
    assert loaded.rewind_epoch == 2
    assert same(dict(loaded.optimizer), dict(ticket.optimizer))
    other = (tmp_path / "t" / "optimizer.safetensors").read_bytes()
    (tmp_path / "t" / "optimizer.safetensors").write_bytes(other[:-4] + bytes(4))
    with pytest.raises(LayerticketError, match="damaged"):
        Ticket.load(tmp_path / "t")


def test_the_same_call_resumes(played, tmp_path, monkeypatch):
    from layerticket.training import fit

    train_epoch, calls = fit.train_epoch, []

    def cut(trainer, state, tell):
        calls.append(state.epoch)
        if len(calls) == 6:  # the second epoch of the ticket
            raise KeyboardInterrupt
        return train_epoch(trainer, state, tell)

    monkeypatch.setattr(fit, "train_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path)
    drawn = play(tmp_path)
    assert calls == [0, 1, 2, 3, 2, 3, 3]
    assert drawn.ticket.digest == played[1].ticket.digest
    assert same(drawn.network.state_dict(), played[1].network.state_dict())


def test_rounds_train_the_smaller_network_in_between(tmp_path):
    drawn = play(tmp_path, rounds=2, budget=Budget(remove=3), to="25%")
    ticket = drawn.ticket
    assert [len(names) for names in ticket.order] == [2, 1]
    assert len(ticket.removed) == 3
    assert [m["epoch"] for m in metrics(tmp_path / "round-2")] == [2, 3, 4]
    theta = load_snapshot(tmp_path / "round-1", 1)
    assert all(torch.equal(tensor, theta.weights[name]) for name, tensor in ticket.init.items())
    once = play(tmp_path / "once", budget=Budget(remove=2), to="25%").ticket
    assert once.order[0] == ticket.order[0]
    second = load_snapshot(tmp_path / "round-2", 4).weights
    assert second.keys() == once.init.keys()


@pytest.mark.parametrize("recipe", [RECIPE, AVERAGED], ids=["plain", "average"])
def test_a_network_that_loses_nothing_repeats_the_end_of_its_training(tmp_path, recipe):
    """The block that is removed adds zero in the dense network too, and is not trained."""
    dense = small_resnet()
    blocks = find_blocks(dense, torch.zeros(1, *few_digits().shape))
    first, *others = [block.name for block in blocks]
    block = dense.get_submodule(first)
    torch.nn.init.zeros_(block.bn2.weight)
    block.requires_grad_(False)
    drawn = play(
        tmp_path, recipe, dense, criterion="magnitude", budget=Budget(remove=1), protect=others
    )
    assert drawn.ticket.removed == (first,)
    whole, rest = (load_tensors(tmp_path / n / CHECKPOINT)[0] for n in ("round-1", "ticket"))
    assert any(name.startswith("ema/") for name in rest) == bool(recipe.ema_decay)
    assert same(rest, {n: t for n, t in whole.items() if f"/{first}." not in n})


def test_the_average_is_scored_and_rewound(tmp_path):
    drawn = play(tmp_path, AVERAGED)
    ticket, folder = drawn.ticket, tmp_path / "round-1"
    batch = draw_batch(few_digits(), None, seed=3)

    def scores(weights):
        network = small_resnet()
        network.load_state_dict(dict(weights))
        return find_ticket(network, batch, criterion="snip", budget=Budget(remove=2)).scores

    last, half = load_snapshot(folder, 4), load_snapshot(folder, 2)
    assert ticket.scores == scores(last.average) != scores(last.weights)
    early = find_in_training(
        small_resnet(), batch, run="r", scored=half, rewind_to=half,
        recipe=AVERAGED, criterion="snip", budget=Budget(remove=2),
    )  # fmt: skip
    assert early.scores == scores(half.average) != scores(half.weights)
    kept = {name: half.average[name] for name in ticket.init}
    assert same(dict(ticket.average), kept)
    assert not same(dict(ticket.average), dict(ticket.init))
    loaded = Ticket.load(ticket.save(tmp_path / "t"))
    assert loaded.digest == ticket.digest
    assert same(dict(start_of(loaded).average), kept)


def test_a_ticket_without_its_average_is_refused(tmp_path):
    ticket = play(tmp_path, AVERAGED).ticket
    old = dataclasses.replace(ticket, average={})
    with pytest.raises(LayerticketError, match=r"no running average .* Find the ticket again"):
        start_of(old)
    zero = dataclasses.replace(old, origin=dataclasses.replace(old.origin, rewind_epoch=0))
    assert start_of(zero).average == {}  # theta_0 is its own average


def test_a_snapshot_without_its_average_is_refused(tmp_path):
    weights = small_resnet().state_dict()
    end, start = (Snapshot(epoch=epoch, weights=weights) for epoch in (4, 2))
    with pytest.raises(LayerticketError, match=r"epoch 2 has no running average"):
        origin_of("r", AVERAGED, scored=end, rewind_to=start)
    zero = dataclasses.replace(start, epoch=0)
    assert origin_of("r", AVERAGED, scored=end, rewind_to=zero).rewind_epoch == 0


def test_an_early_ticket_is_scored_where_asked(tmp_path, played):
    batch = draw_batch(few_digits(), None, seed=3)
    theta = load_snapshot(played[0] / "round-1", 2)
    early = find_in_training(
        small_resnet(), batch, run="r", scored=theta, rewind_to=theta,
        recipe=RECIPE, criterion="snip", budget=Budget(remove=2),
    )  # fmt: skip
    assert early.origin.scored_epoch == 2
    assert early.scores != played[1].ticket.scores


def test_algorithm_2_trains_the_ticket_found_at_initialization(tmp_path):
    model, data = small_resnet(), few_digits()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = draw_at_initialization(
        model, data, RECIPE, criterion="snip", budget=Budget(remove=2), seed=3, folder=tmp_path,
        where=Where(device="cpu", progress=False),
    )  # fmt: skip
    batch = draw_batch(data, None, seed=3)
    expected = find_ticket(model, batch, criterion="snip", budget=Budget(remove=2), seed=3)
    assert drawn.ticket.digest == expected.digest
    assert drawn.training.epochs == 4
    assert same(model.state_dict(), before)
    assert drawn.network.state_dict().keys() == expected.init.keys()


def test_what_cannot_be_rewound_is_refused(played):
    folder = played[0] / "round-1"
    half, last = load_snapshot(folder, 2), load_snapshot(folder, 4)
    odd = dataclasses.replace(half, weights={})
    for scored, rewind_to, message in (
        (last, last, "leaves nothing to train"),
        (last, odd, "differs or is missing"),
        (odd, half, "do not fit"),
    ):
        with pytest.raises(LayerticketError, match=message):
            find_in_training(
                small_resnet(), draw_batch(few_digits(), None, seed=3), run="r", scored=scored,
                rewind_to=rewind_to, recipe=RECIPE, criterion="snip", budget=Budget(remove=1),
            )  # fmt: skip


def snapshot(model, epoch):
    """Weights, momentum and average that say where they come from."""
    weights = {n: torch.randn_like(t) if t.is_floating_point() else t
               for n, t in model.state_dict().items()}  # fmt: skip
    momentum = {f"{n}/momentum_buffer": weights[n] + 1 for n, _ in model.named_parameters()}
    average = {name: tensor + 2 for name, tensor in weights.items()}
    return Snapshot(epoch=epoch, weights=weights, optimizer=momentum, average=average)


def test_layers_that_are_numbered_anew_get_their_own_weights_back():
    """Layer 2 of a Hugging Face network is layer 1 once an earlier one is gone."""
    transformers = pytest.importorskip("transformers")
    size = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8,
            "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 8,
            "num_labels": 3}  # fmt: skip
    dense = transformers.ViTForImageClassification(transformers.ViTConfig(**size))
    batch = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    theta, scored = snapshot(dense, 1), snapshot(dense, 4)
    how = {"run": "r", "recipe": RECIPE, "criterion": "magnitude"}
    first = find_in_training(
        dense, batch, scored=scored, rewind_to=theta, budget=Budget(remove=1), **how
    )
    own = copy_of(dense)
    own.load_state_dict(theta.weights)
    assert same(dict(first.init), first.apply(own, initialization="model").state_dict())
    trained = snapshot(first.apply(dense), 4)
    middle = snapshot(first.apply(dense), 2)  # kept in the second training, under its names
    for rewind_to in (theta, middle):
        second = find_in_training(
            dense, batch, scored=trained, rewind_to=rewind_to, within=first,
            budget=Budget(remove=3), **how,
        )  # fmt: skip
        assert len(second.removed) == 3
        if rewind_to is theta:
            expected = second.apply(own, initialization="model").state_dict()
        else:
            (left,) = second.kept
            place = first.kept.index(left)
            expected = {
                re.sub(rf"(layers?)\.{place}\.", r"\1.0.", name): value
                for name, value in middle.weights.items()
                if not re.search(r"layers?\.\d", name) or re.search(rf"layers?\.{place}\.", name)
            }
        assert same(dict(second.init), expected)
        assert same(dict(second.average), {name: value + 2 for name, value in expected.items()})
        owners = {key.rpartition("/")[0] for key in second.optimizer}
        assert owners == {name for name, _ in second.apply(dense).named_parameters()}
        for key, value in second.optimizer.items():
            assert torch.equal(value, second.init[key.rpartition("/")[0]] + 1)


def test_rounds_with_a_trainer_of_ones_own():
    """The loop takes any `train` that gives snapshots; here each one is drawn at random."""
    dense, seen = small_resnet(), []

    def train(network, start):
        seen.append((start.epoch, sorted(network.state_dict())))
        return {epoch: snapshot(network, epoch) for epoch in (1, 4)}

    batch = draw_batch(few_digits(), None, seed=3)
    ticket = find_in_rounds(
        dense, batch, train, recipe=RECIPE, budget=Budget(remove=4), rewind_to=1, rounds=2,
        criterion="snip",
    )  # fmt: skip
    assert [len(names) for names in ticket.order] == [2, 2]
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert len(seen[1][1]) < len(seen[0][1])
    assert start_of(ticket).epoch == 1
    assert ticket.origin.run == "round-2"
