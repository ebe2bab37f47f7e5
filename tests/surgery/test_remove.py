"""Cutting: the smaller network computes what zeros would, and needs nothing of ours."""

import io
import pickle
import pickletools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerticket.blocks.block import Block
from layerticket.blocks.find import find_blocks
from layerticket.counting import count_macs, count_params
from layerticket.errors import LayerticketError
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.surgery.remove import remove_blocks, zero_blocks
from tiny import (
    ConvBlock,
    PostNormBlock,
    TwoBlocks,
    chain,
    conv_net,
    image_batch,
    one,
    owned_by_the_caller,
)


def cut(model, example, *names):
    gone = find_blocks(model, example).named(names)
    return remove_blocks(model, gone), gone


def torchvision_resnet18():
    return pytest.importorskip("torchvision").models.resnet18(weights=None, num_classes=5)


def only_last_norm_zeroed(model, names):
    import copy

    zeroed = copy.deepcopy(model)
    for name in names:
        norm = zeroed.get_submodule(name).bn2
        nn.init.zeros_(norm.weight), nn.init.zeros_(norm.bias)
    return zeroed


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: CifarResNet(20, classes=5), ("layer1.0", "layer2.2", "layer3.1")),
        (lambda: CifarResNet(20, classes=5, projection=True), ("layer1.1", "layer1.2")),
        (torchvision_resnet18, ("layer1.0", "layer3.1", "layer4.1")),
    ],
)
def test_removing_is_zeroing_bit_for_bit(build, names, training):
    model, images = build(), torch.randn(4, 3, 32, 32)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.bias)
    small, gone = cut(model, images[:1], *names)
    outputs = [
        m.train(training)(images)
        for m in (small, zero_blocks(model, gone), only_last_norm_zeroed(model, names))
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], model.train(training)(images))


def test_the_small_network_is_smaller_and_of_the_callers_class():
    model, images = CifarResNet(20, classes=5), torch.randn(1, 3, 16, 16)
    small, gone = cut(model, images, "layer1.1", "layer3.2")
    assert type(small) is CifarResNet
    expected = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(("layer1.1.", "layer3.2."))
    }
    state = small.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert count_params(small) == count_params(model) - sum(b.params for b in gone)
    assert count_macs(small, images) == count_macs(model, images) - sum(b.macs for b in gone)
    assert [b.name for b in find_blocks(small, images)] == [
        "layer1.0", "layer1.2", "layer2.1", "layer2.2", "layer3.1"
    ]  # fmt: skip
    small.load_state_dict(expected)


def test_nothing_is_shared_with_the_dense_network_which_is_left_as_it_was():
    model, (images, labels) = conv_net().train(), image_batch()
    model(images).sum().backward()
    model[5].eval()
    found = find_blocks(model, images)
    before = owned_by_the_caller(model)
    small = remove_blocks(model, found.named(["2", "5"]))
    assert owned_by_the_caller(model) == before
    dense = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not dense & {t.data_ptr() for t in (*small.parameters(), *small.buffers())}
    assert all(p.grad is None for p in small.parameters())
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    start = [p.detach().clone() for p in small.parameters()]
    first = F.cross_entropy(small.train()(images), labels)
    first.backward()
    optimizer.step()
    assert F.cross_entropy(small(images), labels) < first
    assert all(not torch.equal(p, s) for p, s in zip(small.parameters(), start, strict=True))
    assert owned_by_the_caller(model)[:4] == before[:4]


def test_modes_and_frozen_weights_are_kept():
    model = conv_net().train()
    model[3].eval()
    model[3].conv1.weight.requires_grad_(False)
    small, _ = cut(model, image_batch()[0], "2")
    assert (small.training, small[3].training, small[4].training) == (True, False, True)
    assert not small[3].conv1.weight.requires_grad
    assert small[3].conv2.weight.requires_grad


def test_weights_tied_to_a_removed_block_become_the_copys_own():
    model = conv_net()
    model[3].conv1.weight = model[2].conv1.weight
    model[3].conv2.weight = model[2].conv1.weight
    small, _ = cut(model, image_batch()[0], "2")
    assert torch.equal(small[3].conv1.weight, model[2].conv1.weight)
    assert small[3].conv1.weight.data_ptr() != model[2].conv1.weight.data_ptr()
    assert small[3].conv1.weight is small[3].conv2.weight
    assert small[3].conv1.weight.requires_grad
    model[2].conv1.weight.requires_grad_(False)
    small, _ = cut(model, image_batch()[0], "2")
    assert not small[3].conv1.weight.requires_grad


def test_pickle_names_nothing_of_ours():
    small, _ = cut(conv_net(), image_batch()[0], "2", "5")
    data = pickle.dumps(small)
    words = {str(arg) for _, arg, _ in pickletools.genops(data) if arg is not None}
    assert not [word for word in words if "layerticket" in word]
    assert "torch.nn.modules.linear" in words
    again = pickle.loads(data)
    images = image_batch()[0]
    assert torch.equal(again.eval()(images), small.eval()(images))


def test_torch_export_and_state_dict():
    small, _ = cut(conv_net().eval(), image_batch()[0], "2", "5")
    small.eval()
    images = image_batch()[0]
    exported = torch.export.export(small, (images,)).module()
    assert torch.allclose(exported(images), small(images), atol=1e-6)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    fresh, _ = cut(conv_net(), images, "2", "5")
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.eval()(images), small(images))


class RichBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, scale):
        return (x + scale * self.fc(x),)


class ListNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(RichBlock() for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, 0.5)[0]
        return x


def test_blocks_with_more_arguments_are_deleted_from_their_list():
    model, x = ListNet(), torch.rand(2, 4)
    small, gone = cut(model, x, "layers.0", "layers.2")
    assert [n for n, _ in small.layers.named_children()] == ["1", "3"]
    assert torch.equal(small(x), zero_blocks(model, gone)(x))
    assert len(model.layers) == 4
    again = remove_blocks(model, [*gone, *gone])  # named twice, removed once
    assert [n for n, _ in again.layers.named_children()] == ["1", "3"]
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), small(x))


def test_removing_nothing_is_a_copy():
    model, images = conv_net().eval(), image_batch()[0]
    assert torch.equal(remove_blocks(model, [])(images), model(images))


def test_a_foreign_block_is_refused():
    (block, _) = find_blocks(TwoBlocks(), one()[0])
    assert isinstance(block, Block)
    with pytest.raises(LayerticketError, match="block 'first' is not in this Sequential; pass"):
        remove_blocks(conv_net(), [block])


def test_zeros_cannot_stand_for_a_post_norm_block():
    model = chain(PostNormBlock(), PostNormBlock())
    found = find_blocks(model, torch.randn(2, 4))
    with pytest.raises(
        LayerticketError, match="block '1' is post-norm: with zeros it would output zeros"
    ):
        zero_blocks(model, found)
    assert isinstance(remove_blocks(model, found)[1], nn.Identity)


def test_a_pre_activation_block_leaves_the_identity():
    model, images = conv_net(pre=True).eval(), image_batch()[0]
    small, gone = cut(model, images, "3")
    assert torch.equal(small(images), zero_blocks(model, gone)(images))
    assert isinstance(model[3], ConvBlock)
