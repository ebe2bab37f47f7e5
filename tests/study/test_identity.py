"""Names of trainings: what decides how one ends is in its name, and nothing else."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

from hf_families import FAMILIES
from layerticket.errors import LayerticketError
from layerticket.lottery import draw_batch
from layerticket.selection import Budget
from layerticket.study.identity import (
    NEUTRAL,
    TrainingIdentity,
    callable_identity,
    data_identity,
    module_text,
    start_of,
)
from layerticket.study.train import Networks, plan_training, train
from layerticket.ticket.find import find_ticket
from layerticket.training.checkpoint import load_snapshot
from layerticket.training.device import Where
from layerticket.training.recipe import Recipe
from toy_lottery import few_digits
from toy_training import make_data

IDENTITY = TrainingIdentity(
    network="a" * 64,
    start={"drawn": {"name": "resnet20", "seed": 0}},
    removed={"kind": "blocks", "names": ["layer1.0"]},
    recipe={"epochs": 2},
    seed=3,
    data={"fingerprint": "f" * 64},
)
OTHER = {
    "network": "b" * 64,
    "start": {"drawn": {"name": "resnet20", "seed": 7}},
    "removed": {"kind": "blocks", "names": ["layer1.1"]},
    "recipe": {"epochs": 3},
    "seed": 4,
    "data": {"fingerprint": "0" * 64},
    "fit": {"name": "mine:fit", "text": "c" * 64},
    "processes": 2,
    "sync_batch_norm": True,
    "revision": 3,
}


def test_the_identity_of_data_holds_all_that_decides_a_training():
    data = make_data()
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    wide = {
        name: dataclasses.replace(split, images=split.images.to(torch.uint16))
        for name, split in splits.items()
    }
    assert data_identity(dataclasses.replace(data, value_range=(0, 1000), **wide)) == {
        "fingerprint": "f" * 64,
        "type": "uint16",
        "range": [0, 1000],
        "mean": [0.3, 0.3, 0.3],
        "std": [0.2, 0.2, 0.2],
        "classes": 3,
    }


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainingIdentity)])
def test_every_field_changes_the_name(field):
    assert field in OTHER, f"say here to what other value {field!r} can be set"
    assert dataclasses.replace(IDENTITY, **{field: OTHER[field]}).name != IDENTITY.name


def test_neutral_values_leave_no_trace():
    bare = TrainingIdentity(network="a", start={}, seed=0, revision=1)
    assert set(bare.as_record()) == {"network", "start", "seed", "revision"}
    # These mean "not there" for ever: a field that is added later keeps old names.
    assert NEUTRAL == {
        "removed": None, "recipe": None, "data": None, "fit": None,
        "processes": 1, "sync_batch_norm": False,
    }  # fmt: skip
    assert bare.name.startswith("dense-seed0-")


def test_the_name_of_a_known_training_stays():
    assert IDENTITY.name == "blocks-seed3-d88300313b763c9b"


def test_names_of_blocks_have_no_order():
    data, networks = few_digits(), Networks.of(few_digits())
    dense = networks.build("resnet20", 0)
    batch = draw_batch(data, None, seed=0)
    ticket = find_ticket(
        dense, batch, criterion="snip", budget=Budget(remove=2), name="resnet20", seed=0
    )
    from layerticket.study.record import Removal

    turned = dataclasses.replace(Removal.of(ticket), blocks=Removal.of(ticket).blocks[::-1])
    assert turned.identity == Removal.of(ticket).identity


def find(networks, data, tmp_path, seed, stated):
    """A ticket of two blocks, found in the network of one seed and stating another."""
    dense = networks.build("resnet20", seed)
    ticket = find_ticket(
        dense,
        draw_batch(data, None, seed=0),
        criterion="magnitude",
        budget=Budget(remove=1),
        name="resnet20",
        seed=stated,
    )
    return ticket.save(tmp_path / f"{seed}-{stated}")


def planned(networks, data, **options):
    options = {"seed": 0, "device": "cpu"} | options
    recipe = options.pop("recipe", Recipe(epochs=1, precision="fp32"))
    return plan_training(networks, "resnet20", data, recipe, **options).identity


def test_a_start_counts_as_drawn_only_if_its_tensors_are(tmp_path):
    data = few_digits()
    networks = Networks.of(data)
    own = planned(networks, data, ticket=find(networks, data, tmp_path, 0, 0))
    assert own.start == {"drawn": {"name": "resnet20", "seed": 0}}
    # Two networks with seeds 0 and 7, both found with seed=0, are two trainings.
    foreign = planned(networks, data, ticket=find(networks, data, tmp_path, 7, 0))
    assert set(foreign.start) == {"digest"}
    assert own.name != foreign.name
    said = planned(networks, data, ticket=find(networks, data, tmp_path, 7, 7))
    assert said.start == {"drawn": {"name": "resnet20", "seed": 7}}


def test_who_chose_a_ticket_is_no_part_of_its_name(tmp_path):
    data = few_digits()
    networks = Networks.of(data)
    folder = find(networks, data, tmp_path, 0, 0)
    from layerticket.ticket.ticket import Ticket

    ticket = Ticket.load(folder)
    other = dataclasses.replace(
        ticket, criterion="snip", scores={}, batch="0" * 64, score_seconds=9.0
    ).save(tmp_path / "other")
    assert planned(networks, data, ticket=folder) == planned(networks, data, ticket=other)
    fresh = planned(
        networks, data, ticket=folder, initialization="seed", initialization_seed=10_000
    )
    assert fresh.start == {"drawn": {"name": "resnet20", "seed": 10_000}}
    assert fresh.removed == planned(networks, data, ticket=folder).removed


def test_data_are_named_by_bytes_type_and_normalization():
    data = make_data()
    own = data_identity(data)
    for change in ({"fingerprint": "0" * 64}, {"mean": (0.1, 0.2, 0.3)}, {"std": (1.0, 1.0, 1.0)}):
        assert data_identity(dataclasses.replace(data, **change)) != own
    assert data_identity(dataclasses.replace(data, title="other words")) == own


def test_functions_of_a_module_are_named_by_its_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "mynets_of_identity.py"
    module.write_text("WIDTH = 4\ndef make(): ...\n")
    name = "mynets_of_identity:make"
    before = callable_identity(name)
    assert before == {"name": name, "text": module_text(name)}
    module.write_text("WIDTH = 5\ndef make(): ...\n")  # a constant beside the function
    assert callable_identity(name)["text"] != before["text"]
    assert callable_identity("resnet20") == {"name": "resnet20"}
    assert callable_identity("timm:resnet18") == {"name": "timm:resnet18"}
    with pytest.raises(LayerticketError, match=r"the file of module .* was not found"):
        module_text("no_such_module_here:make")
    assert "mynets_of_identity" not in sys.modules  # it was read, not run


def test_other_functions_are_named_by_a_version_or_by_this_call():
    def make():
        return None

    def other():
        return None

    assert callable_identity(make, "2") == callable_identity(make, "2")
    assert callable_identity(make, "2") != callable_identity(make, "3")
    assert callable_identity(make) == callable_identity(make)  # as long as it lives
    assert callable_identity(make)["call"] != callable_identity(other)["call"]


def test_a_function_must_agree_with_itself_and_draw_its_weights():
    calls = []

    def moody(num_classes, in_channels):
        calls.append(0)
        return torch.nn.Linear(in_channels, num_classes + len(calls) % 2)

    def loaded(num_classes, in_channels):
        layer = torch.nn.Linear(in_channels, num_classes)
        torch.nn.init.ones_(layer.weight)
        return layer

    def drawn(num_classes, in_channels):
        return torch.nn.Linear(in_channels, num_classes)

    functions = {"moody": moody, "loaded": loaded, "drawn": drawn}
    networks = Networks(classes=3, channels=2, functions=functions, version="1")
    with pytest.raises(LayerticketError, match="different weights for the same random seed"):
        networks.draws("moody", None, [0], nn.Identity())
    assert networks.draws("loaded", None, [0], nn.Identity()) == {}
    assert set(networks.draws("drawn", None, [0, 5], nn.Identity())) == {0, 5}
    first = networks.build("loaded", 0)
    named = start_of(first, epoch=0, optimizer={}, average={}, draws={}, model={})
    assert set(named) == {"digest"}


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_start_without_optimizer_or_average_is_not_the_snapshot(decay, tmp_path):
    data = few_digits()
    networks = Networks.of(data)
    training = plan_training(
        networks, "resnet20", data, Recipe(epochs=2, precision="fp32", ema_decay=decay), seed=0,
        device="cpu",
    )  # fmt: skip
    folder, _ = train(training, tmp_path, snapshots=(1,), where=Where(device="cpu", progress=False))
    kept = load_snapshot(folder, 1)

    def with_weights(weights):
        network = networks.build("resnet20", 0)
        network.load_state_dict(dict(weights))
        return network

    def start(optimizer, average):
        return start_of(
            with_weights(kept.weights), epoch=1, optimizer=optimizer, average=average, draws={},
            model={}, origin=folder, smaller=with_weights,
        )  # fmt: skip

    named = {"training": folder.name, "epoch": 1} | ({"average": True} if decay else {})
    assert start(kept.optimizer, kept.average) == {"snapshot": named}
    averaged = {"average"} if decay else set()
    assert set(start({}, kept.average)) == {"digest", "epoch"} | averaged
    for average in ({}, kept.weights) if decay else (kept.weights,):
        found = set(start(kept.optimizer, average))
        assert found == {"digest", "epoch", "optimizer"} | ({"average"} if average else set())


def test_weights_that_an_option_loads_are_not_drawn(tmp_path):
    pytest.importorskip("transformers")
    FAMILIES["vit"].build().save_pretrained(tmp_path)
    networks = Networks(classes=5, channels=3)
    for option in ("", ",hidden_act=relu"):
        assert networks.draws(f"hf:{tmp_path}{option}", None, [0], nn.Identity())
    assert not networks.draws(f"hf:{tmp_path},weights=True", None, [0], nn.Identity())
