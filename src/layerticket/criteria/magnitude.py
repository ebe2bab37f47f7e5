"""Magnitude: the l1 norm of a block's weights."""

from torch import nn

from layerticket.batch import Batch
from layerticket.blocks.block import Blocks
from layerticket.criteria.registry import Reduction, criterion
from layerticket.criteria.saliency import network_weights, sum_over_blocks


@criterion("magnitude", cites="Li et al., ICLR 2017, arXiv:1608.08710", uses=(), order=0)
def magnitude(
    model: nn.Module, blocks: Blocks, batch: Batch, *, reduction: Reduction = "sum"
) -> dict[str, float]:
    """Score a block by the l1 norm of its weights, the sum of ``|theta|``.

    A control: stages of different width differ in it whatever they are worth, so a sum picks
    narrow stages first and a mean picks by the scale of the initialization. Cost: none.

    Args:
        model: Any network.
        blocks: Removable blocks from `find_blocks`.
        batch: Not read.
        reduction: Sum or mean over the weights of a block.

    Returns:
        Block name -> score >= 0, in units of the weights.

    References:
        [1] Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1: the sum
        of absolute weights. Differs: over a block instead of a filter.
    """
    saliency = {name: weight.detach().abs() for name, weight in network_weights(model).items()}
    return sum_over_blocks(model, blocks, saliency, reduction)
