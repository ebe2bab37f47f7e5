import logging
import math

import pytest
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layerticket.batch import call, logits_of
from layerticket.blocks.find import find_blocks
from layerticket.criteria.cka import cka, linear_cka
from layerticket.criteria.kl import kl
from layerticket.criteria.leave_one_out import LeaveOneOut
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.modules import preserved_random_state, reference_kernels
from layerticket.scoring import score
from layerticket.surgery.remove import remove_blocks
from toy_residual import Add, Vectors

LN3 = math.log(3)


def test_kl_by_hand():
    # x = (ln 3, ln 3). Block 0 mutes x_1, block 1 doubles it: logits (ln 3, 0), p = (3/4, 1/4).
    # Without block 0: (ln 3, 2 ln 3), q = (1/4, 3/4), KL = 3/4 ln 3 - 1/4 ln 3 = (ln 3) / 2.
    # Without block 1: nothing changes, KL = 0.
    model = Vectors([[0.0, 0.0], [0.0, -1.0]], [[0.0, 0.0], [0.0, 1.0]])
    x = torch.full((2, 2), LN3)
    scores = kl(model, find_blocks(model, x), (x, torch.zeros(2)))
    assert scores == pytest.approx({"blocks.0": LN3 / 2, "blocks.1": 0.0}, abs=1e-6)


def test_cka_by_hand():
    # x = (a, b), a = (1, -1, 0, 0) and b = (0, 0, c, -c) with c^2 = 3. Block 0 mutes b, block 1
    # doubles a: X = (2a, 0). Without block 0, Y = (2a, b): <XX', YY'> = 64, ||XX'|| = 8,
    # ||YY'|| = sqrt(64 + 36) = 10, so CKA = 64 / 80. Without block 1, Y = X / 2 and CKA = 1.
    model = Vectors([[0.0, 0.0], [0.0, -1.0]], [[1.0, 0.0], [0.0, 0.0]])
    c = math.sqrt(3)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, c], [0.0, -c]])
    scores = cka(model, find_blocks(model, x), (x + 5, torch.zeros(4)))
    assert scores == pytest.approx({"blocks.0": 0.2, "blocks.1": 0.0}, abs=1e-6)


def test_cka_of_a_constant_is_zero():
    assert linear_cka(torch.rand(4, 3), torch.ones(4, 2)) == 0


def test_cka_refuses_two_examples():
    model, x = Vectors([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]), torch.rand(2, 2)
    with pytest.raises(LayerticketError, match="2 examples are too few"):
        cka(model, find_blocks(model, x), (x, torch.zeros(2)))


# Networks whose code does what makes sharing hard.


class Listed(nn.Module):
    """Blocks in a list, called with more arguments, returning tuples; states are collected."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Linear(6, 6)

        def forward(self, x, scale=None, flag=False):
            return x + scale * torch.tanh(self.branch(x)), scale

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(self.Block() for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x, states = self.stem(x), []
        for block in self.blocks:
            x, scale = block(x, scale=x.new_ones(6), flag=True)
            states.append(x)
        return {"logits": self.head(x + states[0] * scale)}


class Chain(nn.Module):
    """A stem, three blocks, a head; subclasses change one thing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.Sequential(*(Add(torch.rand(6, 6).tolist()) for _ in range(3)))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def before(self, x):
        return self.stem(x)

    def forward(self, x):
        return self.head(self.blocks(self.before(x)))


class Overwriting(Chain):
    """A module writes into its input, which is read again."""

    def before(self, x):
        x = self.stem(x)
        y = self.relu(x)
        return x + y.tanh()


class Scribbling(Chain):
    """A module writes into its input and returns something else."""

    class Scribble(nn.Module):
        def forward(self, x):
            return x.mul_(2).mean(1, keepdim=True)

    def __init__(self):
        super().__init__()
        self.scribble = self.Scribble()

    def before(self, x):
        x = self.stem(x)
        return self.scribble(x) + x


class Viewing(Chain):
    """What a module returned is its own input, and is written to through that."""

    def __init__(self):
        super().__init__()
        self.same = nn.Identity()

    def before(self, x):
        x = self.stem(x)
        self.same(x).mul_(2)
        return x


class WritesAfterwards(Chain):
    """What a module returned is written to after it has returned."""

    def before(self, x):
        return self.stem(x).mul_(0.5).add_(1)


class WritingBlock(Add):
    """Writes to its input before it adds to it."""

    def forward(self, x):
        return super().forward(x.relu_())


class WritingBlocks(Chain):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(WritingBlock(torch.rand(6, 6).tolist()) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) + x.sum() / 100
        return self.head(x)


class Shared(Chain):
    """One module is called at several places, also inside a module that is replayed whole."""

    def __init__(self):
        super().__init__()
        self.tied = nn.Sequential(self.stem, nn.Tanh(), self.stem)

    def before(self, x):
        return self.stem(self.tied(self.stem(x)))


class Returning(Chain):
    """Modules that return something other than a tensor."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x):
            return {"x": self.linear(x), "kept": [x, (None, 3)]}

    def __init__(self):
        super().__init__()
        self.pair = self.Pair()

    def before(self, x):
        pair = self.pair(x)
        return pair["x"] * pair["kept"][1][1]


class Headless(Chain):
    def forward(self, x):
        return self.blocks(self.before(x))


class Noisy(Chain):
    """Draws random numbers in every module of the prefix."""

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    def __init__(self):
        super().__init__()
        self.noise = self.Noise()

    def forward(self, x):
        return self.head(self.blocks(self.noise(self.before(x))) + torch.rand(6))


class Counting(Chain):
    """Does something else before its blocks when there are fewer of them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Listed.Block() for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        if len(self.blocks) < 3:
            x = self.head.weight.sum() + self.stem(self.relu(x))
        for block in self.blocks:
            x, _ = block(x, scale=x.new_ones(()))
        return self.head(x)


class Remembering(Chain):
    """A module leaves a state behind that the rest of the network reads."""

    class Memo(nn.Module):
        seen = None

        def forward(self, x):
            self.seen = x.mean()
            return x * 2

    def __init__(self):
        super().__init__()
        self.memo = self.Memo()

    def forward(self, x):
        self.memo.seen = torch.zeros(())
        return self.head(self.blocks(self.memo(self.stem(x)))) * self.memo.seen


def definitely(model, blocks, inputs):
    """Logits without each block, by building the smaller networks one by one."""
    found = {}
    for block in blocks:
        with torch.no_grad(), preserved_random_state(0):
            found[block.name] = logits_of(call(remove_blocks(model, [block]), inputs))
    return found


SHARING = [
    *(Listed, Overwriting, Scribbling, Viewing, WritesAfterwards, Shared, Returning, Headless)
]


@pytest.mark.parametrize("kind", [*SHARING, WritingBlocks, Noisy, Counting, Remembering])
def test_the_smaller_networks_outputs_bit_for_bit(kind, caplog):
    model, x = kind().eval(), torch.randn(5, 6)
    blocks = find_blocks(model, x)
    assert len(blocks) >= 3
    expected = definitely(model, blocks, x)
    network = LeaveOneOut(model, blocks, x)
    for name, logits in expected.items():
        assert torch.equal(network.without(name).logits, logits), name
        assert not torch.equal(network.full.logits, logits)
    if kind in SHARING:
        assert not network.not_reused
        assert not caplog.records


def test_features_are_what_the_last_layer_reads_or_else_the_output():
    x = torch.randn(5, 6)
    for model in (Chain().eval(), Headless().eval()):
        blocks = find_blocks(model, x)
        network = LeaveOneOut(model, blocks, x)
        for outcome in (network.full, network.without("blocks.1"), network.without("blocks.2")):
            read = outcome.features if isinstance(model, Headless) else model.head(outcome.features)
            assert torch.equal(read, outcome.logits)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Noisy, "gives another output"),
        (Remembering, "gives another output"),
        (Counting, "without a block it calls 'relu', not 'blocks.0'"),
    ],
)
def test_what_cannot_be_reused_is_run_in_full_with_a_warning(kind, reason, caplog):
    model, x = kind().eval(), torch.randn(5, 6)
    with caplog.at_level(logging.WARNING, "layerticket.criteria.leave_one_out"):
        network = LeaveOneOut(model, find_blocks(model, x), x)
        network.without("blocks.2")
    assert reason in network.not_reused
    (record,) = caplog.records
    assert f"running all of {kind.__name__} for every block: {network.not_reused}" in record.message


def test_the_model_given_is_left_alone():
    model, x = Listed().eval(), torch.randn(5, 6)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    children = list(model.blocks._modules)
    network = LeaveOneOut(model, find_blocks(model, x), x)
    network.without("blocks.1")
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert list(model.blocks._modules) == children
    assert list(network._net.get_submodule("blocks")._modules) == children


def test_what_is_inside_blocks_is_not_kept():
    model = build_model("resnet20", classes=10, channels=3, seed=0).eval()
    x = torch.randn(2, 3, 8, 8)
    blocks = find_blocks(model, x)
    network = LeaveOneOut(model, blocks, x)
    kept = {c.name for c in network._calls if c.saved is not None}
    assert kept == {
        *("conv1", "bn1", "layer1", "layer2"),
        *("layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.1", "layer2.2"),
        *("layer3.0", "layer3.1"),
    }


def test_the_cost_is_that_of_what_lies_behind_the_blocks():
    model = build_model("resnet32", classes=10, channels=3, seed=0).eval()
    x = torch.randn(2, 3, 16, 16)
    blocks = find_blocks(model, x)
    with FlopCounterMode(display=False) as ours:
        network = LeaveOneOut(model, blocks, x)
        for block in blocks:
            network.without(block.name)
    # All blocks cost the same; the stem and the layers that must stay are counted with the 15.
    passes = ours.get_total_flops() / 2 / (2 * blocks.macs)
    assert passes < 0.6 * (len(blocks) + 1)


def bert():
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=5,
    )
    ids = torch.randint(50, (6, 7))
    return (
        transformers.BertForSequenceClassification(config).eval(),
        {"input_ids": ids, "labels": torch.arange(6) % 5},
        lambda m, b: m.classifier.register_forward_pre_hook(b),
    )


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return (
        transformers.GPT2LMHeadModel(config).eval(),
        {"input_ids": torch.randint(50, (6, 7))},
        lambda m, b: m.lm_head.register_forward_pre_hook(b),
    )


def resnet():
    model = build_model("resnet20", classes=10, channels=3, seed=0).eval()
    return (
        model,
        (torch.randn(6, 3, 8, 8), torch.arange(6)),
        lambda m, b: m.fc.register_forward_pre_hook(b),
    )


@pytest.mark.peer
@pytest.mark.parametrize("build", [bert, gpt2, resnet])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_kl_and_cka_are_their_definitions(build, micro_batches):
    torch.manual_seed(3)
    model, batch, watch = build()
    inputs = batch if isinstance(batch, dict) else batch[0]
    blocks = find_blocks(model, inputs)
    seen = []

    def run(net):
        watch(net, lambda _m, args: seen.append(args[0].double().flatten(1)))
        with torch.no_grad(), reference_kernels():
            logits = logits_of(call(net, inputs)).double()
        return logits.softmax(-1), seen.pop()

    expected_kl, expected_cka = {}, {}
    for block in blocks:
        q, y = run(remove_blocks(model, [block]))
        p, x = run(remove_blocks(model, []))
        expected_kl[block.name] = (p * (p / q).log()).sum(-1).mean().item()
        x, y = x - x.mean(0), y - y.mean(0)
        alignment = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
        expected_cka[block.name] = 1 - alignment.item()
    found = {
        name: score(model, blocks, batch, name, micro_batches=micro_batches).values
        for name in ("kl", "cka")
    }
    assert found["kl"] == pytest.approx(expected_kl, rel=1e-3, abs=1e-9)
    assert found["cka"] == pytest.approx(expected_cka, rel=1e-3, abs=1e-6)
    assert min(expected_kl.values()) > 0


def test_kl_takes_the_classes_of_dense_predictions_from_dimension_one():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(Add(torch.rand(3, 3).tolist(), maps=True))

        def forward(self, x):
            return self.blocks(x)  # (N, K, H, W)

    model, x = Dense(), torch.rand(2, 3, 4, 5)
    p, q = model(x).softmax(1), x.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean().item()
    scores = kl(model, find_blocks(model, x), (x, torch.zeros(2)))
    assert scores == pytest.approx({"blocks.0": expected}, rel=1e-4)
