"""What holds for the criteria made for trained networks."""

import random

import numpy as np
import pytest
import torch

from layerticket.blocks.find import find_blocks
from layerticket.cli.app import main
from layerticket.criteria.registry import get_criterion
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.modules import preserved_random_state
from layerticket.scoring import score
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket

TRAINED = ["cka", "expect_abs", "hrank", "kl", "pls"]


@pytest.fixture(scope="module")
def net():
    with preserved_random_state(5):
        model = build_model("resnet20", classes=3, channels=1, seed=5)
        images = torch.randn(12, 1, 8, 8)
        model(images)  # in train mode: running averages that are not those of the initialization
        return model, find_blocks(model, images), (images, torch.arange(12) % 3)


def everything(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [(n, m.training, sorted(vars(m)), dict(m._forward_hooks)) for n, m in
               model.named_modules()]  # fmt: skip
    return (
        state,
        modules,
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("name", TRAINED)
def test_scores_are_repeatable_finite_and_leave_all_as_it_was(net, name):
    model, blocks, batch = net
    before = everything(model)
    first = score(model, blocks, batch, name)
    again = score(model, blocks, batch, name)
    after = everything(model)
    assert first.values == again.values
    assert list(first.values) == [block.name for block in blocks]
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert before[1:4] == after[1:4]
    assert torch.equal(before[4], after[4])


@pytest.mark.parametrize("name", TRAINED)
def test_running_averages_unless_said_otherwise(net, name):
    assert get_criterion(name).normalization == ("running", "batch")
    default, running, batch = (
        score(*net, name, **({} if mode is None else {"normalization": mode}))
        for mode in (None, "running", "batch")
    )
    assert default.options["normalization"] == "running"
    assert default.values == running.values
    assert batch.options["normalization"] == "batch"
    assert batch.values != running.values


@pytest.mark.parametrize("name", TRAINED)
def test_targets_are_read_only_where_the_record_says_so(net, name):
    model, blocks, (images, targets) = net
    turned = score(model, blocks, (images, targets.roll(1)), name).values
    reads = "targets" in get_criterion(name).uses
    assert (turned != score(model, blocks, (images, targets), name).values) == reads


@pytest.mark.parametrize("name", ["grasp", "magnitude", "random", "snip"])
def test_criteria_for_initialization_keep_the_batch_statistics(net, name):
    assert score(*net, name).options["normalization"] == "batch"


def test_synflow_has_one_mode(net):
    assert score(*net, "synflow").options["normalization"] == "running"
    with pytest.raises(
        LayerticketError, match=r"'batch'; allowed: 'running' \(criterion 'synflow'"
    ):
        score(*net, "synflow", normalization="batch")


@pytest.mark.parametrize("name", ["cka", "kl"])
def test_branches_that_add_nothing_are_refused(net, name):
    model = build_model("resnet20", classes=3, channels=1, seed=5)
    for module in model.modules():
        if hasattr(module, "bn2"):
            torch.nn.init.zeros_(module.bn2.weight)
    with pytest.raises(LayerticketError, match="for every block, so blocks cannot be ranked"):
        score(model, net[1], net[2], name)


@pytest.mark.parametrize("name", TRAINED)
def test_tickets_from_python(net, name):
    model, _, batch = net
    ticket = find_ticket(model, batch, criterion=name, budget=Budget(remove=2))
    assert sorted(ticket.removed) == sorted(
        sorted(ticket.scores, key=ticket.scores.__getitem__)[:2]
    )


@pytest.mark.parametrize("name", TRAINED)
def test_tickets_from_the_command_line(name, tmp_path, capsys):
    arguments = ["find", "resnet20", "--criterion", name, "--remove", "3", "--images", "20"]
    assert main([*arguments, "--out", str(tmp_path / "ticket"), "--json"]) == 0
    assert f'"criterion": "{name}"' in capsys.readouterr().out
