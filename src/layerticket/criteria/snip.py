"""SNIP: connection sensitivity."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, CrossEntropy, LossFn
from layerticket.criteria.saliency import loss_gradient, network_weights, redraw_weights

MEAN_LOSS = CrossEntropy(classes_only=True)
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
CUT = 0.8796256610342398  # deviation of a standard normal cut at -2 and 2


def snip(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    loss_fn: LossFn = MEAN_LOSS,
    micro_batches: int = 1,
    redraw: int | None = None,
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
        redraw: Seed by which the weights of every linear layer and convolution are drawn anew
            before scoring (a normal of variance 1 / fan-in, cut at two deviations), as in the
            authors' code, which then trains another draw. None: the network is scored as it is.

    Returns:
        Weight name -> values >= 0, in units of the loss.

    Raises:
        LayerticketError: If `redraw` does not fit the network.

    References:
        [1] Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        ICLR 2019. Differs from the authors' code: no division by the sum. The authors score with
        ``normalization="running"`` and a `redraw`.
    """
    if redraw is not None:
        redraw_weights(model, LAYERS, scaled_by_fan_in, redraw)
        weights = {name: w for name, w in network_weights(model).items() if name in weights}
    gradient = loss_gradient(model, batch, weights, loss_fn, micro_batches)
    return {name: (w.detach() * gradient.pop(name)).abs() for name, w in weights.items()}


def scaled_by_fan_in(weight: Tensor, *, generator: torch.Generator) -> None:
    """Fill with a normal of variance 1 / fan-in, cut at two deviations before it is scaled."""
    deviation = (weight.shape[0] / weight.numel()) ** 0.5 / CUT
    nn.init.trunc_normal_(weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator)
