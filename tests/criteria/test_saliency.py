"""The gradient all per-weight criteria share, held against plain autograd."""

import pytest
import torch
from torch import nn

from layerticket.criteria.saliency import loss_gradient


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
