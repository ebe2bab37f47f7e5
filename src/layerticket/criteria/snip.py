"""SNIP: connection sensitivity."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, CrossEntropy, LossFn
from layerticket.criteria.saliency import loss_gradient, network_weights, redraw_weights

MEAN_LOSS = CrossEntropy(classes_only=True)
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
CUT = 0.8796256610342398  # deviation of a standard normal truncated at -2 and 2


def snip(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batch: Batch,
    *,
    loss_fn: LossFn = MEAN_LOSS,
    micro_batches: int = 1,
    redraw: int | None = None,
) -> dict[str, Tensor]:
    """Score a weight by its effect on the loss: ``|theta * g|``.

    ``g`` is the gradient of the mean loss. The derivative of the loss by a switch on a weight
    (paper, eq. 4) equals ``theta * g`` at switch 1; its magnitude is the connection sensitivity.
    The paper divides by the sum over the network, which does not change the ranking and is left
    out. Cost: one gradient; memory: the weights, the gradient of the scored weights, and the
    activations of one micro-batch.

    Args:
        model: Untrained network, in the mode to differentiate in.
        weights: The weights to score, by name.
        batch: Inputs and targets, N examples.
        loss_fn: Mean loss over a batch.
        micro_batches: Number of parts to process the batch in.
        redraw: Seed to redraw the weights of every linear layer and convolution before scoring (a
            normal of variance 1 / fan-in, truncated at two deviations), as in the authors'
            code, which then trains another draw. None: no redraw.

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
    """Fill with a normal of variance 1 / fan-in, truncated at two deviations before scaling."""
    deviation = (weight.shape[0] / weight.numel()) ** 0.5 / CUT
    nn.init.trunc_normal_(weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator)
