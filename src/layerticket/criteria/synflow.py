"""SynFlow: synaptic flow, a criterion without data."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layerticket.batch import Batch, inputs_of, logits_of
from layerticket.blocks.block import Blocks
from layerticket.criteria.registry import Reduction, criterion
from layerticket.criteria.saliency import network_weights, sum_over_blocks
from layerticket.errors import LayerticketError


@criterion(
    "synflow",
    cites="Tanaka et al., NeurIPS 2020, arXiv:2006.05467",
    uses=("inputs",),
    order=1,
    normalization=("running",),
)
def synflow(
    model: nn.Module, blocks: Blocks, batch: Batch, *, reduction: Reduction = "sum"
) -> dict[str, float]:
    """Score a block by the flow through it: the sum of ``|theta| * dR/d|theta|``.

    ``R`` is the sum of the outputs for an input of ones when every parameter and buffer is
    replaced by its absolute value (paper, eq. 2), computed in float64 because R grows with depth.
    Normalization layers are taken in evaluation mode. Cost: one gradient on one example, and a
    float64 copy of the weights.

    Args:
        model: Untrained network; its weights are not written to.
        blocks: Removable blocks from `find_blocks`.
        batch: Only the shape of the inputs is read: one floating-point tensor.
        reduction: Sum or mean over the weights of a block.

    Returns:
        Block name -> score >= 0, in units of the output.

    Raises:
        LayerticketError: If the inputs are not one floating-point tensor.

    References:
        [1] Tanaka et al., "Pruning neural networks without any data by iteratively conserving
        synaptic flow", NeurIPS 2020. Differs: blocks instead of single weights, one round.
    """
    return sum_over_blocks(model, blocks, synaptic_flow(model, batch), reduction)


def synaptic_flow(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return ``|theta| * dR/d|theta|`` of every single weight by name, float64.

    Raises:
        LayerticketError: If the inputs are not one floating-point tensor.
    """
    inputs = inputs_of(batch)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise LayerticketError(
            "synflow feeds an input of ones, so it needs one floating-point tensor as input; "
            "use snip, grasp or magnitude for this model."
        )
    state = {
        name: tensor.detach().abs().double() if tensor.is_floating_point() else tensor.clone()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    names = list(network_weights(model))
    for name in names:
        state[name].requires_grad_()
    ones = torch.ones_like(inputs[:1], dtype=torch.double)
    flow = logits_of(functional_call(model, state, (ones,))).sum()
    gradients = torch.autograd.grad(flow, [state[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(state[name]) if g is None else state[name].detach() * g
        for name, g in zip(names, gradients, strict=True)
    }
