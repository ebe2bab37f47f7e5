"""SynFlow: synaptic flow, a criterion without data."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layerticket.batch import Batch, inputs_of, logits_of
from layerticket.errors import LayerticketError, raised_by


def synflow(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batch: Batch
) -> dict[str, Tensor]:
    """Score a weight by the flow through it: ``|theta| * dR/d|theta|``.

    ``R`` is the sum of the outputs for an input of ones, with every parameter and buffer replaced
    by its absolute value (paper, eq. 2), computed in float64 because R grows with depth.
    Normalization layers are in evaluation mode. Cost: one gradient on one example, and a float64
    copy of the weights.

    Args:
        model: Untrained network; not modified.
        weights: The weights to score, by name.
        batch: Only the shape of the inputs is read: one floating-point tensor.

    Returns:
        Weight name -> values >= 0, in units of the output, float64.

    Raises:
        LayerticketError: If the inputs are not one floating-point tensor.

    References:
        [1] Tanaka et al., "Pruning neural networks without any data by iteratively conserving
        synaptic flow", NeurIPS 2020. The caller runs the rounds.
    """
    inputs = inputs_of(batch)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise LayerticketError(
            "synflow uses an input of ones, so the input must be one floating-point tensor; use "
            "snip, grasp or magnitude for this model."
        )
    state = {
        name: tensor.detach().abs().double() if tensor.is_floating_point() else tensor.clone()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    for name in weights:
        state[name].requires_grad_()
    ones = torch.ones_like(inputs[:1], dtype=torch.double)
    with raised_by(model, "on an input of ones in float64"):
        flow = logits_of(functional_call(model, state, (ones,))).sum()
    gradients = torch.autograd.grad(flow, [state[name] for name in weights], allow_unused=True)
    return {
        name: torch.zeros_like(state[name]) if g is None else state[name].detach() * g
        for name, g in zip(weights, gradients, strict=True)
    }
