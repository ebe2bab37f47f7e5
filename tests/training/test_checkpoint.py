"""Checkpoints: exact, whole or not at all, and only for the model they were written for."""

import pytest
import torch
from torch import nn

from layerticket import tensors
from layerticket.errors import LayerticketError
from layerticket.training import checkpoint
from layerticket.training.checkpoint import Snapshot, copy_weights, read_snapshot, write_snapshot
from layerticket.training.recipe import Recipe
from layerticket.training.steps import fill_optimizer, make_optimizer, optimizer_state


class Tied(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.one = nn.Linear(width, width, bias=False)
        self.two = nn.Linear(width, width, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("low", torch.randn(3).to(torch.bfloat16))

    def forward(self, x):
        return self.two(self.one(self.norm(self.conv(x)).mean((2, 3))))


def trained(seed):
    torch.manual_seed(seed)
    model = Tied().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, Recipe())
    model(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(path, model, optimizer, facts):
    state = optimizer_state(model, optimizer)
    write_snapshot(path, Snapshot(epoch=3, weights=model.state_dict(), optimizer=state), facts)


def load(path, model, optimizer):
    snapshot, facts = read_snapshot(path)
    copy_weights(snapshot.weights, model, str(path))
    fill_optimizer(model, optimizer, snapshot.optimizer)
    return facts


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_round_trip_is_exact_and_keeps_layout_and_ties(tmp_path):
    path = tmp_path / "c.safetensors"
    model, optimizer = trained(0)
    save(path, model, optimizer, {"more": [1]})
    other, momentum = trained(1)
    strides = other.conv.weight.stride()
    assert not same(model.state_dict(), other.state_dict())
    assert load(path, other, momentum) == {"epoch": 3, "more": [1]}
    assert same(model.state_dict(), other.state_dict())
    assert other.conv.weight.stride() == strides
    assert other.two.weight is other.one.weight
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        kept, loaded = optimizer.state[mine], momentum.state[theirs]
        assert torch.equal(kept["momentum_buffer"], loaded["momentum_buffer"])
        assert kept["momentum_buffer"].stride() == loaded["momentum_buffer"].stride()
        assert not loaded["momentum_buffer"].requires_grad


def test_weights_alone_have_the_models_own_names(tmp_path):
    model, _ = trained(0)
    tensors.save_tensors(tmp_path / "w", model.state_dict(), {})
    assert tensors.load_tensors(tmp_path / "w")[0].keys() == model.state_dict().keys()
    other, _ = trained(1)
    checkpoint.copy_weights(tensors.load_tensors(tmp_path / "w")[0], other, "w")
    assert same(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "foreign", "missing"])
def test_damage_is_named_and_nothing_is_copied(tmp_path, harm):
    path = tmp_path / "c"
    model, optimizer = trained(0)
    save(path, model, optimizer, {})
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-1] ^= 1
    changed = {"cut": content[:-7], "flip": content, "empty": b"", "foreign": b"{}" * 50}
    path.write_bytes(changed.get(harm, b""))
    if harm == "missing":
        path.unlink()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LayerticketError, match=r"damaged or was not written by layerticket"):
        load(path, model, optimizer)
    assert same(before, model.state_dict())


def test_another_architecture_is_refused_before_anything_is_copied(tmp_path):
    other = Tied(width=5).state_dict()
    model, _ = trained(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LayerticketError, match="does not fit the model"):
        checkpoint.copy_weights(other, model, "w")
    assert same(before, model.state_dict())


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(LayerticketError, match="only tensors can be saved"):
        tensors.save_tensors(tmp_path / "w", Odd().state_dict(), {})
    assert not list(tmp_path.iterdir())
