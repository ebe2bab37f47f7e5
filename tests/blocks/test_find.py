"""What can go: found by running, in networks of many makes."""

import random
from collections import defaultdict, namedtuple

import pytest
import torch
from torch import nn

from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.scoring import score
from layerticket.surgery.remove import remove_blocks, zero_blocks
from tiny import (
    ConvBlock,
    PostNormBlock,
    PreNormBlock,
    ScalarBlock,
    TwoBlocks,
    chain,
    conv_net,
    image_batch,
    one,
    owned_by_the_caller,
    token_net,
)

VECTORS = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def names(model, example):
    return [block.name for block in find_blocks(model, example)]


def reasons(model, example):
    return {r.name: r.reason for r in find_blocks(model, example).rejected}


def image(size, channels=3):
    return torch.randn(1, channels, size, size)


# Networks of our own


@pytest.mark.parametrize("projection", [False, True])
def test_cifar_resnet(projection):
    found = find_blocks(CifarResNet(20, classes=10, projection=projection), image(16))
    assert [b.name for b in found] == [
        "layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"
    ]  # fmt: skip
    assert [b.stage for b in found] == [0, 0, 0, 1, 1, 2, 2]
    assert [b.position for b in found] == list(range(7))
    assert [b.call for b in found] == ["plain"] * 7
    assert found[3].shape == (32, 8, 8)
    assert found[3].params == 2 * 32 * 32 * 9 + 4 * 32
    assert found[3].macs == 2 * 32 * 32 * 9 * 8 * 8
    assert {r.name: r.reason for r in found.rejected} == {
        "layer2.0": "changes shape (16, 16, 16) -> (32, 8, 8)",
        "layer3.0": "changes shape (32, 8, 8) -> (64, 4, 4)",
    }


@pytest.mark.parametrize("pre", [False, True])
def test_post_and_pre_activation(pre):
    assert names(conv_net(pre=pre), image(6, 2)) == ["2", "3", "5"]


def test_transformer_blocks_before_and_behind_the_norm():
    assert names(token_net(), torch.randn(2, 3, 4)) == ["1", "2"]
    found = find_blocks(chain(PostNormBlock(), PostNormBlock()), VECTORS)
    assert [(b.name, b.post_norm) for b in found] == [("1", True), ("2", True)]
    assert not any(b.post_norm for b in find_blocks(conv_net(), image(6, 2)))


@pytest.mark.parametrize("pre", [False, True])
def test_zero_initialized_branches(pre):
    model = conv_net(pre=pre)
    for module in model.modules():
        if isinstance(module, ConvBlock):
            nn.init.zeros_((module.conv2 if pre else module.bn2).weight)
    assert names(model, image(6, 2)) == ["2", "3", "5"]


def test_a_zero_gain_on_a_branch_that_hardly_depends_on_its_input():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)
            self.gain = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.gain * (1 + 2e-4 * torch.tanh(self.fc(x)))

    assert names(chain(Gated()), VECTORS) == ["1"]


def test_example_as_tensor_tuple_and_dict():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = chain(ScalarBlock(0.1, 8))

        def forward(self, x, shift):
            return self.net(x + shift)

    assert names(TwoInputs(), (VECTORS, torch.ones(1))) == ["net.1"]
    assert names(TwoInputs(), [VECTORS, 0.5]) == ["net.1"]
    assert names(TwoInputs(), {"shift": torch.ones(2, 4), "x": VECTORS}) == ["net.1"]
    with pytest.raises(LayerticketError, match=r"does not run on the example given \(TypeError"):
        find_blocks(TwoInputs(), VECTORS)
    with pytest.raises(LayerticketError, match="inputs are a str; give a tensor"):
        find_blocks(TwoInputs(), "x")


Out = namedtuple("Out", "x weights")


class Rich(nn.Module):
    """Takes a mask by name; returns a tuple."""

    form = tuple

    def __init__(self, size=8):
        super().__init__()
        self.fc = nn.Linear(size, size)

    def forward(self, x, mask=None, *, scale=1.0):
        y = x + scale * self.fc(x * mask)
        return {tuple: (y,), list: [y, mask], dict: {"x": y, "none": None}, Out: Out(y, None)}[
            self.form
        ]


class RichNet(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.layers = nn.ModuleList(Rich() for _ in range(3))
        for layer in self.layers:
            layer.form = form

    def forward(self, x):
        x, mask = self.stem(x), torch.ones(8)
        for layer in self.layers:
            out = layer(x, mask, scale=2.0)
            x = out["x"] if isinstance(out, dict) else out[0]
        return x


@pytest.mark.parametrize("form", [tuple, list, dict, Out])
def test_extra_arguments_and_outputs_that_are_no_tensor(form):
    found = find_blocks(RichNet(form), VECTORS)
    assert [(b.name, b.call) for b in found] == [(f"layers.{i}", "rich") for i in range(3)]
    small = remove_blocks(RichNet(form), found.named(["layers.0", "layers.2"]))
    assert set(small.state_dict()) == {
        "stem.weight", "stem.bias", "layers.1.fc.weight", "layers.1.fc.bias"
    }  # fmt: skip
    assert small(VECTORS).shape == (2, 8)


def test_a_vector_module_with_odd_output_does_not_hide_post_norm():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return x * self.scale, x

    class First(nn.Module):
        def forward(self, pair):
            return pair[0]

    assert names(chain(Split(), First(), PostNormBlock()), VECTORS) == ["3"]


def test_nested_blocks_give_the_outer_one():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(ScalarBlock(0.1, 8), ScalarBlock(0.1, 8))
            self.last = nn.Linear(8, 8)

        def forward(self, x):
            return x + self.last(self.inner(x))

    found = find_blocks(chain(Outer(), Outer()), VECTORS)
    assert [b.name for b in found] == ["1", "2"]
    assert found.rejected == ()


def test_a_stage_made_only_of_blocks_gives_the_blocks():
    stage = nn.Sequential(PreNormBlock(), PreNormBlock())
    found = find_blocks(
        nn.Sequential(nn.Linear(4, 8), stage, nn.Linear(8, 2)), torch.randn(1, 3, 4)
    )
    assert [(b.name, b.stage) for b in found] == [("1.0", 0), ("1.1", 0)]


def test_a_shared_module_stays():
    shared = PreNormBlock()
    model = chain(shared, PreNormBlock(), shared)
    assert names(model, torch.randn(2, 3, 4)) == ["2"]
    assert reasons(model, torch.randn(2, 3, 4)) == {
        "1": "is called more than once in a forward pass"
    }


def test_what_looks_like_a_block_and_is_none():
    class Position(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 8))

        def forward(self, x):
            return x + self.table

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return 2 * x * torch.sigmoid(self.fc(x))  # x at zero weights, but no addition

    class ResponseNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))

        def forward(self, x):
            norm = x.norm(dim=1, keepdim=True)
            return x + self.weight * x * norm / norm.mean(-1, keepdim=True) + self.bias

    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return x + 0 * self.fc(x)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return torch.relu(self.fc(x))

    model = chain(Position(), ResponseNorm(), nn.PReLU(8), Nothing(), Plain(), PreNormBlock())
    # PReLU counts channels in dimension 1, which holds the 8 tokens
    model[1].table = nn.Parameter(torch.randn(8, 8))
    found = find_blocks(model, torch.randn(2, 8, 4))
    assert [b.name for b in found] == ["6"]
    told = {r.name: r.reason for r in found.rejected}
    assert told["4"] == "adds nothing to its input"
    assert told["5"].startswith("has no identity shortcut: with its weights at zero")
    position = find_blocks(nn.Sequential(Position(), PreNormBlock()), torch.randn(2, 3, 8))
    assert [b.name for b in position] == ["1"]

    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8))

        def forward(self, x):
            return x * torch.sigmoid(self.fc(x.mean(1, keepdim=True)))

    assert names(chain(Squeeze()), torch.randn(2, 3, 4)) == []


def test_every_other_candidate_has_a_reason():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = token_net()
            self.spare = PreNormBlock()

        def forward(self, x):
            return self.net(x)

    model = Unused()
    assert reasons(model, torch.randn(2, 3, 4)) == {
        "spare": "is never called in a forward pass on the example"
    }
    with pytest.raises(LayerticketError, match=r"'spare' cannot be removed: it is never called"):
        find_blocks(model, torch.randn(2, 3, 4)).named(["spare"])
    with pytest.raises(LayerticketError, match=r"'net\.11' is not known\. Did you mean 'net\.1'"):
        find_blocks(model, torch.randn(2, 3, 4)).named(["net.11"])


def test_a_block_the_own_code_needs_stays():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = ScalarBlock(0.1), ScalarBlock(0.1)

        def forward(self, x):
            return self.second(self.first(x)) * self.first.fc.weight

    assert names(Asks(), one()[0]) == ["second"]
    assert "needed by the model's own code, which fails" in reasons(Asks(), one()[0])["first"]


@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorch_transformer_encoder(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    found = find_blocks(model, torch.randn(2, 3, 8))
    assert [b.name for b in found] == ["0.layers.1", "0.layers.2"]
    assert [r.name for r in found.rejected] == ["0.layers.0"]
    assert "needed by the model's own code" in found.rejected[0].reason
    small = remove_blocks(model, found)
    assert small(torch.randn(2, 3, 8)).shape == (2, 3, 8)


def test_a_plain_network_has_none_and_scoring_says_so():
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    batch = image_batch()
    found = find_blocks(plain, batch[0])
    assert len(found) == 0
    assert found.params == sum(p.numel() for p in plain.parameters())
    with pytest.raises(LayerticketError, match="no removable residual block, so there is nothing"):
        score(plain, found, batch)


# The caller's model


MET = {}


def storing(name, store):
    """A hook that stores outputs in a dict that it closes over, in lists, in MET, and by name."""
    last = None

    def hook(_, args, output):
        nonlocal last
        last = output
        store[name].append(output)
        MET[name] = output

    return hook, lambda: last


def test_a_hook_stores_no_output_of_a_copy():
    model, x, store = conv_net().eval(), torch.randn(2, 2, 6, 6), defaultdict(list)
    hook, last = storing("block", store)
    model[2].register_forward_hook(hook)
    model(x)
    before = last()
    batch = (x, torch.tensor([0, 2]))
    for call in (find_blocks, lambda m, x: score(m, find_blocks(m, x), batch, "snip")):
        call(model, x)
        assert dict(store) == {"block": [before]}
        assert {"block": before} == MET
        assert last() is before
    with pytest.raises(LayerticketError, match="does not run"):
        find_blocks(model, x[:, :1])
    assert dict(store) == {"block": [before]}


def test_a_hook_that_changes_the_output_is_part_of_the_network():
    model, x = conv_net(), torch.randn(2, 2, 6, 6)
    assert "2" in names(model, x)
    model[2].register_forward_hook(lambda _, args, output: output - args[0])
    assert "2" not in names(model, x)  # it no longer adds to its input


def prepared_model():
    model = conv_net()
    model.train()
    model[3].eval()
    model[2].conv1.weight.requires_grad_(False)
    model[5].register_forward_hook(lambda *_: None)
    model[7].weight.grad = torch.ones(3, 6)
    return model


def test_the_model_is_left_as_it_was():
    model, wrong = prepared_model(), torch.randn(1, 5, 6, 6)
    random.random()
    before = owned_by_the_caller(model)
    find_blocks(model, image_batch()[0])
    assert owned_by_the_caller(model) == before
    with pytest.raises(LayerticketError, match="does not run"):
        find_blocks(model, wrong)
    assert owned_by_the_caller(model) == before


def test_what_cannot_be_copied_or_has_no_shape_is_refused():
    model = TwoBlocks()
    model.trace = model.first.fc.weight * 2  # no leaf, left from a call: copied as a value
    assert find_blocks(model, one()[0])
    model.trace = (None for _ in "a")  # deepcopy refuses it
    with pytest.raises(LayerticketError, match=r"TwoBlocks cannot be copied .*copy\.deepcopy"):
        find_blocks(model, one()[0])
    with pytest.raises(LayerticketError, match=r"parameter '0\.weight' has no shape yet: call"):
        find_blocks(nn.Sequential(nn.LazyLinear(3)), one()[0])


# Networks of other makes, in their smallest form


def regular(pattern, counts, skip_first=True):
    return [pattern.format(s, i) for s, n in counts.items() for i in range(int(skip_first), n)]


def torchvision_nets():
    from torchvision import models as tv
    from torchvision.models.convnext import CNBlockConfig

    none, few = {"weights": None}, {"num_classes": 4}
    # name: (build, size of the image, blocks)
    yield "resnet", lambda: tv.ResNet(tv.resnet.BasicBlock, [2, 2, 2, 2], **few), 32, [
        "layer1.0", *regular("layer{}.{}", {1: 2, 2: 2, 3: 2, 4: 2})
    ]  # fmt: skip
    stages = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)]
    yield "convnext", lambda: tv.ConvNeXt(stages), 32, [
        "features.1.0", "features.1.1", "features.3.0", "features.3.1"
    ]  # fmt: skip
    yield "swin", lambda: tv.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4]), 32, [
        "features.1.0", "features.1.1", "features.3.0", "features.3.1"
    ]  # fmt: skip
    yield (
        "vit",
        lambda: tv.VisionTransformer(32, 8, 3, 2, 16, 32),
        32,
        [f"encoder.layers.encoder_layer_{i}" for i in range(3)],
    )
    yield (
        "mobilenet_v2",
        lambda: tv.mobilenet_v2(**few),
        32,
        [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
    )
    yield (
        "mobilenet_v3",
        lambda: tv.mobilenet_v3_small(**few),
        32,
        [f"features.{i}" for i in (3, 5, 6, 8, 10, 11)],
    )
    yield (
        "efficientnet",
        lambda: tv.efficientnet_b0(**none, **few),
        32,
        [*regular("features.{}.{}", {2: 2, 3: 2, 4: 3, 5: 3, 6: 4})],
    )
    yield (
        "regnet",
        lambda: tv.regnet_x_400mf(**none, **few),
        32,
        [*regular("trunk_output.block{0}.block{0}-{1}", {2: 2, 3: 7, 4: 12})],
    )
    vgg = tv.vgg.make_layers([8, "M", 8, 8, "M"], batch_norm=True)
    yield "vgg", lambda: nn.Sequential(vgg, nn.Flatten(), nn.Linear(128, 4)), 16, []
    yield "densenet", lambda: tv.DenseNet(4, (2, 2), 8, num_classes=4), 32, []


def timm_nets():
    import timm
    from timm.models import convnext, nfnet, resnet, swin_transformer, vgg, vision_transformer

    def make(name):
        return lambda: timm.create_model(name, num_classes=4)

    for attention in (None, "se"):  # branches start at zero, which must not let gates pass
        yield f"resnet_{attention}", lambda a=attention: resnet.ResNet(
            resnet.Bottleneck, (2, 2, 1, 1), channels=(16, 32, 48, 64), num_classes=4,
            block_args={"attn_layer": a}, zero_init_last=True,
        ), 32, ["layer1.0", "layer1.1", "layer2.1"]  # fmt: skip
    for grn in (False, True):
        yield f"convnext_{grn}", lambda g=grn: convnext.ConvNeXt(
            depths=(2, 1, 2, 1), dims=(8, 8, 16, 16), use_grn=g, ls_init_value=None if g else 1e-6
        ), 64, [f"stages.{b}" for b in ("0.blocks.0", "0.blocks.1", "1.blocks.0",
                                        "2.blocks.0", "2.blocks.1", "3.blocks.0")]  # fmt: skip
    yield "vit", lambda: vision_transformer.VisionTransformer(
        32, 8, embed_dim=16, depth=3, num_heads=2
    ), 32, ["blocks.0", "blocks.1", "blocks.2"]  # fmt: skip
    yield "swin", lambda: swin_transformer.SwinTransformer(
        32, 4, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4
    ), 32, [f"layers.{s}.blocks.{i}" for s in (0, 1) for i in (0, 1)]  # fmt: skip
    yield (
        "mobilenetv2",
        make("mobilenetv2_035"),
        32,
        [*regular("blocks.{}.{}", {1: 2, 2: 3, 3: 4, 4: 3, 5: 3})],
    )
    yield "mobilenetv3", make("mobilenetv3_small_050"), 32, [
        "blocks.1.1", "blocks.2.1", "blocks.2.2", "blocks.3.0", "blocks.3.1", "blocks.4.1",
        "blocks.4.2",
    ]  # fmt: skip
    yield (
        "efficientnet",
        make("efficientnet_lite0"),
        32,
        [*regular("blocks.{}.{}", {1: 2, 2: 2, 3: 3, 4: 3, 5: 4})],
    )
    yield "regnetx", make("regnetx_002"), 32, [
        *(f"s3.b{i}" for i in range(2, 5)), *(f"s4.b{i}" for i in range(2, 8))
    ]  # fmt: skip
    yield "regnety", make("regnety_002"), 32, [
        *(f"s3.b{i}" for i in range(2, 5)), *(f"s4.b{i}" for i in range(2, 8))
    ]  # fmt: skip
    config = nfnet.NfCfg(
        depths=(1, 3),
        channels=(32, 64),
        bottle_ratio=0.5,
        attn_layer="se",
        attn_kwargs={},
        skipinit=True,
    )
    yield (
        "nfnet",
        lambda: nfnet.NormFreeNet(config, num_classes=4),
        32,
        ["stages.1.1", "stages.1.2"],
    )
    yield "vgg", lambda: vgg.VGG([8, "M", 8, "M"], num_classes=4, mlp_ratio=0.01), 32, []
    yield "densenet", lambda: timm.models.densenet.DenseNet(4, (2, 2), num_classes=4), 32, []


def cases(nets, extra):
    """Collect without importing: each case is looked up by name when it runs."""
    return [pytest.param(nets, extra, name, id=f"{extra}-{name}") for name in NAMES[extra]]


NAMES = {
    "torchvision": ["resnet", "convnext", "swin", "vit", "mobilenet_v2", "mobilenet_v3",
                    "efficientnet", "regnet", "vgg", "densenet"],
    "timm": ["resnet_None", "resnet_se", "convnext_False", "convnext_True", "vit", "swin",
             "mobilenetv2", "mobilenetv3", "efficientnet", "regnetx", "regnety", "nfnet", "vgg",
             "densenet"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("nets", "extra", "name"), [*cases(torchvision_nets, "torchvision"), *cases(timm_nets, "timm")]
)
def test_image_networks(nets, extra, name):
    pytest.importorskip(extra)
    build, size, expected = {n: case for n, *case in nets()}[name]
    model = build()
    found = find_blocks(model, image(size))
    assert [b.name for b in found] == expected
    assert all(r.reason for r in found.rejected)
    small = remove_blocks(model, found).eval()
    assert small(image(size)).shape == model.eval()(image(size)).shape


def hugging_face_net(name):
    import transformers as hf

    size = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 16}  # fmt: skip
    gpt = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16,
           "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    t5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    ids = torch.arange(14).reshape(2, 7)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    vit = {k: v for k, v in size.items() if k not in ("vocab_size", "max_position_embeddings")}
    nets = {
        "bert": (hf.BertForSequenceClassification, hf.BertConfig(**size), "bert.encoder.layer.{}"),
        "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(**gpt), "transformer.h.{}"),
        "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**size), "model.layers.{}"),
        "t5": (hf.T5ForConditionalGeneration, hf.T5Config(**t5), ""),
        "vit": (
            hf.ViTForImageClassification,
            hf.ViTConfig(**vit, image_size=16, patch_size=8),
            "vit.layers.{}",
        ),
    }
    inputs = {"t5": {**text, "decoder_input_ids": ids}, "vit": {"pixel_values": image(16)}}
    kind, config, pattern = nets[name]
    return kind(config), inputs.get(name, text), pattern


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit"])
def test_hugging_face_networks(name):
    pytest.importorskip("transformers")
    model, example, pattern = hugging_face_net(name)
    found = find_blocks(model, example)
    expected = [pattern.format(i) for i in range(3)]
    if name == "t5":
        expected = ["encoder.block.1", "encoder.block.2", "decoder.block.1", "decoder.block.2"]
    assert [b.name for b in found] == expected
    assert {b.call for b in found} == {"rich"}
    if name == "t5":  # block 0 makes the position bias that all later blocks take
        told = {r.name: r.reason for r in found.rejected}
        for stack in ("encoder", "decoder"):
            assert told[f"{stack}.block.0"] == "returns further outputs that later modules may need"
    gone = found.named(expected[1:])
    small = remove_blocks(model, gone).eval()
    with torch.no_grad():
        assert small(**example).logits.shape == model.eval()(**example).logits.shape
    assert set(small.state_dict()) < set(model.state_dict())
    assert not [k for k in small.state_dict() if k.startswith(tuple(f"{b.name}." for b in gone))]


def test_layers_of_a_vision_half_whose_hidden_states_are_read():
    hf = pytest.importorskip("transformers")
    half = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
            "num_attention_heads": 2}  # fmt: skip
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**half, image_size=16, patch_size=8),
        text_config=hf.LlamaConfig(**half, vocab_size=50, max_position_embeddings=32),
        image_token_index=49,
        vision_feature_layer=-2,  # counted from the end, by the number in the configuration
    )
    model = hf.LlavaForConditionalGeneration(config).eval()
    ids = torch.tensor([[49] * 4 + list(range(6))])
    example = {"input_ids": ids, "pixel_values": image(16)[:1]}
    with torch.no_grad():
        model(**example)  # leaves hooks behind, as any earlier call does
    found = find_blocks(model, example)
    vision, text = "model.vision_tower.encoder.layers.{}", "model.language_model.layers.{}"
    assert [b.name for b in found] == [vision.format(i) for i in (1, 2)] + [
        text.format(i) for i in range(3)
    ]
    kept = {r.name: r.reason for r in found.rejected}[vision.format(0)]
    assert "out of range" in kept  # the last one left: there is no second layer from the end
    small = remove_blocks(model, found).eval()
    assert small.config.vision_config.num_hidden_layers == 1
    assert small(**example).logits.shape == model(**example).logits.shape


class Act(nn.Module):
    """A residual block with an activation behind the addition."""

    def __init__(self, act):
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), act

    def forward(self, x):
        return self.act(x + self.fc(x))


@pytest.mark.parametrize(
    ("act", "exact"),
    [(nn.ReLU(), True), (nn.SiLU(), False), (nn.LeakyReLU(), False)],
)
def test_an_activation_behind_the_addition(act, exact):
    model = chain(Act(act), Act(act))
    found = find_blocks(model, VECTORS / 10)
    assert [(b.name, b.post_norm) for b in found] == [("1", not exact), ("2", not exact)]
    if exact:  # what the first lets pass, the second does
        small, zeros = remove_blocks(model, found[1:]), zero_blocks(model, found[1:])
        assert torch.equal(small(VECTORS), zeros(VECTORS))


def test_outputs_that_nobody_needs_do_not_keep_a_block():
    class Tells(nn.Module):
        """Returns further tensors that it makes itself."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x, hint):
            y = x + self.fc(x) * (1 if hint is None else hint)
            return y, y.sigmoid()

    class Stack(nn.Module):
        def __init__(self, heeds):
            super().__init__()
            self.stem, self.layers = nn.Linear(4, 8), nn.ModuleList(Tells() for _ in range(3))
            self.heeds = heeds

        def forward(self, x):
            x, hint = self.stem(x), None
            for layer in self.layers:
                x, told = layer(x, hint)
                hint = told if self.heeds and hint is None else hint
            return x

    assert names(Stack(heeds=False), VECTORS) == ["layers.0", "layers.1", "layers.2"]
    assert "layers.0" not in names(Stack(heeds=True), VECTORS)
    told = reasons(Stack(heeds=True), VECTORS)["layers.0"]
    assert told == "returns further outputs that later modules may need"


def test_arguments_given_by_name_are_taken_even_if_they_are_none():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x, state=None):
            return x + self.fc(x)

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.layers = nn.Linear(4, 8), nn.ModuleList(Named() for _ in range(2))

        def forward(self, x):
            x = self.stem(x)
            for layer in self.layers:
                x = layer(x, state=None)
            return x

    assert names(Stack(), VECTORS) == ["layers.0", "layers.1"]


def test_a_deep_branch_of_many_small_layers_depends_on_its_input():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [m for _ in range(6) for m in (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())]
            self.net = nn.Sequential(*layers)

        def forward(self, x):
            return x + self.net(x)

    assert names(chain(Deep()), VECTORS) == ["1"]


def test_a_network_that_is_opaque_outside_tells_what_is_inside():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layer = nn.Embedding(9, 8), PreNormBlock()

        def forward(self, ids):
            x = self.embed(ids)
            return self.layer(self.layer(x))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = Inner(), nn.Linear(8, 3)

        def forward(self, ids):
            return self.head(self.inner(ids))

    told = reasons(Outer(), torch.arange(6).reshape(2, 3))
    assert set(told) == {"inner.layer.attention", "inner.layer.mlp"}  # no block to be beside of
    assert set(told.values()) == {"is called more than once in a forward pass"}


class WritingBlock(nn.Module):
    """A residual block that writes into its own parameter in every forward pass."""

    def __init__(self, width):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        self.temperature.data.clamp_(min=0.5)
        return x + self.linear(x) * self.temperature


class PlainBlock(nn.Module):
    """A residual block of one matrix."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.linear(x)


def test_a_block_that_writes_into_its_parameters_hides_no_other():
    model = nn.Sequential(PlainBlock(4), WritingBlock(4), nn.Linear(4, 4), nn.Linear(4, 4))
    assert "0" in names(model, VECTORS)
