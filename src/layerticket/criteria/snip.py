"""SNIP: connection sensitivity."""

from torch import Tensor, nn

from layerticket.batch import Batch, CrossEntropy, LossFn
from layerticket.blocks.block import Blocks
from layerticket.criteria.registry import Reduction, criterion
from layerticket.criteria.saliency import (
    block_weights,
    loss_gradient,
    network_weights,
    sum_over_blocks,
)

MEAN_LOSS = CrossEntropy()


@criterion(
    "snip", cites="Lee et al., ICLR 2019, arXiv:1810.02340", uses=("inputs", "targets"), order=1
)
def snip(
    model: nn.Module,
    blocks: Blocks,
    batch: Batch,
    *,
    loss_fn: LossFn = MEAN_LOSS,
    reduction: Reduction = "sum",
    micro_batches: int = 1,
) -> dict[str, float]:
    """Score a block by how strongly its weights drive the loss: the sum of ``|theta * g|``.

    ``g`` is the gradient of the mean loss. The derivative of the loss for a switch on a weight
    (paper, eq. 4) equals ``theta * g`` at switch 1; its magnitude is the connection sensitivity.
    The paper normalizes by the sum over the network, which does not change an order and is left
    out. Cost: one gradient; memory: the weights, the gradient of the blocks' weights, and the
    activations of one micro-batch.

    Args:
        model: Untrained network, in the mode the gradient is to be taken in.
        blocks: Removable blocks from `find_blocks`.
        batch: Inputs and targets, N examples.
        loss_fn: Mean loss over a batch.
        reduction: Sum or mean over the weights of a block.
        micro_batches: Parts the batch is processed in.

    Returns:
        Block name -> score >= 0, in units of the loss.

    References:
        [1] Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        ICLR 2019. Differs from the authors' code: blocks instead of single weights.
    """
    scored = {name for names in block_weights(model, blocks).values() for name in names}
    weights = {name: w for name, w in network_weights(model).items() if name in scored}
    gradient = loss_gradient(model, batch, weights, loss_fn, micro_batches)
    return sum_over_blocks(
        model, blocks, lambda name: (weights[name].detach() * gradient[name]).abs(), reduction
    )


def connection_sensitivity(
    model: nn.Module, batch: Batch, loss_fn: LossFn = MEAN_LOSS, micro_batches: int = 1
) -> dict[str, Tensor]:
    """Return ``|theta * g|`` of every single weight by name, as the paper ranks them."""
    weights = network_weights(model)
    gradient = loss_gradient(model, batch, weights, loss_fn, micro_batches)
    return {name: (weights[name].detach() * g).abs() for name, g in gradient.items()}
