"""An oracle for the removal of channels: it must equal setting them to zero.

Channels traced wrongly (shortcuts padded at an offset, a view that mixes channels up) give a
network that runs, has the right shapes, and is another one. This tells.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from layerticket.batch import call, logits_of
from layerticket.errors import LayerticketError
from layerticket.rivals.filters.coupling import Group
from layerticket.view import copy_of, preserved_random_state

__all__ = ["require_equal_to_silenced", "silence_channels"]

TOLERANCE = 1e-9  # float64; sums in another order differ by 1e-15 or so


def silence_channels(
    model: nn.Module, groups: Sequence[Group], removed: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Return a copy of the network in which the filters, and what normalizes them, are zero.

    Args:
        model: The dense network; not modified.
        groups: Its coupled channels.
        removed: Filters by the name of their convolution.
    """
    silent = copy_of(model)
    with torch.no_grad():
        for group in groups:
            for part in group.parts:
                own = [i for c in removed.get(group.root, ()) for i in part.indices[c]]
                if part.side == "out":
                    for parameter in silent.get_submodule(part.layer).parameters(recurse=False):
                        parameter[own] = 0
    return silent


def require_equal_to_silenced(small: nn.Module, silent: nn.Module, images: Tensor) -> None:
    """Refuse a network without channels that computes something else than with silent ones.

    Args:
        small: The network without the channels; not modified.
        silent: The one of `silence_channels`; not modified.
        images: A few images (N, C, H, W), on the device of both.

    Raises:
        LayerticketError: If their outputs differ, in evaluation mode and float64.
    """
    with torch.no_grad(), preserved_random_state(0):
        one, other = (
            logits_of(call(copy_of(network).double().eval(), images.double()))
            for network in (small, silent)
        )
    if not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
        raise LayerticketError(
            f"without its channels this {type(small).__name__} computes something else than with "
            "silent ones: shortcuts padded with zeros couple channels at an offset, or a "
            "normalization mixes channels. Take projection shortcuts and batch normalization, or "
            "--rival weights."
        )
