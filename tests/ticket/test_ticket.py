"""Tickets: found, saved, read back, applied, and what is refused."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket, architecture_digest
from tiny import conv_net, image_batch, owned_by_the_caller


def fresh(seed=0):
    torch.manual_seed(seed)
    return conv_net()


def find(model=None, **options):
    options = {"criterion": "grasp", "budget": Budget(remove=2)} | options
    return find_ticket(model or fresh(), image_batch(), **options)


@pytest.fixture
def saved(tmp_path):
    ticket = find(name="tiny:conv_net", seed=0)
    return ticket, ticket.save(tmp_path / "deep" / "ticket")


def test_the_record_says_what_was_done_and_why():
    model = fresh()
    before = owned_by_the_caller(model)
    ticket = find(model, seed=3, temperature=2.0)
    assert owned_by_the_caller(model)[:4] == before[:4]
    assert (ticket.model, ticket.criterion, ticket.seed) == ("Sequential", "grasp", 3)
    assert (ticket.options["loss_fn"], ticket.options["temperature"]) == ("cross_entropy", 2.0)
    assert len(ticket.removed) == 2
    assert set(ticket.removed) | set(ticket.kept) == set(ticket.scores) == {"2", "3", "5"}
    assert max(ticket.scores, key=ticket.scores.get) == ticket.kept[0]
    assert ticket.examples == 12
    small = ticket.apply(model)
    assert ticket.params["ticket"] == sum(p.numel() for p in small.parameters())
    assert ticket.params["dense"] == sum(p.numel() for p in model.parameters())
    assert ticket.macs["ticket"] < ticket.macs["dense"]


def test_save_load_apply(saved):
    ticket, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["init.safetensors", "ticket.json"]
    again = Ticket.load(str(folder))
    assert again.digest == ticket.digest
    for field in dataclasses.fields(Ticket):
        if field.name != "init":
            assert getattr(again, field.name) == getattr(ticket, field.name), field.name
    images = image_batch()[0]
    expected = ticket.apply(fresh()).eval()(images)
    other = fresh(seed=9)
    before = owned_by_the_caller(other)
    small = again.apply(other)
    assert owned_by_the_caller(other)[:4] == before[:4]
    assert type(small) is nn.Sequential
    assert torch.equal(small.eval()(images), expected)


def test_apply_with_the_models_own_weights(saved):
    ticket, _ = saved
    other = fresh(seed=9)
    small = ticket.apply(other, initialization="model")
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert not torch.equal(small[0].weight, ticket.init["0.weight"])
    with pytest.raises(
        LayerticketError, match="initialization is 'zero'; allowed are 'ticket' and"
    ):
        ticket.apply(other, initialization="zero")


def test_another_model_is_refused(saved):
    ticket, _ = saved
    wider, renamed, swapped = fresh(), fresh(), fresh()
    wider[7] = nn.Linear(6, 4)
    renamed.add_module("extra", nn.Identity())
    swapped[6][1] = nn.GELU()
    for model in (wider, renamed, swapped, conv_net(pre=False).double(), nn.Linear(2, 2)):
        with pytest.raises(LayerticketError, match=r"found in 'tiny:conv_net' \(.*Build the same"):
            ticket.apply(model)


def test_the_same_ticket_twice_is_fine_and_another_in_its_place_is_refused(saved):
    ticket, folder = saved
    before = (folder / "ticket.json").read_bytes()
    dataclasses.replace(ticket, score_seconds=99.0).save(folder)
    assert json.loads((folder / "ticket.json").read_text())["removed"] == list(ticket.removed)
    Ticket.load(folder)
    ticket.save(folder)
    assert (folder / "ticket.json").read_bytes() == before
    for other in (find(fresh(1)), find(budget=Budget(remove=1)), find(criterion="snip")):
        with pytest.raises(LayerticketError, match="has another ticket; choose an empty folder"):
            other.save(folder)
    assert (folder / "ticket.json").read_bytes() == before


@pytest.mark.parametrize("name", ["ticket.json", "init.safetensors"])
def test_missing_and_truncated_files_are_refused(saved, name):
    _, folder = saved
    path = folder / name
    content = path.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        with pytest.raises(LayerticketError, match=name):
            Ticket.load(folder)
    path.unlink()
    with pytest.raises(LayerticketError, match=f"{name} is missing. Make a ticket with"):
        Ticket.load(folder)


@pytest.mark.parametrize(
    "change",
    [{"removed": ["2", "3"]}, {"scores": {}}, {"checksum": "0" * 64}, {"init": "0" * 64},
     {"seed": 8}, {"new": 1}],
)  # fmt: skip
def test_a_changed_record_is_refused(saved, change):
    ticket, folder = saved
    if change.get("removed") == list(ticket.removed):
        change = {"removed": ["2", "5"]}
    record = json.loads((folder / "ticket.json").read_text())
    (folder / "ticket.json").write_text(json.dumps(record | change))
    with pytest.raises(LayerticketError, match=r"was changed after it was written \(its checksum"):
        Ticket.load(folder)


def test_changed_weights_are_refused(saved):
    _, folder = saved
    path = folder / "init.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(LayerticketError, match=r"init\.safetensors is damaged"):
        Ticket.load(folder)


def test_weights_of_another_ticket_are_refused(saved, tmp_path):
    _, folder = saved
    other = find(fresh(1)).save(tmp_path / "other")
    (folder / "init.safetensors").write_bytes((other / "init.safetensors").read_bytes())
    with pytest.raises(LayerticketError, match="its checksum is wrong"):
        Ticket.load(folder)


@pytest.mark.parametrize("schema", [1, 3, None, "2"])
def test_an_unknown_schema_is_refused(saved, schema):
    _, folder = saved
    record = json.loads((folder / "ticket.json").read_text()) | {"schema": schema}
    (folder / "ticket.json").write_text(json.dumps(record))
    with pytest.raises(LayerticketError, match=rf"has schema {schema!r}; this version.* schema 2"):
        Ticket.load(folder)


def test_the_digest_is_the_evidence_and_not_the_circumstances():
    ticket = find(seed=0)
    assert ticket.digest == find(seed=0).digest
    assert ticket.digest == dataclasses.replace(ticket, score_seconds=9.0, versions={}).digest
    changed = {name: value + 1 for name, value in ticket.init.items()}
    assert ticket.digest != dataclasses.replace(ticket, init=changed).digest
    assert ticket.digest != find(seed=1).digest


def test_selection_options_reach_the_choice():
    assert "2" in find(budget=Budget(remove=2), protect=["2"]).kept
    assert find(keep_neighbours=True, budget=Budget(remove=1)).removed == ("2",)
    assert "5" in find(min_per_stage=1, budget=Budget(remove=1)).kept
    with pytest.raises(LayerticketError, match="asks for 4 blocks"):
        find(budget=Budget(remove=4))
    with pytest.raises(LayerticketError, match="no removable residual block"):
        find(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)))


def test_what_was_removed_is_told_apart_from_who_chose_it():
    one, other = find(criterion="grasp", seed=0), find(criterion="random", seed=1)
    same = dataclasses.replace(other, removed=one.removed[::-1])
    assert one.digest != same.digest
    assert one.removal_identity() == same.removal_identity() == sorted(one.removed)
    assert one.removed_record == list(one.removed)

    filters = {"a": (1, 0), "b": (), "c": (2,)}
    thin = dataclasses.replace(one, kind="filters", removed=("a", "c"), filters=filters)
    again = dataclasses.replace(thin, filters={"c": (2,), "a": (0, 1)}, criterion="l1")
    assert thin.removal_identity() == again.removal_identity()
    fewer = dataclasses.replace(thin, filters={"a": (0, 1)})
    assert thin.removal_identity() != fewer.removal_identity()
    assert thin.removed_record == {"a": [1, 0], "b": [], "c": [2]}

    masks = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])}
    sparse = dataclasses.replace(one, kind="masks", removed=("a",), masks=masks)
    again = dataclasses.replace(sparse, masks={"a": torch.tensor([True, False])}, criterion="imp")
    assert sparse.removal_identity() == again.removal_identity()
    turned = dataclasses.replace(sparse, masks={"a": torch.tensor([False, True])})
    assert sparse.removal_identity() != turned.removal_identity()
    assert sparse.removed_record == {"a": 1, "b": 0}


def test_more_blocks_go_only_from_a_ticket_of_blocks():
    ticket = find(budget=Budget(remove=1))
    masked = dataclasses.replace(ticket, kind="masks")
    with pytest.raises(LayerticketError, match="the given ticket removes masks; more blocks"):
        find(within=masked)


def test_a_ticket_fits_in_every_version_that_prints_other_default_settings(monkeypatch):
    """PyTorch 2.15 prints `bias=True` of a batch norm, 2.11 does not."""

    def network(**settings):
        return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, **settings))

    first = architecture_digest(network())
    others = {"eps": 1e-3}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}
    changed = [architecture_digest(network(**settings)) for settings in others]
    assert len({first, *changed}) == 5
    plain = "{num_features}, eps={eps}, momentum={momentum}, affine={affine}, track_running_stats="
    for more in ("", ", bias={_bias}"):

        def printed(self, more=more):
            text = f"{plain}{{track_running_stats}}{more}"
            return text.format(**self.__dict__, _bias=self.bias is not None)

        monkeypatch.setattr(nn.BatchNorm2d, "extra_repr", printed)
        assert architecture_digest(network()) == first
        assert [architecture_digest(network(**settings)) for settings in others] == changed


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": (3, 5)}, {"stride": 2}, {"padding": 1}, {"dilation": (1, 2)}, {"groups": 2},
        {"bias": True}, {"padding_mode": "reflect"},
    ],
)  # fmt: skip
def test_every_setting_of_a_convolution_counts(change):
    plain = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "bias": False}
    one, two = (architecture_digest(nn.Conv2d(**of)) for of in (plain, plain | change))
    assert one != two
    assert architecture_digest(nn.Conv2d(**plain, padding_mode="zeros")) == one
    assert architecture_digest(nn.Upsample(2)) == architecture_digest(nn.Upsample(2, None))


class Scaled(nn.Module):
    """A module of another library, whose defaults may change."""

    def __init__(self, bias=0.1, scale=2.0):
        super().__init__()
        self.bias, self.scale = bias, scale

    def extra_repr(self):
        return f"bias={self.bias}, scale={self.scale}"


def test_every_setting_of_a_module_that_is_not_of_pytorch_counts():
    plain = architecture_digest(Scaled())
    assert architecture_digest(Scaled(bias=0.2)) != plain
    assert architecture_digest(Scaled(scale=3.0)) != plain

    class Other(Scaled):
        def __init__(self, bias=0.1, scale=3.0):
            super().__init__(bias, scale)

    Other.__qualname__, Other.__module__ = Scaled.__qualname__, Scaled.__module__
    assert architecture_digest(Other()) == architecture_digest(Scaled(scale=3.0))
