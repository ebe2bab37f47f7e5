"""Multiply-accumulates, their backward pass and what they hold for it, worked out by hand."""

import pytest
import torch
from torch import nn

from layerticket.counting import (
    count,
    count_macs,
    count_params,
    held_bytes,
    module_macs,
    realized_share,
    training_macs,
)
from layerticket.models.cifar_resnet import CifarResNet
from tiny import conv_net, image_batch, owned_by_the_caller
from toy_training import make_model

BATCH = (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))


def test_layers_by_hand():
    image = torch.randn(3, 4, 6, 6)  # N = 3: the count is per example
    assert count_macs(nn.Conv2d(4, 8, 3, padding=1), image) == 4 * 8 * 9 * 36
    assert count_macs(nn.Conv2d(4, 8, 3, stride=2, padding=1), image) == 4 * 8 * 9 * 9
    assert count_macs(nn.Conv2d(4, 8, 3, padding=1, groups=4), image) == 8 * 9 * 36
    assert count_macs(nn.Linear(6, 5), image) == 4 * 6 * 30
    assert count_macs(nn.BatchNorm2d(4), image) == 0


def test_attention_through_its_matrix_products():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    projections, scores = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8
    assert count_macs(layer, (x, x, x)) == projections + scores


def test_published_counts():
    image = torch.randn(1, 3, 32, 32)
    assert round(count_macs(CifarResNet(32, classes=10, projection=True), image) / 1e6, 2) == 69.12
    assert round(count_macs(CifarResNet(56, classes=10, projection=True), image) / 1e6, 2) == 125.75


def test_by_module_and_added_up_over_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.idle = nn.Linear(3, 3)

        def forward(self, *, x, scale):
            return self.fc(self.fc(x * scale))

    inputs = {"scale": torch.tensor(2.0), "x": torch.randn(4, 3)}
    assert module_macs(Twice(), inputs) == {"": 18, "fc": 18, "idle": 0}


def test_parameters_count_once():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))
    assert count_params(model) == 18
    model[1].weight = model[0].weight
    assert count_params(model) == 12


def test_the_model_is_left_as_it_was():
    model, (images, _) = conv_net().train(), image_batch()
    before = owned_by_the_caller(model)
    count_macs(model, images)
    assert owned_by_the_caller(model) == before


def two_layers():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def test_macs_flops_and_held_bytes_by_hand():
    found = count(two_layers(), BATCH)
    # forward 3*5 + 5*2; backward the same for the weights, and 5*2 for the input of the second
    assert (found.macs, found.training_macs) == (25, 25 + 25 + 10)
    assert found.flops == 50
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


@pytest.mark.parametrize(("macs", "time", "share"), [(0.5, 0.5, 1.0), (0.4, -0.1, -0.25)])
def test_realized_share(macs, time, share):
    assert realized_share(macs, time) == pytest.approx(share)
    assert realized_share(0.0, 0.1) is None


def test_training_macs_of_one_layer_have_no_input_gradient():
    assert training_macs(nn.Linear(7, 2), torch.ones(3, 7)) == 2 * 14
