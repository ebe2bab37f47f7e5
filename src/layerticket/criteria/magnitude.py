"""Magnitude: the absolute value of a weight; a block gets the l1 norm of its weights."""

from collections.abc import Mapping

from torch import Tensor, nn

from layerticket.batch import Batch


def magnitude(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batch: Batch
) -> dict[str, Tensor]:
    """Score a weight by its size, ``|theta|``.

    For blocks it is a control: a sum removes blocks of narrow stages first, and a mean mostly
    reflects the scale of the initialization. Cost: none.

    Args:
        model: Not read.
        weights: The weights to score, by name.
        batch: Not read.

    Returns:
        Weight name -> values >= 0, in units of the weights.

    References:
        [1] Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1: the sum
        of absolute weights of a filter.
    """
    return {name: weight.detach().abs() for name, weight in weights.items()}
