"""Networks and calls as people bring them: wrapped, raising, packed, not there."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError, ModelError
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.models.load import build_model
from layerticket.modules import TwiceDifferentiable, network_of
from layerticket.scoring import score
from layerticket.selection import Budget, select
from layerticket.surgery.remove import remove_blocks, zero_blocks
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from tiny import PreNormBlock, ScalarBlock, chain, conv_net, image_batch

ONE = Budget(remove=1)


def removed(model, batch, **options):
    return find_ticket(model, batch, budget=ONE, **options).removed


# What the network raises


class Hard(nn.Module):
    """A block whose activation PyTorch cannot differentiate twice."""

    def __init__(self, size=8, form=F.hardsigmoid):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, size), nn.Linear(size, size)
        self.form = form

    def forward(self, x):
        return x + self.fc2(self.form(self.fc1(x)))


VECTORS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize(
    "form",
    [F.hardsigmoid, lambda x: F.hardsigmoid(x, inplace=True), torch._C._nn.hardsigmoid],
    ids=["plain", "in place", "C"],
)
def test_grasp_through_hardsigmoid_is_grasp_through_its_formula(form):
    models = [chain(Hard(form=form), Hard(form=lambda x: F.relu6(x + 3) / 6)) for _ in range(2)]
    models[1][1].form = models[1][2].form
    models[1].load_state_dict(models[0].state_dict())
    found = [find_blocks(model, VECTORS[0]) for model in models]
    scores = [score(m, f, VECTORS, "grasp").values for m, f in zip(models, found, strict=True)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert len(scores[0]) == 2


def test_hardsigmoid_has_a_second_derivative_and_the_same_values():
    x = torch.linspace(-5, 5, 101, requires_grad=True)
    with TwiceDifferentiable():
        y = F.hardsigmoid(x)
        (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    assert torch.equal(y, F.hardsigmoid(x))
    (second,) = torch.autograd.grad(first.sum(), x)  # 2 / 36 where it is linear
    assert second[50] == pytest.approx(1 / 18)
    assert not second[0]


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:mobilenet_v3_small"])
def test_grasp_on_mobile_networks(name):
    model = build_model(name, classes=3, channels=3, seed=0)
    batch = torch.randn(4, 3, 64, 64), torch.arange(4) % 3
    assert len(removed(model, batch)) == 1


class Raises(nn.Module):
    """Two blocks and something that raises where and when it is told to."""

    def __init__(self, error=None, where="forward"):
        super().__init__()
        self.net = chain(ScalarBlock(0.5, 8), ScalarBlock(0.25, 8))
        self.error, self.where = error, where

    def forward(self, x):
        if self.error is not None and self.where == "forward":
            raise self.error
        y = self.net(x)
        if self.error is not None and y.requires_grad and self.where == "backward":
            y.register_hook(self.complain)
        return y

    def complain(self, _):
        raise self.error


class NotAlone(ScalarBlock):
    """A block that runs in its network only."""

    network_runs = False

    def forward(self, x):
        if not self.network_runs:
            raise ValueError("run\nthe network")
        return super().forward(x)


class RunsThem(nn.Sequential):
    """A network that says that it runs."""

    def forward(self, x):
        NotAlone.network_runs = True
        try:
            return super().forward(x)
        finally:
            NotAlone.network_runs = False


def test_the_reason_of_a_block_that_fails_alone_is_one_whole_line():
    (one,) = find_blocks(RunsThem(chain(NotAlone(0.5, 8))), VECTORS[0]).rejected
    assert one.reason == "cannot be run alone (ValueError: run)"


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    "error", [ValueError("odd\nsecond line"), AttributeError("odd"), KeyError("odd")]
)
def test_what_a_network_raises_is_a_model_error_with_its_cause(where, error):
    healthy = Raises()
    found = find_blocks(healthy, VECTORS[0])
    with pytest.raises(
        ModelError, match=r"Raises raised (Value|Attribute|Key)Error .*odd'?\.$"
    ) as told:
        score(Raises(error, where), found, VECTORS, "snip")
    assert type(told.value.__cause__) is type(error)
    with pytest.raises(ModelError):
        removed(Raises(error, where), VECTORS)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError("full"), KeyboardInterrupt()]
)
def test_memory_and_interrupts_pass_unchanged(where, error):
    found = find_blocks(Raises(), VECTORS[0])
    with pytest.raises(type(error)) as told:
        score(Raises(error, where), found, VECTORS, "snip")
    assert type(told.value) is type(error)
    assert str(told.value) == str(error)


def test_what_a_loss_raises_or_returns_is_a_model_error():
    model = chain(ScalarBlock(0.5, 8), ScalarBlock(0.25, 8))

    def broken(*_):
        raise RuntimeError("no such thing")

    with pytest.raises(ModelError, match="broken raised RuntimeError as the loss: no such thing"):
        removed(model, VECTORS, loss_fn=broken)
    with pytest.raises(ModelError, match=r"not one number \(shape \(6, 3\)\)"):
        removed(model, VECTORS, loss_fn=lambda m, b: m(b[0]))


def test_no_second_derivative_says_which_criterion_does_without():
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    model = chain(Hard(form=Odd.apply), Hard(form=Odd.apply))
    with pytest.raises(
        ModelError, match=r"no second derivative .*GraSP needs it: use criterion 'snip'"
    ):
        removed(model, VECTORS)
    assert removed(model, VECTORS, criterion="snip")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_networks(reentrant):
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = chain(PreNormBlock(), PreNormBlock())

        def forward(self, x):
            x = self.net[0](x)
            for block in self.net[1:3]:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return self.net[3](x).mean(1)

    batch = torch.randn(6, 3, 4), torch.arange(6) % 3
    if reentrant:
        with pytest.raises(ModelError, match="Set use_reentrant=False in torch"):
            removed(Saving(), batch)
    else:
        assert removed(Saving(), batch) in [("net.1",), ("net.2",)]


def test_one_image_in_a_batch_with_batch_normalization():
    model = CifarResNet(20, classes=3, channels=2)
    images, labels = torch.randn(1, 2, 8, 8), torch.zeros(1, dtype=torch.long)
    narrow = images[..., :4, :4]  # the last stage is 1 x 1
    found = find_blocks(model, narrow)
    with pytest.raises(ModelError, match=r"more than 1 value per channel.*normalization='running'"):
        score(model, found, (narrow, labels))
    assert score(model, found, (narrow, labels), normalization="running").values


# What is no network, or none that can be examined


def inference_network():
    with torch.inference_mode():
        return conv_net()


def meta_network():
    with torch.device("meta"):
        return conv_net()


def quantized_network():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(chain(ScalarBlock(0.5, 8)), {nn.Linear})


def offloaded_network():
    model = meta_network()
    model[0]._hf_hook = object()
    return model


NOT_EXAMINED = {
    "text": (lambda: "resnet20", r"the text 'resnet20'; give a torch.nn.Module: layerticket.build"),
    "class": (lambda: CifarResNet, "the model is a type; give a torch.nn.Module"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Linear(2, 2))), "is scripted or traced"),
    "meta": (meta_network, "the weights of 0 are on the meta device"),
    "offloaded": (offloaded_network, r"the weights of 0 are offloaded \(accelerate\)"),
    "inference": (inference_network, "the weights of 0 were created in torch.inference_mode"),
    "quantized": (quantized_network, "is quantized: its weights are packed"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
@pytest.mark.parametrize("kind", NOT_EXAMINED)
def test_what_cannot_be_examined_is_named(kind):
    make, words = NOT_EXAMINED[kind]
    model, batch = make(), image_batch()
    found = find_blocks(conv_net(), batch[0])
    for attempt in (
        lambda: find_blocks(model, batch[0]),
        lambda: score(model, found, batch),
        lambda: find_ticket(model, batch, budget=ONE),
        lambda: remove_blocks(model, found),
        lambda: zero_blocks(model, found),
        lambda: find_ticket(conv_net(), batch, budget=ONE).apply(model),
    ):
        with pytest.raises(LayerticketError, match=words) as told:
            attempt()
        assert not isinstance(told.value, ModelError)


def test_wrong_arguments_are_answered_in_one_line():
    model, batch = conv_net(), image_batch()
    found = find_blocks(model, batch[0])
    with pytest.raises(LayerticketError, match=r"budget is 2; give a .*Budget\(remove=2\)"):
        find_ticket(model, batch, budget=2)
    with pytest.raises(LayerticketError, match=r"budget is 0\.3; give a layerticket\.Budget"):
        select({b.name: 1.0 for b in found}, found, 0.3)
    with pytest.raises(ModelError, match=r"a batch \(inputs, targets\), give the inputs only"):
        find_blocks(model, batch)
    for kind in (torch.uint8, torch.uint16, torch.int32):
        raw = (255 * batch[0].abs().clamp(max=1)).to(kind)
        for attempt in (
            lambda raw=raw: find_blocks(model, raw),
            lambda raw=raw: score(model, found, (raw, batch[1])),
            lambda raw=raw: find_ticket(model, (raw, batch[1]), budget=ONE),
        ):
            with pytest.raises(ModelError, match=rf"{kind}, the .*32\. Give pixels .* by 255"):
                attempt()
    with pytest.raises(ModelError, match=r"torch.float64, the .* Convert them: inputs.to\("):
        score(model, found, (batch[0].double(), batch[1]))
    with torch.inference_mode():
        images = batch[0].clone()
    with pytest.raises(LayerticketError, match=r"inference_mode.* Give tensor\.clone\(\)"):
        score(model, found, (images, batch[1]))


def test_a_ticket_is_not_saved_among_other_files(tmp_path):
    ticket = find_ticket(conv_net(), image_batch(), budget=ONE)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LayerticketError, match=r"has other files \(notes.txt\). Choose an empty"):
        ticket.save(tmp_path)
    with pytest.raises(LayerticketError, match="is a file; a ticket is a folder"):
        ticket.save(tmp_path / "notes.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]
    (tmp_path / "images" / "cells").mkdir(parents=True)
    with pytest.raises(LayerticketError, match=r"has other files \(cells\)"):
        ticket.save(tmp_path / "images")
    folder = ticket.save(tmp_path / "ticket")
    assert Ticket.load(ticket.save(folder)).digest == ticket.digest  # the same again is fine


# Wrappers


class Holder(nn.Module):
    """Holds a network as a part of it, as a whole model with a compiled backbone does."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.backbone(x))


WRAPPERS = {
    "compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_gives_the_names_of_the_bare_one(wrapper, inside):
    torch.manual_seed(0)
    bare, batch = conv_net(), image_batch()
    wrapped = WRAPPERS[wrapper](bare)
    if inside:
        head = Holder(bare)
        bare, wrapped = head, Holder(wrapped)
        wrapped.head = head.head
    plain = find_ticket(bare, batch, budget=ONE)
    with pytest.warns(UserWarning, match="the network is wrapped in .*wrap it again"):
        ticket = find_ticket(wrapped, batch, budget=ONE)
    assert ticket.removed == plain.removed
    assert dict(ticket.scores) == dict(plain.scores)
    small = ticket.apply(bare)
    with pytest.warns(UserWarning, match="is wrapped in"):
        again = plain.apply(wrapped)
    assert type(again) is type(bare)
    assert again.state_dict().keys() == small.state_dict().keys()
    for net in (again.eval(), small.eval()):
        assert torch.equal(net(batch[0]), small(batch[0]))
    with pytest.warns(UserWarning, match="is wrapped in"):
        assert (
            remove_blocks(wrapped, plain.removed).state_dict().keys() == small.state_dict().keys()
        )


def test_weights_are_shared_with_a_wrapped_network():
    model = Holder(torch.compile(conv_net()))
    with pytest.warns(UserWarning, match="OptimizedModule"):
        bare = network_of(model)
    assert [id(p) for p in bare.parameters()] == [id(p) for p in model.parameters()]
    assert "backbone.0.weight" in dict(bare.named_parameters())
    assert network_of(bare) is bare


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model, batch = conv_net(), image_batch()
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.warns(UserWarning, match="wrapped in DistributedDataParallel"):
            assert [b.name for b in find_blocks(wrapped, batch[0])] == ["2", "3", "5"]
    finally:
        torch.distributed.destroy_process_group()


# Names in place of blocks


def test_names_stand_for_blocks():
    model, batch = conv_net(), image_batch()
    found = find_blocks(model, batch[0])
    some = ["3", "2"]
    by_block = remove_blocks(model, found.named(some))
    by_name = remove_blocks(model, some)
    assert str(by_name) == str(by_block)
    assert str(remove_blocks(model, [found[0], "3"])) == str(by_block)
    with torch.no_grad():
        same = zero_blocks(model, some).eval()(batch[0])
        assert torch.equal(same, by_name.eval()(batch[0]))
    assert score(model, some, batch).values == score(model, found.named(some), batch).values
    assert found.named([found[0]]) == (found[0],)
    with pytest.raises(LayerticketError, match="blocks is the text '3'; give a list"):
        remove_blocks(model, "3")
    with pytest.raises(LayerticketError, match=r"block '33' is not known. Did you mean '3'"):
        remove_blocks(model, ["33"])
    with pytest.raises(LayerticketError, match="block '4' cannot be removed: it changes shape"):
        score(model, ["4"], batch)


def test_names_of_blocks_that_are_called_with_more():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x, mask=None):
            return x + self.fc(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(4, 8)
            self.layers = nn.ModuleList(Masked() for _ in range(3))
            self.last = Masked()

        def forward(self, x):
            x = self.stem(x)
            for layer in self.layers:
                x = layer(x, None)
            return self.last(x, mask=None)

    model = Net()
    small = remove_blocks(model, ["layers.1"])
    assert [n for n, _ in small.layers.named_children()] == ["0", "2"]
    assert small(VECTORS[0]).shape == (6, 8)
    with pytest.raises(
        LayerticketError, match=r"forward takes x, mask\. Give the block that find_bl"
    ):
        remove_blocks(model, ["last"])


def test_the_seed_draws_random_scores():
    model, batch = chain(*(ScalarBlock(0.1 * i, 8) for i in range(1, 9))), VECTORS
    chosen = [removed(model, batch, criterion="random", seed=s) for s in range(8)]
    assert len(set(chosen)) > 2
    assert chosen[3] == removed(model, batch, criterion="random", draw=3)
    assert chosen[3] == removed(model, batch, criterion="random", draw=3, seed=5)


class Silent(nn.Module):
    """A residual block whose `train`, and so its `eval`, returns None, as LeViT's attention."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def train(self, mode=True):
        super().train(mode)

    def forward(self, x):
        return x + self.conv(x).relu()


def test_blocks_whose_train_returns_nothing():
    model = nn.Sequential(Silent(), Silent())
    found = find_blocks(model, torch.rand(1, 3, 8, 8))
    assert [block.name for block in found] == ["0", "1"]
    whole = Silent()  # the network itself
    assert list(find_blocks(whole, torch.rand(1, 3, 8, 8))) == []
