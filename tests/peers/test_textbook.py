"""SNIP and GraSP against the whole Hessian of `torch.func`, entry by entry."""

import pytest
import torch
from torch.func import functional_call, grad, hessian
from torch.nn import functional as F

from layerticket.blocks.find import find_blocks
from layerticket.modules import reference_kernels
from layerticket.scoring import score
from tiny import PostNormBlock, ScalarBlock, chain, token_net

pytestmark = pytest.mark.peer
NETS = {
    "scalar": (lambda: chain(ScalarBlock(0.3, 3), ScalarBlock(-0.2, 3), entering=3), (5, 4)),
    "post-norm": (lambda: chain(PostNormBlock(4), PostNormBlock(4), entering=4), (5, 4)),
    "attention": (token_net, (2, 3, 4)),
}


def textbook(model, batch, temperature):
    """Gradient and the full product of Hessian and gradient over all weight matrices."""
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
    sizes = [p.numel() for p in weights.values()]

    def loss(vector):
        parts = vector.split(sizes)
        state = {n: part.view_as(p) for part, (n, p) in zip(parts, weights.items(), strict=True)}
        return F.cross_entropy(functional_call(model, state, batch[0]) / temperature, batch[1])

    theta = torch.cat([p.flatten() for p in weights.values()])
    g = grad(loss)(theta)
    product = hessian(loss)(theta) @ g
    owners = [n for n, size in zip(weights, sizes, strict=True) for _ in range(size)]
    return theta, g, product, owners


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # by vmap
@pytest.mark.parametrize("net", NETS)
def test_against_the_textbook(net):
    build, shape = NETS[net]
    model = build().double().eval()
    batch = torch.randn(shape, dtype=torch.double), torch.arange(shape[0]) % 3
    found = find_blocks(model, batch[0])
    with reference_kernels():
        theta, g, product, owners = textbook(model, batch, temperature=2.0)
    for criterion, saliency in (("snip", (theta * g).abs()), ("grasp", theta * product)):
        values = score(model, found, batch, criterion, temperature=2.0).values
        for name, value in values.items():
            mine = torch.tensor([owner.startswith(f"{name}.") for owner in owners])
            assert value == pytest.approx(saliency[mine].sum().item(), rel=1e-8)
