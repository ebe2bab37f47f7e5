"""Where blocks are when no module is one by itself: sums in the parent, stacks, needed blocks."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from layerticket.blocks.find import find_blocks
from layerticket.blocks.record import record
from layerticket.counting import module_macs
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.modules import copy_of
from layerticket.scoring import score
from layerticket.selection import Budget, select
from layerticket.surgery.remove import remove_blocks, zero_blocks
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from tiny import PreNormBlock, ScalarBlock, chain, conv_net, image_batch

ROWS = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(6) % 3


def names(model, example, **options):
    return [block.name for block in find_blocks(model, example, **options)]


def reasons(model, example):
    return {r.name: r.reason for r in find_blocks(model, example).rejected}


# A module that fails, and a network that catches its error


class Fast(nn.Module):
    """A residual block for small images only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        if x.shape[-1] > 16:
            raise RuntimeError("the image is too large")
        return x + y


class FastOrSlow(nn.Module):
    def __init__(self):
        super().__init__()
        self.fast = Fast()
        self.slow = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        try:
            x = self.fast(x)
        except RuntimeError:
            for branch in self.slow:
                x = x + branch(x)
        return self.head(x.mean((2, 3)))


def test_a_module_that_fails_leaves_the_record_in_order():
    torch.manual_seed(0)
    model, large = FastOrSlow(), torch.randn(1, 3, 20, 20)
    macs = {"fast": 81 * 400, "fast.conv": 81 * 400, "head": 6}
    macs |= {f"slow.{i}{inner}": 9 * 400 for i in (0, 1) for inner in ("", ".0")}
    macs[""] = 81 * 400 + 2 * 9 * 400 + 6
    counted = record(model, large).macs.by_module(model, large)
    assert {name: number for name, number in counted.items() if number} == macs
    assert module_macs(model, large) == counted
    assert names(model, large) == ["slow.0", "slow.1"]
    assert "fails with an error that the network catches" in reasons(model, large)["fast"]
    assert names(model, large[..., :16, :16]) == ["fast"]


class ReadsOnce(nn.Module):
    """Reads an attribute of its block when it runs first, which it remembers in some way."""

    def __init__(self, memory):
        super().__init__()
        self.stem, self.block = nn.Linear(10, 8), PreNormBlock()
        self.memory, self.number, self.entries = memory, 0, {}
        self.register_buffer("buffer", torch.zeros(1))

    def forward(self, x):
        if not (self.number or self.buffer.any() or self.entries):
            assert self.block.mlp is not None
            if self.memory == "number":
                self.number = 1
            elif self.memory == "buffer":
                self.buffer.add_(1)
            else:
                self.entries["ran"] = True
        return self.block(self.stem(x))


@pytest.mark.parametrize("memory", ["number", "buffer", "entries"])
def test_a_network_that_changes_as_it_runs_is_tested_as_it_was(memory):
    assert names(ReadsOnce(memory), ROWS[None]) == []  # its first run needs the block


# The sum stands in the module around


def tabular_block(size=16):
    return nn.Sequential(
        nn.BatchNorm1d(size), nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size)
    )


class Tabular(nn.Module):
    """x + b(x) in a loop, in several spellings."""

    def __init__(self, spelling="plain", blocks=4):
        super().__init__()
        self.stem = nn.Linear(10, 16)
        self.blocks = nn.ModuleList(tabular_block() for _ in range(blocks))
        self.scales = nn.Parameter(torch.full((blocks,), 0.5))
        self.drop = nn.Dropout()
        self.head = nn.Linear(16, 3)
        self.spelling = spelling

    def forward(self, x):
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            match self.spelling:
                case "plain":
                    x = x + block(x)
                case "turned":
                    x = block(x) + x
                case "in place":
                    x += block(x)
                case "scaled":
                    x = x + self.scales[number] * self.drop(block(x))
                case "addcmul":
                    x = torch.addcmul(x, block(x), self.scales[number].expand_as(x))
                case "activated":
                    x = torch.relu(x + block(x))
                case "checkpoint":
                    x = x + checkpoint(block, x, use_reentrant=False)
                case "reentrant":
                    x = x + checkpoint(block, x, use_reentrant=True)
        return self.head(x)


SPELLINGS = (
    *("plain", "turned", "in place", "scaled", "addcmul", "activated", "checkpoint", "reentrant"),
)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("granularity", ["block", "branch"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_module_that_is_added_to_the_running_value_is_a_branch(spelling, granularity):
    model = Tabular(spelling).eval()
    found = find_blocks(model, ROWS, granularity=granularity)
    assert [b.name for b in found] == [f"blocks.{i}" for i in range(4)]
    assert {b.stage for b in found} == {0}
    assert {b.params for b in found} == {2 * 16 + 16 * 32 + 32 + 32 * 16 + 16}
    assert {b.macs for b in found} == {2 * 16 * 32}
    assert found.rejected == ()
    gone = [found[1], found[3]]
    small, zeroed = remove_blocks(model, gone), zero_blocks(model, gone)
    with torch.no_grad():
        assert torch.equal(small(ROWS), zeroed(ROWS))
    assert "blocks.1.1.weight" not in small.state_dict()
    shorter = Tabular(spelling, blocks=2).eval()  # the loop over the two that are left
    kept = {"blocks.0": "blocks.0", "blocks.2": "blocks.1"}
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}
    for name, value in model.state_dict().items():
        for old, new in kept.items():
            if name.startswith(f"{old}."):
                state[name.replace(old, new, 1)] = value
    state["scales"] = model.scales[[0, 2]]
    shorter.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(small(ROWS), shorter(ROWS))


@pytest.mark.parametrize("criterion", ["grasp", "snip", "magnitude", "kl", "cka", "synflow"])
def test_branches_of_the_parent_are_scored_cut_saved_and_trained(criterion, tmp_path):
    model, batch = Tabular(), (ROWS, LABELS)
    ticket = find_ticket(model, batch, criterion=criterion, budget=Budget(remove=2))
    assert len(set(ticket.scores.values())) == 4
    again = Ticket.load(ticket.save(tmp_path / "ticket"))
    assert again.digest == ticket.digest
    small = again.apply(Tabular())
    assert not set(small.state_dict()) & {f"{name}.1.weight" for name in ticket.removed}
    nn.functional.cross_entropy(small(ROWS), LABELS).backward()
    assert all(p.grad is not None for n, p in small.named_parameters() if n != "scales")


def test_norm_and_branch_called_in_the_parent_go_together():
    class Loop(nn.Module):
        """x + a(n(x)), then y + m(y) where m reads what a norm of its own gives."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(4, 8)
            self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
            self.attention = nn.ModuleList(
                nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2)
            )
            self.mlp = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

        def forward(self, x):
            x = self.stem(x)
            for a, m, one, two in zip(
                self.attention, self.mlp, self.norms[::2], self.norms[1::2], strict=True
            ):
                y = one(x)
                x = x + a(y, y, y, need_weights=False)[0]
                x = x + m(two(x))
            return x.mean(1)

    model, tokens = Loop().eval(), torch.randn(2, 3, 4)
    found = find_blocks(model, tokens)
    assert [b.name for b in found] == ["attention.0", "mlp.0", "attention.1", "mlp.1"]
    assert found[0].modules == ("attention.0", "norms.0")
    assert found[3].modules == ("mlp.1", "norms.3")
    assert found[3].params == 72 + 16
    small = remove_blocks(model, [found[0], found[3]])
    assert {n.split(".weight")[0] for n in small.state_dict()} & {"norms.0", "norms.3"} == set()
    with torch.no_grad():
        assert torch.equal(small(tokens), zero_blocks(model, [found[0], found[3]])(tokens))


def test_parallel_branches_in_the_parent():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(10, 16)
            self.left = nn.ModuleList(tabular_block() for _ in range(2))
            self.right = nn.ModuleList(tabular_block() for _ in range(2))

        def forward(self, x):
            x = self.stem(x)
            for left, right in zip(self.left, self.right, strict=True):
                x = x + left(x) + right(x)
            return x

    assert names(Parallel(), ROWS) == ["left.0", "right.0", "left.1", "right.1"]


def test_sums_that_are_no_branches():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = nn.Linear(10, 16), nn.Linear(10, 16)
            self.one, self.two, self.wide = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 1)
            self.shared = nn.Linear(16, 16)
            self.block = ScalarBlock(0.5, 16)

        def forward(self, x):
            x = self.token(x) + self.place(x)  # neither comes from the other
            x = self.one(x) + self.two(x)
            x = x + self.wide(x)  # of another shape
            x = x + self.shared(x)
            x = x + self.shared(x)  # called twice
            y = self.block(x)
            return y + x

    assert names(Net(), ROWS) == ["block"]
    assert names(Net(), ROWS, granularity="branch") == ["block"]


def test_an_outer_sum_around_blocks_is_left_out():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(4, 8)
            self.body = nn.Sequential(ScalarBlock(0.5, 8), ScalarBlock(0.5, 8), nn.Linear(8, 8))

        def forward(self, x):
            x = self.stem(x)
            return x + self.body(x)

    assert names(Outer(), torch.randn(2, 4)) == ["body.0", "body.1"]


# A stack is no block


class Trunk(nn.Module):
    """Adds an embedding of the position, then runs its blocks; may hold a layer it never uses."""

    def __init__(self, blocks, table=True, idle=False, loop=False):
        super().__init__()
        self.table = nn.Embedding(6, 8) if table else None
        self.layers = nn.ModuleList(blocks) if loop else nn.Sequential(*blocks)
        if idle:
            self.idle = nn.Linear(8, 8)
        self.loop = loop

    def forward(self, x):
        if self.table is not None:
            x = x + self.table(torch.arange(x.shape[1]))
        if not self.loop:
            return self.layers(x)
        for layer in self.layers:
            x = layer(x)
        return x


IDLE = {"table": False, "idle": True}
TOKENS = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", [PreNormBlock, lambda: ScalarBlock(0.5, 8)], ids=["two", "one"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loop": True},
        {"table": False, "idle": True},
        {"table": False, "idle": True, "loop": True},
    ],
)
def test_a_trunk_offers_its_blocks_and_not_itself(options, kind):
    model = chain(Trunk([kind() for _ in range(8)], **options))
    assert names(model, TOKENS) == [f"1.layers.{i}" for i in range(8)]
    nested = chain(
        Trunk([Trunk([kind() for _ in range(3)], **options) for _ in range(2)], **options)
    )
    assert names(nested, TOKENS) == [f"1.layers.{i}.layers.{j}" for i in range(2) for j in range(3)]


def test_stacks_of_mixed_kinds():
    def mixed():
        return [ScalarBlock(0.5, 8), PreNormBlock(), ScalarBlock(0.5, 8), PreNormBlock()]

    assert names(chain(Trunk(mixed())), TOKENS) == [f"1.layers.{i}" for i in range(4)]


def test_a_block_of_blocks_in_its_branch_stays_one():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Trunk([ScalarBlock(0.1, 8) for _ in range(4)])
            self.last = nn.Linear(8, 8)

        def forward(self, x):
            return x + self.last(self.inner(x))

    assert names(chain(Outer(), Outer()), TOKENS) == ["1", "2"]


@pytest.mark.parametrize("kind", ["Llama", "Bert", "GPT2"])
def test_language_halves_called_through_embeddings(kind):
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 50}
    sizes = {
        "Llama": {
            "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 2, "intermediate_size": 32,
        },
        "Bert": {
            "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "GPT2": {"n_embd": 16, "n_layer": 3, "n_head": 2},
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**small, **sizes[kind])
    half = getattr(transformers, f"{kind}Model")(config)

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.language = nn.Linear(4, 16), half
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            told = self.language(inputs_embeds=self.project(x))
            return self.head(told.last_hidden_state[:, 0])

    found = find_blocks(Holder(), TOKENS)
    layers = {"Llama": "layers", "Bert": "encoder.layer", "GPT2": "h"}[kind]
    assert [b.name for b in found] == [f"language.{layers}.{i}" for i in range(3)]
    small = remove_blocks(Holder(), found.named([found[1].name]))
    assert small(TOKENS).shape == (2, 3)


def test_a_block_that_holds_most_of_the_network_is_said():
    model = chain(ScalarBlock(0.5, 64), ScalarBlock(0.5, 64), entering=64)
    found = find_blocks(model, ROWS[:, :4])
    scores = {b.name: float(b.position) for b in found}
    select(scores, found, Budget(remove=1))  # 46 % of the parameters
    wide = chain(ScalarBlock(0.5, 64), entering=64)
    found = find_blocks(wide, ROWS[:, :4])
    with pytest.warns(UserWarning, match=r"block '1' is removed, with 88\.8% of the network"):
        select({"1": 0.0}, found, Budget(remove=1))
    select({"1": 0.0}, found, Budget(save_params=0.5))  # a share says itself how much


# Blocks that others need


class Writes(nn.Module):
    """The first writes what later ones read."""

    def __init__(self, first, form):
        super().__init__()
        self.first, self.form = first, form
        self.fc = nn.Linear(8, 8)

    def forward(self, x, d):
        if self.first:
            d["k"] = torch.tanh(x)
            return x + self.fc(x)
        return x + self.fc(x + (d["k"] if self.form == "needed" else d.get("k", 0)))


class DictNet(nn.Module):
    def __init__(self, form="needed", blocks=4):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.layers = nn.ModuleList(Writes(i == 0, form) for i in range(blocks))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x, d = self.stem(x), {}
        for layer in self.layers:
            x = layer(x, d)
        return self.head(x)


def test_a_block_that_later_ones_need_is_rejected_with_the_reason():
    rows = ROWS[:, :4]
    assert names(DictNet(), rows) == ["layers.1", "layers.2", "layers.3"]
    assert "fails without it: KeyError: 'k'" in reasons(DictNet(), rows)["layers.0"]
    ticket = find_ticket(DictNet(), (rows, LABELS), budget=Budget(remove=3))
    assert ticket.apply(DictNet())(rows).shape == (6, 3)


def test_blocks_that_can_go_alone_and_not_together():
    class EitherNet(DictNet):
        """Two blocks write the same, and one of them is needed."""

        def __init__(self):
            super().__init__()
            self.layers[1] = Writes(True, "needed")

        def forward(self, x):
            x, d = self.stem(x), {}
            for layer in self.layers:
                x = layer(x, d)
            return self.head(x) * d["k"].mean()

    found = find_blocks(EitherNet(), ROWS[:, :4])
    assert [b.name for b in found] == ["layers.1", "layers.2", "layers.3"]
    told = {r.name: r.reason for r in found.rejected}["layers.0"]
    assert told.endswith("(when layers.1, layers.2, layers.3 are removed)")
    assert remove_blocks(EitherNet(), found)(ROWS[:, :4]).shape == (6, 3)


class SharedState(nn.Module):
    """Leaves a value in a dictionary that all blocks hold."""

    def __init__(self, state):
        super().__init__()
        self.fc, self.state = nn.Linear(8, 8), state

    def forward(self, x):
        y = self.fc(x)
        self.state["sum"] = self.state.get("sum", 0) + y.mean()
        return x + y * (1 + self.state["sum"])


class StateNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.state = {}
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(SharedState(self.state) for _ in range(4))

    def forward(self, x):
        self.state.clear()
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("criterion", ["kl", "cka"])
@pytest.mark.parametrize("make", [lambda: DictNet("optional"), StateNet], ids=["given", "held"])
def test_leaving_out_is_what_removing_gives_where_values_are_left_in_a_dict(make, criterion):
    from layerticket.criteria.cka import linear_cka
    from layerticket.criteria.leave_one_out import LeaveOneOut

    torch.manual_seed(3)
    model, rows = make().eval(), ROWS[:, :4]
    found = find_blocks(model, rows)
    assert len(found) == 4
    network = LeaveOneOut(model, found, rows)
    with torch.no_grad():
        for block in found:
            alone = remove_blocks(model, [block]).eval()(rows)
            assert torch.equal(network.without(block.name).logits, alone)
    values = score(model, found, (rows, LABELS), criterion).values
    if criterion == "kl":
        with torch.no_grad():
            p = torch.log_softmax(model(rows).double(), 1)
            for block in found:
                q = torch.log_softmax(remove_blocks(model, [block]).eval()(rows).double(), 1)
                expected = (p.exp() * (p - q)).sum(1).mean().item()
                assert values[block.name] == pytest.approx(expected, rel=1e-6)
    assert linear_cka(rows, rows) == pytest.approx(1)


# Weights that are made of others


def every_convolution(model, make):
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            make(module)
    return model


MADE = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "older weight_norm": weight_norm,
    "older spectral_norm": spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("how", MADE)
def test_parametrized_weights(how, tmp_path):
    torch.manual_seed(0)
    model = every_convolution(torchvision.models.resnet18(num_classes=3), MADE[how]).eval()
    batch = torch.randn(6, 3, 32, 32), LABELS
    found = find_blocks(model, batch[0])
    plain = find_blocks(torchvision.models.resnet18(num_classes=3), batch[0])
    assert [b.name for b in found] == [b.name for b in plain]
    assert {r.reason for r in found.rejected} == {r.reason for r in plain.rejected}
    before = copy.deepcopy(model.state_dict())
    ticket = find_ticket(model, batch, criterion="snip", budget=Budget(remove=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = Ticket.load(ticket.save(tmp_path / "ticket"))
    small = again.apply(model).eval()
    kept = {n for n in before if not any(n.startswith(f"{gone}.") for gone in ticket.removed)}
    assert set(small.state_dict()) == kept  # the parametrization of the rest is there
    with torch.no_grad():
        assert torch.equal(small(batch[0]), zero_blocks(model, again.removed).eval()(batch[0]))
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    nn.functional.cross_entropy(small.train()(batch[0]), LABELS).backward()
    optimizer.step()
    name = next(n for n, _ in small.named_parameters() if "conv1" in n and "weight" in n)
    assert not torch.equal(small.state_dict()[name], before[name])


def test_magnitude_of_a_normalized_weight_is_that_of_the_weight_in_use():
    model = chain(ScalarBlock(0.5, 8), ScalarBlock(0.25, 8))
    for block in model[1:3]:
        parametrizations.weight_norm(block.fc)
        with torch.no_grad():
            block.fc.parametrizations.weight.original1.mul_(100)  # only its direction counts
    found = find_blocks(model, ROWS[:, :4])
    values = score(model, found, (ROWS[:, :4], LABELS), "magnitude").values
    assert values == pytest.approx({"1": 64 * 0.5, "2": 64 * 0.25}, rel=1e-5)


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp", "synflow"])
def test_masked_weights_count_as_what_is_in_use(criterion):
    torch.manual_seed(0)
    model, batch = CifarResNet(20, classes=3, channels=2), image_batch(size=8)
    generator = torch.Generator().manual_seed(0)
    for module in model.layer1[1].modules():
        if isinstance(module, nn.Conv2d):
            mask = (torch.rand(module.weight.shape, generator=generator) > 0.99).float()
            prune.custom_from_mask(module, "weight", mask)
    permanent = copy_of(model)
    for module in permanent.layer1[1].modules():
        if isinstance(module, nn.Conv2d):
            prune.remove(module, "weight")
    ours, theirs = (
        score(m, find_blocks(m, batch[0]), batch, criterion).values for m in (model, permanent)
    )
    assert ours == pytest.approx(theirs, rel=1e-4)
    if criterion == "magnitude":
        in_use = sum(
            m.weight.abs().sum().item()
            for m in permanent.layer1[1].modules()
            if isinstance(m, nn.Conv2d)
        )
        assert ours["layer1.1"] == pytest.approx(in_use, rel=1e-5)


def test_a_block_that_is_masked_to_nothing_changes_no_other():
    model, image = conv_net(), image_batch()[0]
    stage = nn.Sequential(model[2], model[3])
    staged = nn.Sequential(*model[:2], stage, *model[4:])
    before = names(staged, image)
    for module in stage[0].modules():
        if isinstance(module, nn.Conv2d):
            prune.custom_from_mask(module, "weight", torch.zeros_like(module.weight))
    assert names(staged, image) == before == ["2.0", "2.1", "4"]
