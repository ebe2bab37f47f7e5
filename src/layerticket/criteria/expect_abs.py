"""Expected absolute activation (expectABS), the metric of DropNet."""

import torch
from torch import Tensor, nn

from layerticket.batch import Batch
from layerticket.blocks.block import Blocks
from layerticket.criteria.features import block_activations


def expect_abs(
    model: nn.Module, blocks: Blocks, batch: Batch, *, micro_batches: int = 1
) -> dict[str, float]:
    """Score a block by the mean absolute value of its output, the mean of ``|y|``.

    The mean runs over examples, channels and positions of the block's output, after the addition:
    the activations that the next layer reads, as in the paper. So it measures the stream up to and
    including the block, not what the block adds; the stream grows with depth if no normalization
    follows the addition. Cost: one forward pass.

    Args:
        model: Trained network.
        blocks: Removable blocks from `find_blocks`.
        batch: Only the inputs are read, N examples.
        micro_batches: Number of parts to process the batch in.

    Returns:
        Block name -> score >= 0, in units of the activations.

    References:
        [1] Tan and Motani, "DropNet: Reducing Neural Network Complexity via Iterative Pruning",
        ICML 2020. Differs: the mean over all nodes of a block instead of a single node.
    """
    means = block_activations(model, blocks, batch, _mean_absolute, micro_batches)
    return {name: mean.mean().item() for name, mean in means.items()}


def _mean_absolute(output: Tensor) -> Tensor:
    return output.abs().flatten(1).mean(1, dtype=torch.double)  # (n, ...) -> (n,)
