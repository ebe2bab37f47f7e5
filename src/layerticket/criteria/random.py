"""Random: the control every criterion must beat."""

import torch
from torch import nn

from layerticket.batch import Batch
from layerticket.blocks.block import Blocks


def random(model: nn.Module, blocks: Blocks, batch: Batch, *, draw: int = 0) -> dict[str, float]:
    """Score every block by a random number from [0, 1), equal for equal draws.

    Args:
        model: Not read.
        blocks: Removable blocks from `find_blocks`.
        batch: Not read.
        draw: Number of the draw; each gives different scores.

    Returns:
        Block name -> score, dimensionless.
    """
    scores = torch.rand(
        len(blocks), generator=torch.Generator().manual_seed(draw), dtype=torch.double
    )
    return {block.name: value for block, value in zip(blocks, scores.tolist(), strict=True)}
