"""SNIP: connection sensitivity."""

from collections.abc import Mapping

from torch import Tensor, nn

from layerticket.batch import Batch, CrossEntropy, LossFn
from layerticket.criteria.saliency import loss_gradient

MEAN_LOSS = CrossEntropy()


def snip(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    loss_fn: LossFn = MEAN_LOSS,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Value a weight by how strongly it drives the loss: ``|theta * g|``.

    ``g`` is the gradient of the mean loss. The derivative of the loss for a switch on a weight
    (paper, eq. 4) equals ``theta * g`` at switch 1; its magnitude is the connection sensitivity.
    The paper normalizes by the sum over the network, which does not change an order and is left
    out. Cost: one gradient; memory: the weights, the gradient of those that are scored, and the
    activations of one micro-batch.

    Args:
        model: Untrained network, in the mode the gradient is to be taken in.
        weights: The weights to score, by name.
        batch: Inputs and targets, N examples.
        loss_fn: Mean loss over a batch.
        micro_batches: Parts the batch is processed in.

    Returns:
        Weight name -> values >= 0, in units of the loss.

    References:
        [1] Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        ICLR 2019. Differs from the authors' code: no normalization.
    """
    gradient = loss_gradient(model, batch, weights, loss_fn, micro_batches)
    return {name: (w.detach() * gradient.pop(name)).abs() for name, w in weights.items()}
