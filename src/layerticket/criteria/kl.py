"""KL: how much the network's predictions change when a block is removed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, inputs_of, split
from layerticket.blocks.block import Blocks
from layerticket.criteria.leave_one_out import LeaveOneOut


def kl(
    model: nn.Module, blocks: Blocks, batch: Batch, *, micro_batches: int = 1
) -> dict[str, float]:
    """Score a block by the mean of ``KL(p || q)``: p with the block, q without it.

    ``p = softmax(logits)`` of the whole network, ``q`` that of the network with the block replaced
    by the identity; ``KL(p || q) = sum_k p_k (log p_k - log q_k)``. The mean runs over examples
    (and positions, if every position is predicted). Classes are in dimension 1 of the logits, as in
    cross-entropy; in the last one for models called on a dict.

    Cost: one forward pass, and for every block the part of one after it: about half of the L passes
    of a plain loop. See `LeaveOneOut` for the memory.

    Args:
        model: Trained network.
        blocks: Removable blocks from `find_blocks`.
        batch: Only the inputs are read, N examples.
        micro_batches: Number of parts to process the batch in.

    Returns:
        Block name -> divergence >= 0, in nats.

    References:
        [1] Luo and Wu, "Neural Network Pruning with Residual-Connections and Limited-Data",
        CVPR 2020. Differs: a block is removed instead of a channel.
    """
    dim = -1 if isinstance(batch, Mapping) else 1
    scores = {block.name: 0.0 for block in blocks}
    for share, part in split(batch, micro_batches):
        network = LeaveOneOut(model, blocks, inputs_of(part))
        log_p = _log_probabilities(network.full.logits, dim)
        for name in scores:
            log_q = _log_probabilities(network.without(name).logits, dim)
            divergence = (log_p.exp() * (log_p - log_q)).sum(dim).mean()
            scores[name] += share * divergence.item()
    return scores


def _log_probabilities(logits: Tensor, dim: int) -> Tensor:
    return torch.log_softmax(logits.double(), dim)
