"""Counts by hand: linear layers, their backward pass, and what they hold for it."""

import pytest
import torch
from torch import nn

from layerticket.counting import accounted_bytes, count, held_bytes, realized_share, training_macs
from toy_training import make_model

BATCH = (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))


def two_layers():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def test_macs_flops_and_held_bytes_by_hand():
    found = count(two_layers(), BATCH)
    # forward 3*5 + 5*2; backward the same for the weights, and 5*2 for the input of the second
    assert (found.macs, found.training_macs) == (25, 25 + 25 + 10)
    assert (found.flops, found.training_flops) == (50, 120)
    assert found.params == 3 * 5 + 5 + 5 * 2 + 2
    # float32: input 4*3, ReLU 4*5 (kept by ReLU and by the second layer, once), log-softmax 4*2,
    # the mean's weight 1; int64: labels 4
    assert found.held_bytes == 4 * (12 + 20 + 8 + 1) + 8 * 4
    assert found.batch_size == 4


def test_held_bytes_grow_with_the_batch_and_leave_out_weights_and_buffers():
    def held(images):
        batch = (torch.rand(images, 3, 8, 8), torch.zeros(images, dtype=torch.int64))
        return held_bytes(make_model(), batch)

    assert held(6) - held(4) == held(4) - held(2) > 0
    # what does not grow: mean and 1 / deviation of the 8 channels, and the mean's weight
    assert held(2) - (held(4) - held(2)) == 4 * (8 + 8 + 1)


def test_autocast_holds_half_of_the_activations():
    batch = (torch.rand(64, 30), torch.zeros(64, dtype=torch.int64))
    model = nn.Sequential(nn.Linear(30, 400), nn.ReLU(), nn.Linear(400, 2))
    full, half = held_bytes(model, batch), held_bytes(model, batch, bf16=True)
    assert 0.4 * full < half < 0.7 * full


def test_counting_leaves_the_model_alone():
    model = make_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = (torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    state = torch.get_rng_state()
    count(model, batch)
    assert not model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_accounted_memory_is_weights_gradients_momentum_buffers_and_held():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    # 20 + 10 parameters three times; buffers 5 + 5 float32 and one int64
    assert accounted_bytes(model, 100) == 3 * 4 * 30 + (4 * 10 + 8) + 100


@pytest.mark.parametrize(("macs", "time", "share"), [(0.5, 0.5, 1.0), (0.4, -0.1, -0.25)])
def test_realized_share(macs, time, share):
    assert realized_share(macs, time) == pytest.approx(share)
    assert realized_share(0.0, 0.1) is None


def test_training_macs_of_one_layer_have_no_input_gradient():
    assert training_macs(nn.Linear(7, 2), torch.ones(3, 7)) == 2 * 14
