"""Residual networks small enough to work out by hand."""

import torch
from torch import nn


class Add(nn.Module):
    """y = x + W x over the second dimension; W is given as a nested list."""

    def __init__(self, rows, *, maps=False):
        super().__init__()
        size = len(rows)
        kind = nn.Conv2d(size, size, 1, bias=False) if maps else nn.Linear(size, size, bias=False)
        with torch.no_grad():
            kind.weight.copy_(torch.tensor(rows).reshape(kind.weight.shape))
        self.branch = kind

    def forward(self, x):
        return x + self.branch(x)


class Vectors(nn.Module):
    """Two blocks over (N, 2), then a head that returns what it is given as logits."""

    def __init__(self, first, second):
        super().__init__()
        self.blocks = nn.Sequential(Add(first), Add(second))
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(2))

    def forward(self, x):
        return self.head(self.blocks(x))


class Maps(nn.Module):
    """Two blocks over (N, 2, H, W), then means as logits."""

    def __init__(self, first, second):
        super().__init__()
        self.blocks = nn.Sequential(Add(first, maps=True), Add(second, maps=True))

    def forward(self, x):
        return self.blocks(x).mean((2, 3))
