"""The gradient all per-weight criteria share, held against plain autograd."""

import pytest
import torch
from torch import nn

from layerticket.blocks.find import find_blocks
from layerticket.criteria.saliency import loss_gradient, redraw_weights
from layerticket.criteria.snip import CUT, scaled_by_fan_in
from layerticket.errors import LayerticketError
from layerticket.modules import view_of
from layerticket.scoring import score
from tiny import conv_net, image_batch


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight
        self.spare = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def squares(model, batch):
    return model(batch[0]).square().mean()


@pytest.mark.parametrize("parts", [1, 3])
def test_tied_and_unused_weights_and_micro_batches(parts):
    model, batch = Tied(), (torch.randn(6, 4), torch.zeros(6))
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    before = [p._backward_hooks for p in weights.values()]
    found = loss_gradient(model, batch, weights, squares, parts)
    used = weights["first.weight"]
    expected = torch.autograd.grad(squares(model, batch), used)[0]
    assert set(found) == {"first.weight", "spare.weight"}
    assert torch.allclose(found["first.weight"], expected, atol=1e-6)
    assert found["spare.weight"].abs().sum() == 0
    assert all(p.grad is None for p in model.parameters())
    assert all(not p._backward_hooks for p in weights.values()), before


def test_one_gradient_in_memory_whatever_the_parts():
    """What autograd itself returns are zeros that take no memory."""
    model, batch = Tied(), (torch.randn(6, 4), torch.zeros(6))
    weights = {"first.weight": model.first.weight}
    returned = []
    original = torch.autograd.grad

    def spy(*args, **kwargs):
        returned.extend(original(*args, **kwargs))
        return returned[-1:]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", spy)
        loss_gradient(model, batch, weights, squares, 3)
    assert len(returned) == 3
    assert all(g.untyped_storage().nbytes() == 4 for g in returned)


def test_weights_drawn_anew_are_the_views_own_and_stay_tied():
    model = Tied()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    view = view_of(model)
    redraw_weights(view, (nn.Linear,), nn.init.xavier_normal_, 3)
    assert view.first.weight is view.last.weight
    assert not torch.equal(view.first.weight, model.first.weight)
    assert torch.equal(view.first.bias, model.first.bias)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    again = view_of(model)
    redraw_weights(again, (nn.Linear,), nn.init.xavier_normal_, 3)
    assert torch.equal(again.spare.weight, view.spare.weight)
    odd = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(LayerticketError, match="computed from other parameters"):
        redraw_weights(nn.Sequential(odd), (nn.Linear,), nn.init.xavier_normal_, 3)


def test_snip_draws_every_matrix_by_its_fan_in():
    weight = torch.empty(64, 16, 3, 3)
    scaled_by_fan_in(weight, generator=torch.Generator().manual_seed(0))
    assert weight.std().item() == pytest.approx((1 / 144) ** 0.5, rel=0.01)
    assert weight.abs().max() <= 2 * (1 / 144) ** 0.5 / CUT
    model, batch = conv_net(), image_batch()
    blocks = find_blocks(model, batch[0][:1])
    found = score(model, blocks, batch, "snip", redraw=5, normalization="running").values
    drawn = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            scaled_by_fan_in(module.weight.data, generator=drawn)
    assert found == score(model, blocks, batch, "snip", normalization="running").values
