"""HRank: the rank of feature maps."""

import torch
from torch import Tensor, nn

from layerticket.batch import Batch
from layerticket.blocks.block import Blocks
from layerticket.criteria.features import block_activations
from layerticket.errors import LayerticketError

AT_ONCE = 2**23  # values decomposed together: 32 MiB in float32


def hrank(
    model: nn.Module,
    blocks: Blocks,
    batch: Batch,
    *,
    relative: bool = False,
    micro_batches: int = 1,
) -> dict[str, float]:
    """Score a block by the mean rank of its output feature maps.

    The mean runs over the examples and channels of the block's output, after the addition: the map
    that the authors' code reads at the end of a residual block, and that the next block gets. In an
    output (N, C, H, W) every (H, W) map counts; in tokens (N, T, D) the one (T, D) map of each
    example. The rank is that of ``torch.linalg.matrix_rank``: singular values above
    ``max(H, W) * eps`` times the largest, at least in float32.

    A rank is at most ``min(H, W)``, so stages with small maps always score low; `relative` divides
    by that bound. Cost: one forward pass, and a singular value decomposition of every map.

    Args:
        model: Trained network.
        blocks: Removable blocks from `find_blocks`.
        batch: Only the inputs are read, N examples.
        relative: Whether to divide the rank by the largest possible for the map's shape.
        micro_batches: Number of parts to process the batch in.

    Returns:
        Block name -> mean rank, from 0 to ``min(H, W)``, or to 1 if `relative`.

    Raises:
        LayerticketError: If a block's output is neither (N, C, H, W) nor (N, T, D).

    References:
        [1] Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020.
        Differs: the mean over all maps of a block instead of the rank of one filter's map.
    """
    for block in blocks:
        if len(block.shape) not in (2, 3):
            raise LayerticketError(
                f"hrank needs feature maps, (C, H, W) or (T, D) per example, but those of block "
                f"{block.name!r} are {block.shape}. Use expect_abs, kl or cka."
            )
    ranks = block_activations(model, blocks, batch, _mean_rank, micro_batches)
    bound = {block.name: min(block.shape[-2:]) if relative else 1 for block in blocks}
    return {name: rank.mean().item() / bound[name] for name, rank in ranks.items()}


def _mean_rank(output: Tensor) -> Tensor:
    """Return the mean rank of each example's maps: (n, C, H, W) or (n, T, D) -> (n,)."""
    exact = output if output.dtype == torch.double else output.float()
    maps = exact.flatten(0, -3)  # (n * C, H, W)
    step = max(1, AT_ONCE // maps[0].numel())
    ranks = torch.cat([torch.linalg.matrix_rank(some) for some in torch.split(maps, step)])
    return ranks.double().view(len(output), -1).mean(1)
