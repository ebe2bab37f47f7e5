"""Filters really go, as many as the ticket leaves, and what stays is a slice of theta_0."""

import copy
import importlib

import pytest
import torch
from torch import nn

from layerticket.baselines.filters import (
    ChannelCounts,
    count_filters,
    find_filter_ticket,
    ranks,
    require_equal_to_zeroed,
    take_channels,
    zero_channels,
)
from layerticket.counting import count_macs, count_params
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.scoring import score_filters
from layerticket.surgery.channels import coupled_channels, without_channels
from layerticket.ticket.ticket import Ticket
from tiny import owned_by_the_caller
from toy_baselines import CenteredPadding, batch_of, projected, resnet20, ticket_of

MATCHES = ("filters", "macs", "params")


def figures(model, images):
    return {
        "filters": count_filters(model),
        "macs": count_macs(model, images[:1]),
        "params": count_params(model),
    }


def test_groups_are_those_read_off_the_network():
    groups = {g.root: g for g in coupled_channels(projected(), batch_of()[0][:1])}
    assert {root: (g.size, g.filters) for root, g in groups.items()} == {
        "0": (4, ("0", "3.conv2", "4.conv2")),
        "3.conv1": (4, ("3.conv1",)),
        "4.conv1": (4, ("4.conv1",)),
        "5.conv1": (6, ("5.conv1",)),
        "5.conv2": (6, ("5.conv2", "5.skip.0", "6.conv2")),
        "6.conv1": (6, ("6.conv1",)),
    }
    readers = {part.layer for part in groups["5.conv2"].parts if part.side == "in"}
    assert readers == {"6.conv1", "9"}
    assert count_filters(projected()) == 4 + 8 + 8 + 18 + 12


def test_counts_are_what_the_smaller_network_has():
    model, (images, _) = projected(), batch_of()
    groups = coupled_channels(model, images[:1])
    tally = ChannelCounts.of(model, images[:1], groups)
    removed = {}
    assert {f: tally.total(f) for f in MATCHES} == figures(model, images)
    for group, channels in zip(groups, [(1, 3), (0,), (), (2, 4, 5), (0, 1), (3,)], strict=True):
        for channel in channels:
            before = {f: tally.total(f) for f in MATCHES}
            costs = {f: tally.saving(group, channel, f) for f in MATCHES}
            tally.take(group, channel)
            assert {f: before[f] - tally.total(f) for f in MATCHES} == costs
        removed |= dict.fromkeys(group.filters, channels)
    small = without_channels(model, removed, images[:1])
    assert {f: tally.total(f) for f in MATCHES} == figures(small, images)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "l1", "random"])
@pytest.mark.parametrize("match", MATCHES)
def test_the_match_is_met_and_said(criterion, match):
    model, batch = projected(), batch_of()
    reference = ticket_of(model, batch)
    before = owned_by_the_caller(model)
    baseline = find_filter_ticket(
        model, batch, criterion=criterion, match=match, reference=reference
    )
    assert owned_by_the_caller(model) == before
    small = baseline.apply(model)
    have, wanted = figures(small, batch[0]), figures(reference.apply(model), batch[0])
    told = baseline.match
    assert {f: told[f]["baseline"] for f in MATCHES} == have
    assert {f: told[f]["reference"] for f in MATCHES} == wanted
    assert told["difference"] == have[match] - wanted[match]
    assert told["relative_difference"] == told["difference"] / wanted[match]
    assert baseline.params["ticket"] == have["params"] < baseline.params["dense"]
    assert baseline.macs["ticket"] == have["macs"] < baseline.macs["dense"]
    assert baseline.examples == (12 if criterion in ("snip", "grasp") else 0)
    if match == "filters":
        assert have["filters"] == wanted["filters"]
    # no single further channel would have brought it nearer
    groups = coupled_channels(small, batch[0][:1])
    tally = ChannelCounts.of(small, batch[0][:1], groups)
    for group in groups:
        if group.size > 1:
            nearer = abs(told["difference"] - tally.saving(group, 0, match))
            assert nearer >= abs(told["difference"])


def test_what_stays_is_a_slice_of_theta_0():
    model, batch = projected(), batch_of()
    baseline = find_filter_ticket(model, batch, match="macs", reference=ticket_of(model, batch, 2))
    dense, groups = model.state_dict(), coupled_channels(model, batch[0][:1])
    kept = {}
    for group in groups:
        gone = baseline.filters.get(group.root, ())
        assert all(baseline.filters.get(layer, ()) == gone for layer in group.filters)
        for part in group.parts:
            lost = {i for channel in gone for i in part.indices[channel]}
            kept[part.layer, part.side] = lost
    small = baseline.apply(model)
    assert sum(len(gone) for gone in baseline.filters.values()) > 0
    for name, tensor in small.state_dict().items():
        layer, whole = name.rpartition(".")[0], dense[name]
        for axis, side in enumerate(("out", "in")[: min(whole.ndim, 2)]):
            lost = kept.get((layer, side), set())
            stay = [i for i in range(whole.shape[axis]) if i not in lost]
            whole = whole.index_select(axis, torch.tensor(stay))
        assert torch.equal(tensor, whole), name


def test_scores_are_sums_over_what_goes():
    model, batch = projected(), batch_of()
    groups = coupled_channels(model, batch[0][:1])
    l1 = score_filters(model, groups, batch, "l1").values
    w = {name: p.detach().double().abs() for name, p in model.named_parameters() if p.ndim > 1}
    expected = sum(w[f"{n}.weight"].sum((1, 2, 3)) for n in ("0", "3.conv2", "4.conv2")) / 3
    assert l1["0"] == pytest.approx(expected.tolist(), rel=1e-12)
    every = score_filters(model, groups, batch, "l1", slices="all").values
    read = w["6.conv2.weight"].sum((0, 2, 3)) + w["6.conv1.weight"].sum((1, 2, 3))
    assert every["6.conv1"] == pytest.approx(read.tolist(), rel=1e-12)
    one, other = (score_filters(model, groups, batch, "random", draw=d).values for d in (0, 1))
    assert one != other
    assert one == score_filters(model, groups, batch, "random").values


def test_l1_ranks_within_a_group_and_takes_the_same_share_of_each():
    model, batch = resnet20(), batch_of(10, 3, 16, 20)
    reference = ticket_of(model, batch, remove=2)
    baseline = find_filter_ticket(model, batch, criterion="l1", match="macs", reference=reference)
    assert baseline.options == {
        "slices": "filters", "ranked": "within groups", "normalization": "batch"
    }  # fmt: skip
    groups = coupled_channels(model, batch[0][:1])
    shares = []
    for group in groups:
        gone, scores = baseline.filters.get(group.root, ()), baseline.scores[group.root]
        lowest = sorted(range(group.size), key=lambda i: scores[i])[: len(gone)]
        assert set(gone) == set(lowest)
        shares.append((len(gone) / group.size, 1 / group.size))
    middle = sorted(share for share, _ in shares)[len(shares) // 2]
    assert middle > 0
    assert all(abs(share - middle) <= one for share, one in shares)
    places = ranks("l1", {"a": [3.0, 1.0, 2.0, 2.0], "b": [9.0]})
    assert places == {"a": [0.875, 0.125, 0.375, 0.625], "b": [0.5]}
    assert ranks("snip", {"a": [3.0, 1.0]}) == {"a": [3.0, 1.0]}


def test_channels_of_the_lowest_score_go_and_one_of_each_group_stays():
    model, (images, _) = projected(), batch_of()
    groups = coupled_channels(model, images[:1])
    # 5.conv1 scores lowest, then 3.conv1; all others high
    scores = {g.root: [10.0 + i for i in range(g.size)] for g in groups}
    scores |= {"5.conv1": [0.5, 0.1, 0.6, 0.2, 0.3, 0.4], "3.conv1": [3.0, 1.0, 2.0, 4.0]}
    tally = ChannelCounts.of(model, images[:1], groups)
    taken = take_channels(tally, groups, scores, "filters", 50 - 7)
    assert taken == {"5.conv1": (0, 1, 3, 4, 5), "3.conv1": (1, 2)}
    # a channel of the stem takes 3 filters along: passed over where only 2 are to go
    scores = {g.root: [10.0] * g.size for g in groups} | {"0": [0.0, 1.0, 2.0, 3.0]}
    tally = ChannelCounts.of(model, images[:1], groups)
    assert take_channels(tally, groups, scores, "filters", 48) == {"3.conv1": (0, 1)}


def test_saves_loads_and_applies_to_a_fresh_network(tmp_path):
    model, batch = projected(), batch_of()
    baseline = find_filter_ticket(
        model, batch, reference=ticket_of(model, batch), name="toy", seed=0
    )
    folder = baseline.save(tmp_path / "baseline")
    baseline.save(folder)  # the same again is no change
    found = Ticket.load(folder)
    assert found.kind == "filters"
    assert found.removal_identity() == baseline.removal_identity()
    assert found.digest == baseline.digest
    assert (found.filters, found.match, found.scores) == (
        baseline.filters,
        baseline.match,
        baseline.scores,
    )
    other = projected(seed=1)
    for initialization, source in (("ticket", model), ("model", other)):
        small = found.apply(other, initialization=initialization)
        expected = without_channels(source, baseline.filters, batch[0][:1])
        assert small.state_dict().keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(small.state_dict()[name], tensor)
    another = find_filter_ticket(
        model, batch, criterion="random", reference=ticket_of(model, batch), name="toy", seed=0
    )
    assert another.digest != baseline.digest
    with pytest.raises(LayerticketError, match="another ticket"):
        another.save(folder)
    path = folder / "ticket.json"
    path.write_text(path.read_text().replace('"criterion": "snip"', '"criterion": "grasp"'))
    with pytest.raises(LayerticketError, match="changed after it was written"):
        Ticket.load(folder)


@pytest.mark.parametrize("match", ["filters", "macs"])
def test_resnet20_is_matched_and_trains_a_step(match):
    model, batch = resnet20(), batch_of(10, 3, 16, 20)
    reference = ticket_of(model, batch)
    baseline = find_filter_ticket(model, batch, criterion="grasp", match=match, reference=reference)
    if match == "filters":
        filters = baseline.match["filters"]
        assert (filters["dense"], filters["reference"]) == (784, filters["baseline"])
        assert 784 - baseline.match["filters"]["baseline"] in (32, 64, 128)  # a block of a stage
    else:
        assert abs(baseline.match["relative_difference"]) < 1e-3
    small = baseline.apply(model).train()
    assert not any(p.grad is not None for p in small.parameters())
    nn.functional.cross_entropy(small(batch[0]), batch[1]).backward()
    assert all(p.grad.abs().sum() > 0 for p in small.parameters())


def test_torchvision_resnet18_is_matched_and_trains_a_step():
    pytest.importorskip("torchvision")
    model = build_model("torchvision:resnet18", classes=5, channels=3, seed=0)
    batch = batch_of(5, 3, 32, 10)
    baseline = find_filter_ticket(model, batch, reference=ticket_of(model, batch))
    assert baseline.match["difference"] == 0
    assert baseline.match["filters"]["dense"] == 4800
    small = baseline.apply(model).train()
    nn.functional.cross_entropy(small(batch[0]), batch[1]).backward()
    assert all(p.grad is not None for p in small.parameters())


def test_frozen_weights_and_modes_stay_as_they_are():
    model, batch = projected(), batch_of()
    reference = ticket_of(model, batch)
    model[3].eval()
    convolutions = [name for name, _ in model.named_parameters() if "conv" in name]
    for name in convolutions:
        model.get_parameter(name).requires_grad_(False)
    ticket = find_filter_ticket(model, batch, match="macs", reference=reference)
    small = ticket.apply(model)
    assert any("conv" in name for name in ticket.removed)  # those that lose filters stay frozen
    assert not small[3].bn1.training
    assert small[4].bn1.training
    frozen = [name for name, p in small.named_parameters() if not p.requires_grad]
    assert frozen == convolutions


def test_padded_shortcuts_are_refused_ours_by_name_and_foreign_ones_by_the_oracle():
    batch = batch_of(10, 3, 16, 20)
    padded = build_model("resnet20", classes=10, channels=3, seed=0)
    with pytest.raises(LayerticketError, match=r"option A.*resnet32-projection"):
        find_filter_ticket(padded, batch, reference=ticket_of(padded, batch))
    model, batch = projected(), batch_of()
    model[5].skip = CenteredPadding()
    images, example = batch[0].double(), batch[0][:1]
    groups = coupled_channels(model, example)
    stem = next(g for g in groups if "0" in g.filters)
    removed = dict.fromkeys(stem.filters, (3,))
    small, zeroed = (
        without_channels(model, removed, example),
        zero_channels(model, groups, removed),
    )
    with pytest.raises(LayerticketError, match="does not give the same outputs"):
        require_equal_to_zeroed(small, zeroed, images)


def test_removal_equals_zeros_where_channels_are_coupled_rightly():
    model, (images, _) = projected(), batch_of()
    for module in model.modules():  # as after training: nothing is 0 or 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    groups = coupled_channels(model, images[:1])
    by_root = {g.root: g for g in groups}
    removed = {"5.conv1": (0, 4)} | dict.fromkeys(by_root["0"].filters, (1, 3))
    small, zeroed = (
        without_channels(model, removed, images[:1]),
        zero_channels(model, groups, removed),
    )
    require_equal_to_zeroed(small, zeroed, images)
    wrong = without_channels(model, removed | {"5.conv1": (0, 3)}, images[:1])
    with pytest.raises(LayerticketError, match="does not give the same outputs"):
        require_equal_to_zeroed(wrong, zeroed, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "hrank"}, "criterion for filters 'hrank' is not known"),
        ({"criterion": "magnitude"}, "criterion for filters 'magnitude' is not known"),
        ({"match": "time"}, "match 'time' is not known"),
        ({"criterion": "random", "slices": "all"}, "no option except draw"),
        ({"criterion": "l1", "draw": 1}, "only criterion 'random' uses it"),
        (
            {"criterion": "l1", "temperature": 2.0},
            "option of criterion 'magnitude' on single weights 'temperature' is not",
        ),
        ({"slices": "rows"}, "allowed are 'filters' and 'all'"),
    ],
)
def test_unknown_wishes_are_refused(options, message):
    model, batch = projected(), batch_of()
    with pytest.raises(LayerticketError, match=message):
        find_filter_ticket(model, batch, reference=ticket_of(model, batch), **options)


def test_what_does_not_fit_is_refused(monkeypatch):
    model, batch = projected(), batch_of()
    reference = ticket_of(model, batch)
    wider = copy.deepcopy(model)
    wider[9] = nn.Linear(6, 4)
    with pytest.raises(LayerticketError, match="another network"):
        find_filter_ticket(wider, batch, reference=reference)
    baseline = find_filter_ticket(model, batch, reference=reference)
    with pytest.raises(LayerticketError, match="differs in classes, names or shapes"):
        baseline.apply(wider)
    with pytest.raises(LayerticketError, match="initialization is 'seed'"):
        baseline.apply(model, initialization="seed")
    example = batch[0][:1]
    for removed, message in (
        ({"3.conv1": (9,)}, "cannot be removed"),
        ({"3.conv1": (0, 1, 2, 3)}, "cannot be removed"),
        ({"9": (0,)}, "cannot be removed"),
        ({"0": (1,), "3.conv2": (2,)}, "coupled with"),
    ):
        with pytest.raises(LayerticketError, match=message):
            without_channels(model, removed, example)
    grouped = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(96, 3))
    with pytest.raises(LayerticketError, match="3 groups"):
        coupled_channels(grouped, example)
    with pytest.raises(LayerticketError, match="no filter"):
        coupled_channels(nn.Sequential(nn.Conv2d(3, 3, 6), nn.Flatten()), example)

    def absent(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(LayerticketError, match=r'pip install "layerticket\[filters\]"'):
        coupled_channels(model, example)
