"""What holds for every registered criterion, those of tomorrow included."""

import copy
import dataclasses
import functools
import math
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import layerticket.scoring
from layerticket.blocks.find import find_blocks
from layerticket.criteria.registry import criterion_names, get_criterion
from layerticket.scoring import score
from tiny import conv_net, image_batch, owned_by_the_caller

every = pytest.mark.parametrize("name", criterion_names())


def messy_model():
    """A model in the middle of its owner's work: gradients, hooks, mixed modes, frozen weights."""
    model = conv_net()
    model.train()
    model[3].eval()
    model[2].conv1.weight.requires_grad_(False)
    model[5].register_forward_hook(lambda *_: None)
    model[7].weight.grad = torch.ones(3, 6)
    return model


@every
def test_scores_every_block_with_a_finite_number_the_same_each_time(name):
    model, batch = conv_net(), image_batch()
    found = find_blocks(model, batch[0])
    first, second = (score(model, found, batch, name) for _ in range(2))
    assert list(first.values) == ["2", "3", "5"]
    assert all(math.isfinite(value) for value in first.values.values())
    assert len(set(first.values.values())) > 1  # two blocks may have full rank
    assert first.values == second.values
    assert (first.criterion, first.examples) == (name, 12)
    assert first.batch_digest == second.batch_digest
    assert first.seconds > 0
    assert "normalization" in first.options


@every
@pytest.mark.parametrize("normalization", ["batch", "running"])
def test_leaves_everything_as_found(name, normalization):
    if normalization not in get_criterion(name).normalization:
        pytest.skip(f"{name} has no mode {normalization}")
    model, batch = messy_model(), image_batch()
    found = find_blocks(model, batch[0])
    random.random()
    before = owned_by_the_caller(model)
    digest = batch[0].numpy().tobytes()
    score(model, found, batch, name, normalization=normalization)
    assert owned_by_the_caller(model) == before
    assert batch[0].numpy().tobytes() == digest
    assert batch[0].grad is None


@every
def test_leaves_everything_as_found_when_it_raises_midway(name, monkeypatch):
    known = get_criterion(name)

    @functools.wraps(known.fn)
    def broken(model, given, batch, **options):
        known.fn(model, given, batch, **options)
        model.train(not model.training)
        model[7].weight.grad = torch.zeros(3, 6)
        model[2].register_forward_hook(lambda *_: None)
        model[2].bn1.running_mean.add_(1)
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        torch.backends.mha.set_fastpath_enabled(False)
        raise OSError("midway")

    monkeypatch.setattr(
        layerticket.scoring, "get_criterion", lambda _: dataclasses.replace(known, source=broken)
    )
    model, batch = messy_model(), image_batch()
    found = find_blocks(model, batch[0])
    before = owned_by_the_caller(model)
    with pytest.raises(OSError, match="midway"), torch.no_grad():
        score(model, found, batch, name)
    assert owned_by_the_caller(model) == before
    assert torch.backends.mha.get_fastpath_enabled()


@every
def test_state_that_is_none_of_its_business_does_not_matter(name):
    model, batch = conv_net(), image_batch()
    found = find_blocks(model, batch[0])
    plain = score(model, found, batch, name).values
    other = copy.deepcopy(model).eval()
    for parameter in other.parameters():
        parameter.grad = torch.randn_like(parameter)
        parameter.requires_grad_(False)
    torch.manual_seed(77)
    with torch.no_grad():
        assert score(other, found, batch, name).values == plain


@every
def test_follows_the_names_of_modules(name):
    model, batch = conv_net(), image_batch()
    plain = score(model, find_blocks(model, batch[0]), batch, name).values
    renamed = nn.Sequential(OrderedDict((f"part_{n}", m) for n, m in model.named_children()))
    wrapped = nn.Sequential(OrderedDict(body=renamed))
    values = score(wrapped, find_blocks(wrapped, batch[0]), batch, name).values
    assert values == {f"body.part_{block}": value for block, value in plain.items()}
