"""Multiply-accumulates, worked out by hand."""

import torch
from torch import nn

from layerticket.counting import count_macs, count_params, module_macs
from layerticket.models.cifar_resnet import CifarResNet
from tiny import conv_net, image_batch, owned_by_the_caller


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
