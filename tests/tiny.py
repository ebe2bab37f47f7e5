"""Networks small enough to work out by hand, and what a caller owns of a network.

`TwoBlocks` on x = 1 with weights a and b gives p = (1 + a)(1 + b). With the loss p^2 / 2:

    g_a = p (1 + b)      H_aa = (1 + b)^2      H_ab = (1 + a)(1 + b) + p
    g_b = p (1 + a)      H_bb = (1 + a)^2

For a = 1, b = 2: p = 6, g = (18, 12), H = [[9, 12], [12, 4]], H g = (306, 264).
"""

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from layerticket.batch import call, inputs_of

__all__ = [
    "ConvBlock",
    "PostNormBlock",
    "PreNormBlock",
    "ScalarBlock",
    "TwoBlocks",
    "chain",
    "conv_net",
    "half_square",
    "image_batch",
    "one",
    "owned_by_the_caller",
    "token_net",
]


class ScalarBlock(nn.Module):
    def __init__(self, weight=1.0, size=1):
        super().__init__()
        self.fc = nn.Linear(size, size, bias=False)
        nn.init.constant_(self.fc.weight, weight)

    def forward(self, x):
        return x + self.fc(x)


class TwoBlocks(nn.Module):
    def __init__(self, a=1.0, b=2.0):
        super().__init__()
        self.first = ScalarBlock(a)
        self.second = ScalarBlock(b)

    def forward(self, x):
        return self.second(self.first(x))


def one():
    """The batch x = 1 with a target nothing reads."""
    return torch.ones(1, 1), torch.zeros(1, dtype=torch.long)


def half_square(model, batch):
    return call(model, inputs_of(batch)).square().mean() / 2


class ConvBlock(nn.Module):
    """A basic block after He et al.; `pre` puts normalization and ReLU first."""

    def __init__(self, width, leaving=None, *, pre=False):
        super().__init__()
        leaving = leaving or width
        stride = 1 if leaving == width else 2
        self.pre = pre
        self.conv1 = nn.Conv2d(width, leaving, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width if pre else leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(width, leaving, 1, stride)

    def forward(self, x):
        if self.pre:
            return self.skip(x) + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return F.relu(self.skip(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class PreNormBlock(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.mlp_norm(x))


class PostNormBlock(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x):
        return self.norm(x + F.gelu(self.fc(x)))


def conv_net(*, pre=False):
    """Blocks 2, 3 and 5 can go; 4 changes the shape."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
        ConvBlock(4, pre=pre),
        ConvBlock(4, pre=pre),
        ConvBlock(4, 6, pre=pre),
        ConvBlock(6, pre=pre),
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(6, 3),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


def token_net():
    """Two transformer blocks; 1 and 2 can go."""
    return nn.Sequential(
        nn.Linear(4, 8), PreNormBlock(), PreNormBlock(), nn.Flatten(), nn.Linear(24, 3)
    )


def chain(*modules, entering=8, leaving=3):
    """Put modules between two linear layers."""
    return nn.Sequential(nn.Linear(4, entering), *modules, nn.Linear(entering, leaving))


def image_batch(examples=12, channels=2, size=6, classes=3):
    random = torch.Generator().manual_seed(5)
    images = torch.randn(examples, channels, size, size, generator=random)
    return images, torch.arange(examples) % classes


def owned_by_the_caller(model):
    """Everything that must be the same after a call: compare with ==."""
    state = {
        name: (tensor.detach().numpy().tobytes(), tensor._version, id(tensor))
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    grads = {
        name: None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes())
        for name, p in model.named_parameters()
    }
    modules = {
        name: (
            id(m),
            m.training,
            [dict(v) for k, v in vars(m).items() if k.endswith("_hooks") and v],
        )
        for name, m in model.named_modules()
    }
    frozen = [p.requires_grad for p in model.parameters()]
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global one is the caller's
    states = (
        random.getstate(),
        (numpy_state[1].tobytes(), *numpy_state[2:]),
        torch.get_rng_state().numpy().tobytes(),
    )
    return state, grads, modules, frozen, states
