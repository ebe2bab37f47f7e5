"""Takes blocks and branches out of a network that may be changed; knows how, not which or why."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.blocks.records import Block, Cut

__all__ = ["Absent", "cut_out", "remove_from", "take_out"]


def take_out(model: nn.Module, name: str, how: Literal["plain", "rich"]) -> None:
    """Remove one block from a network the caller may change.

    A `plain` block is replaced by ``nn.Identity``, so every name and index stays. A `rich` one
    is deleted from its list; the other entries keep their names.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    key = name.rpartition(".")[2]
    if how == "plain":
        parent._modules[key] = nn.Identity()
    else:
        del parent._modules[key]


def remove_from(model: nn.Module, block: Block) -> None:
    """Remove a block or a branch from a network the caller may change."""
    if block.branch is None:
        take_out(model, block.name, block.call)
    else:
        cut_out(model, block.branch.cuts)


def cut_out(model: nn.Module, cuts: tuple[Cut, ...]) -> None:
    """Remove one branch from a network the caller may change; names and indices stay.

    Modules called with one tensor become a part of PyTorch that has no weights and costs next to
    nothing: the identity, or a threshold that nothing reaches and so gives zeros. The others
    become `Absent`.
    """
    for cut in cuts:
        parent = model.get_submodule(cut.name.rpartition(".")[0])
        parent._modules[cut.name.rpartition(".")[2]] = _substitute(cut)


def _substitute(cut: Cut) -> nn.Module:
    if not cut.alone:
        return Absent(cut)
    return nn.Identity() if cut.gives == "input" else nn.Threshold(math.inf, 0.0)


class Absent(nn.Module):
    """Stands for a module that took further arguments or returned a tuple; has no weights.

    A network that holds one can be pickled as a whole only for readers that have layerticket;
    its ``state_dict`` is free of it.
    """

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.gives, self.argument, self.repeats = cut.gives, cut.argument, cut.repeats

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as what it stands for
        """Return the input or zeros of its shape, in the form that is expected."""

        def given(place: int | str | None) -> Any:  # noqa: ANN401 - whatever it is called with
            return args[place] if isinstance(place, int) else kwargs.get(place or "")

        x: Tensor = given(self.argument)
        y = x if self.gives == "input" else torch.zeros_like(x)
        return y if self.repeats is None else (y, *(given(place) for place in self.repeats))

    def extra_repr(self) -> str:
        """Tell what it gives."""
        return f"gives={self.gives!r}"
