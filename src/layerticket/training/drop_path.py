"""Stochastic depth: drop residual branches at random during training, image by image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layerticket.errors import LayerticketError


class DropPath(nn.Module):
    """Set a branch's output to zero for some images in training, and scale up the others.

    With rate p, each image keeps its branch with probability 1 - p, multiplied by 1 / (1 - p).

    Args:
        rate: p, in [0, 1).

    References:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Drop the branch (N, ...) of some images."""
        if not self.training or not self.rate:
            return branch
        kept = torch.rand(len(branch), *(1,) * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * (kept.to(branch.dtype) / (1 - self.rate))


@contextmanager
def drop_paths(model: nn.Module, rate: float | None) -> Iterator[None]:
    """Set drop-path rates of the residual blocks, from 0 in the first to `rate` in the last.

    Block i of n has ``rate * i / (n - 1)``, in all its drop-path layers. These are the children
    named ``drop_path``, ``drop_path1``, ... in networks of timm and transformers, and torchvision's
    ``StochasticDepth``. At the end the old rates are restored.

    Args:
        model: The network; changed in place.
        rate: Rate of the last block, in [0, 1); None: the network keeps its own rates.

    Raises:
        LayerticketError: If the network has no such children.
    """
    if rate is None:
        yield
        return
    found = _places(model)
    if not found:
        raise LayerticketError(
            f"drop_path is {rate:g}, but the network has no drop-path layers, such as those of "
            "timm, torchvision and transformers. Leave drop_path out."
        )
    before = [(owner, name, getattr(owner, name)) for _, owner, name in found]
    blocks = list(dict.fromkeys(block for block, _, _ in found))
    last = len(blocks) - 1
    rates = {block: rate * i / last if last else rate for i, block in enumerate(blocks)}
    try:
        for block, owner, name in found:
            _put(owner, name, DropPath(rates[block]).train(owner.training))
        yield
    finally:
        for owner, name, module in before:
            _put(owner, name, module)


def _places(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Return block name, owner module and attribute name of each drop-path layer, in order."""
    found = []
    for block, owner in model.named_modules():
        names = {**dict.fromkeys(owner._modules), **dict.fromkeys(vars(owner))}
        for name in names:
            held = getattr(owner, name, None)
            is_place = name.rstrip("0123456789") == "drop_path" and (
                held is None or isinstance(held, nn.Module)
            )
            if is_place or type(held).__name__ == "StochasticDepth":
                found.append((block, owner, name))
    return found


def _put(owner: nn.Module, name: str, module: nn.Module | None) -> None:
    """Set a child module, or a plain attribute if timm has None instead of a module."""
    if module is None:
        owner._modules.pop(name, None)
        object.__setattr__(owner, name, None)
    else:
        vars(owner).pop(name, None)
        setattr(owner, name, module)
