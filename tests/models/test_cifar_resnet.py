"""The CIFAR ResNets: their published cost, their shortcuts by hand, their names."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layerticket.errors import LayerticketError
from layerticket.models.cifar_resnet import BasicBlock, CifarResNet, PaddedShortcut
from layerticket.models.names import DEPTHS

# One block with equal shapes: two 3x3 convolutions of 16 to 16 channels on 32x32 pixels. Stages
# double the channels (x4) and halve both sides (/4), so the number is the same in all of them.
BLOCK_MACS = 2 * 9 * 16 * 16 * 32 * 32


def macs(module, *shape):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, *shape))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("depth", "projection", "millions"),
    [(32, True, 69.12), (56, True, 125.75), (32, False, 68.86)],
)
def test_macs_are_the_published_ones(depth, projection, millions):
    net = CifarResNet(depth, classes=10, projection=projection)
    assert round(macs(net, 3, 32, 32) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("depth", "removed", "percent"),
    [
        *[(32, 1, 6.83), (32, 3, 20.48), (32, 5, 34.13)],
        *[(56, 3, 11.26), (56, 4, 15.01), (56, 5, 18.76), (56, 12, 45.03)],
    ],
)
def test_saving_of_removed_blocks(depth, removed, percent):
    whole = macs(CifarResNet(depth, classes=10, projection=True), 3, 32, 32)
    assert round(100 * removed * BLOCK_MACS / whole, 2) == percent


@pytest.mark.parametrize(("width", "side"), [(16, 32), (32, 16), (64, 8)])
@pytest.mark.parametrize("projection", [False, True])
def test_every_block_of_equal_shapes_costs_the_same(width, side, projection):
    block = BasicBlock(width, width, 1, projection=projection)
    assert macs(block, width, side, side) == BLOCK_MACS
    assert isinstance(block.shortcut, nn.Identity)


@pytest.mark.parametrize("depth", [depth for depth in DEPTHS if depth < 1000])
def test_depth_counts_the_layers_with_weights(depth):
    net = CifarResNet(depth, classes=10)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3)] == [(depth - 2) // 6] * 3


@pytest.mark.parametrize("depth", [0, 18, 26, 33])
def test_other_depths_are_refused(depth):
    with pytest.raises(LayerticketError, match=r"resnet14, resnet20.*timm:NAME"):
        CifarResNet(depth, classes=10)


def test_parameter_names():
    names = dict(CifarResNet(32, classes=7).named_parameters())
    expected = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer2.0.bn1.bias"}
    assert expected | {"layer3.4.conv2.weight", "layer3.4.bn2.bias", "fc.bias"} <= set(names)
    assert not any("shortcut" in name for name in names)
    projected = [
        n for n, _ in CifarResNet(32, classes=7, projection=True).named_parameters() if "cut" in n
    ]
    assert [n for n in projected if n.endswith("0.weight")] == [
        "layer2.0.shortcut.0.weight",
        "layer3.0.shortcut.0.weight",
    ]


def test_padded_shortcut_by_hand():
    # Rows and columns 0 and 2 of 0..15 stay; the two new channels lie behind and are zero.
    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[[[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2]])
    assert torch.equal(PaddedShortcut(2, 2)(x), expected)


def test_block_without_its_last_normalization_is_relu_of_its_input():
    block = BasicBlock(4, 4, 1, projection=False)
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_initialization():
    net = CifarResNet(20, classes=10)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    weight = net.layer3[1].conv1.weight  # 64 * 3 * 3 outputs per input: deviation sqrt(2 / 576)
    assert weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.02)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_output_and_export(projection, shape):
    net = CifarResNet(20, classes=5, channels=shape[0], projection=projection).eval()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        y = net(x)
        assert y.shape == (2, 5)
        exported = torch.export.export(net, (x,)).module()
        torch.testing.assert_close(exported(x), y)


def test_one_graph_for_the_compiler():
    net = CifarResNet(20, classes=5, channels=1)
    compiled = torch.compile(net, backend="eager", fullgraph=True)  # a graph break would raise
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
