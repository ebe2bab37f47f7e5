"""Counts are exact or absent: what PyTorch's own counter leaves out, and shared parameters."""

import pytest
import torch
from torch import nn

from layerticket.blocks.find import find_blocks
from layerticket.counting import UncountedError, count_macs, count_params, training_macs
from layerticket.errors import LayerticketError
from layerticket.selection import Budget, select
from layerticket.surgery.remove import remove_blocks
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from tiny import ScalarBlock, chain

STEPS = torch.randn(2, 10, 16)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.LSTM(16, 16, batch_first=True), 10 * 4 * 16 * (16 + 16)),  # 20,480
        (
            nn.LSTM(16, 8, num_layers=2, bidirectional=True, batch_first=True),
            10 * 2 * (4 * 8 * (16 + 8) + 4 * 8 * (16 + 8)),
        ),
        (nn.GRU(16, 16, batch_first=True), 10 * 3 * 16 * (16 + 16)),
        (nn.RNN(16, 8, batch_first=True), 10 * 8 * (16 + 8)),
    ],
)
def test_recurrent_layers(layer, expected):
    assert count_macs(layer, STEPS) == expected


def test_the_backward_pass_of_an_lstm_is_twice_the_forward_pass():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(16, 16, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    assert training_macs(Last(), STEPS) == 3 * 20_480


def test_bilinear():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.Bilinear(64, 64, 30)

        def forward(self, x):
            return self.both(x, x)

    assert count_macs(Both(), torch.randn(3, 64)) == 64 * 64 * 30 == 122_880


def test_products_with_vectors():
    class Vectors(nn.Module):
        def forward(self, x):
            return x @ x[0] + torch.dot(x[0], x[1]) + torch.addmv(x[:, 0], x, x[1])

    assert count_macs(Vectors(), torch.randn(5, 5)[None].squeeze(0)) == round((25 + 5 + 25) / 5)


def test_a_norm_of_values_is_no_product():
    class Unit(nn.Module):  # as in ConvNeXt V2 and Swin V2
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(x / x.norm(dim=-1, keepdim=True))

    assert count_macs(Unit(), torch.ones(1, 6)) == 6 * 4


def test_grouped_products_of_experts():
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    tokens = 7
    attention = 4 * tokens * 32 * 32 + 2 * tokens * tokens * 32
    experts = tokens * 32 * 4 + 2 * tokens * 3 * 32 * 64  # the router; two experts a token
    expected = 2 * (attention + experts) + tokens * 32 * 50
    assert count_macs(model, {"input_ids": torch.randint(0, 50, (1, tokens))}) == expected


def test_deformable_convolution():
    torchvision = pytest.importorskip("torchvision")

    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torchvision.ops.DeformConv2d(4, 5, 3)

        def forward(self, x):
            return self.layer(x, torch.zeros(len(x), 18, 6, 6))

    assert count_macs(Deformed(), torch.randn(2, 4, 8, 8)) == 5 * 4 * 9 * 36


class Distances(nn.Module):
    """Holds an operation without a formula between two blocks."""

    def __init__(self):
        super().__init__()
        self.net = chain(ScalarBlock(0.5, 8), ScalarBlock(0.25, 8), leaving=6)

    def forward(self, x):
        return torch.cdist(self.net(x), torch.eye(6)[:3])


def test_what_cannot_be_counted_is_named_and_budgets_in_macs_are_refused(tmp_path):
    batch = torch.randn(6, 4), torch.arange(6) % 3
    with pytest.raises(UncountedError, match=r"aten\._cdist_forward cannot be counted"):
        count_macs(Distances(), batch[0])
    found = find_blocks(Distances(), batch[0])
    assert len(found) == 2
    assert found.macs is None
    assert {b.macs for b in found} == {None}
    assert found.without(["net.1"]).macs is None
    scores = {b.name: float(b.position) for b in found}
    with pytest.raises(LayerticketError, match=r"in MACs cannot be met: .*_cdist_forward"):
        select(scores, found, Budget(save_macs=0.2))
    assert select(scores, found, Budget(remove=1)).saved_macs is None
    ticket = find_ticket(Distances(), batch, criterion="snip", budget=Budget(save_params=0.2))
    assert Ticket.load(ticket.save(tmp_path / "t")).macs == {"dense": None, "ticket": None}
    with pytest.raises(LayerticketError, match="nothing can be matched to them"):
        ticket.counted_macs  # noqa: B018
    assert "not counted" in repr(ticket)


class Shared(nn.Module):
    """Eight blocks on one linear layer, each with a scale of its own."""

    def __init__(self, outside=False):
        super().__init__()
        shared = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(On(shared) for _ in range(8))
        self.stem = nn.Linear(4, 16)
        self.outside = shared if outside else None

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x if self.outside is None else self.outside(x)


class On(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.own, self.shared = nn.Linear(16, 16), shared

    def forward(self, x):
        return x + torch.tanh(self.shared(torch.tanh(self.own(x))))


@pytest.mark.filterwarnings("ignore:.*is called more than once")
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("gone", [0, 1, 5, 8])
def test_shared_parameters_count_where_the_last_of_them_goes(gone, outside, tmp_path):
    model, x = Shared(outside), torch.randn(2, 4)
    found = find_blocks(model, x)
    assert len(found) == 8
    assert found.params == count_params(model)
    removed = [block.name for block in found][:gone]
    left = found.without(removed)
    assert left.params == count_params(remove_blocks(model, removed))
    if gone:
        scores = {b.name: float(b.position) for b in found}
        chosen = select(scores, found, Budget(remove=gone))
        assert chosen.saved_params == pytest.approx(1 - left.params / found.params)


def test_a_share_of_parameters_is_met_where_blocks_share_some(tmp_path):
    model = Shared()
    batch = torch.randn(6, 4), torch.arange(6) % 3
    ticket = find_ticket(model, batch, criterion="snip", budget=Budget(save_params=0.5))
    left = count_params(ticket.apply(model))
    assert 1 - left / count_params(model) >= 0.5
    again = Ticket.load(ticket.save(tmp_path / "ticket"))
    assert again.blocks == ticket.blocks
    assert again.blocks[0].shared == (
        ("blocks.0.shared.weight", 256, 8), ("blocks.0.shared.bias", 16, 8)
    )  # fmt: skip
