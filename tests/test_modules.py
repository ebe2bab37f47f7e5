"""The protected view, random states, and reference kernels."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend
from torch.nn.utils import prune

from layerticket.errors import LayerticketError
from layerticket.modules import (
    copy_of,
    preserved_modes,
    preserved_random_state,
    reference_kernels,
    view_of,
    weight_versions,
)
from tiny import conv_net, owned_by_the_caller


def test_a_view_shares_weights_and_nothing_else():
    model = conv_net().train()
    model[2].conv1.weight.requires_grad_(False)
    before = owned_by_the_caller(model)
    view = view_of(model)
    for name, parameter in view.named_parameters():
        own = model.get_parameter(name)
        assert parameter.data_ptr() == own.data_ptr()
        assert parameter is not own
        assert parameter.requires_grad
    view.eval()
    view[2].register_forward_hook(lambda *_: None)
    view[2].bn1.running_mean.add_(1)
    view(torch.randn(2, 2, 6, 6).fill_(1)).sum().backward()
    view[2].conv1 = nn.Identity()
    changed = owned_by_the_caller(model)
    assert changed[:4] == before[:4]


def test_tied_weights_stay_tied_and_integers_stay_frozen():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    view = view_of(model)
    assert view["a"].weight is view["b"].weight
    assert not view.codes.requires_grad


def test_writing_to_a_view_is_seen():
    model = conv_net()
    versions = weight_versions(model)
    view = view_of(model)
    assert weight_versions(model) == versions
    with torch.no_grad():
        view[7].weight.add_(1)
    assert {n for n, v in weight_versions(model).items() if v != versions[n]} == {"7.weight"}


def test_what_cannot_be_viewed_is_refused():
    with pytest.raises(LayerticketError, match="has no shape yet: call the model once"):
        view_of(nn.LazyLinear(2))

    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = (i for i in range(3))

    with pytest.raises(LayerticketError, match=r"Holds cannot be copied \(.*copy\.deepcopy"):
        copy_of(Holds())


def fail(expected):
    assert expected
    raise OSError("disk")


def states():
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global one
    return random.getstate(), numpy_state[1].tobytes(), torch.get_rng_state().tolist()


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_random_states_are_seeded_inside_and_come_back():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
    before = states()
    with preserved_random_state(7):
        first = draw()
    assert states() == before
    with pytest.raises(OSError, match="disk"), preserved_random_state(7):
        fail(draw() == first)
    assert states() == before
    with preserved_random_state(8):
        assert draw() != first
    with preserved_random_state(2**40):  # NumPy takes 32 bits
        draw()


def test_modes_are_put_back_also_on_errors():
    model = conv_net().train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), preserved_modes(model):
        _ = model.eval().training / 0
    assert [module.training for module in model.modules()] == before
    assert not all(before)


def test_reference_kernels_differentiate_attention_twice_and_are_put_back():
    def second_derivative():
        q = torch.randn(1, 2, 3, 4, requires_grad=True)
        out = F.scaled_dot_product_attention(q, q, q)
        (g,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        return torch.autograd.grad(g.square().sum(), q)[0]

    enabled = torch.backends.cuda.flash_sdp_enabled()
    with reference_kernels():
        assert second_derivative().isfinite().all()
        assert not torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(OSError, match="disk"), reference_kernels():
        fail(torch.nn.attention._cur_sdpa_kernel_backends() == [SDPBackend.MATH])
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() == enabled


def test_a_masked_network_that_was_called_with_gradients_can_be_copied():
    model = nn.Sequential(nn.Linear(3, 2))
    mask = torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    prune.custom_from_mask(model[0], "weight", mask)
    x = torch.ones(4, 3)
    model(x).sum().backward()
    copy = copy_of(model)
    assert not model[0].weight.is_leaf  # what was copied stays as it was
    with torch.no_grad():
        copy[0].weight_orig.add_(1)
    expected = F.linear(x, (model[0].weight_orig + 1) * mask, model[0].bias)
    assert torch.equal(copy(x), expected)
    copy(x).sum().backward()
    assert copy[0].weight_orig.grad is not model[0].weight_orig.grad
    assert torch.equal(view_of(model)(x), model(x))
