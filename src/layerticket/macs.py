"""Counts multiply-accumulates (MACs) of a forward pass, for the whole model and every module.

A MAC is one multiply-add; PyTorch's counter counts it as two FLOPs. Convolutions and matrix
products are counted (attention through its matrix products); normalizations, activations and
additions are not, as is usual in the field.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layerticket.batch import Inputs, call, logits_of, tensors_of
from layerticket.view import preserved_random_state, reference_kernels, view_of

__all__ = ["count_macs", "count_params", "module_macs", "training_macs"]


def count_params(model: nn.Module) -> int:
    """Count parameters; one that stands in several places counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the MACs of one forward pass per example, in eval mode; the model is not changed.

    Example:
        >>> count_macs(nn.Linear(3, 5), torch.ones(2, 3))
        15
    """
    return module_macs(model, inputs)[""]


def module_macs(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Count MACs per example by module name; a module called several times adds up.

    Args:
        model: Any network; not modified.
        inputs: What the model is called on; N examples.

    Returns:
        MACs by name as in ``named_modules()``; ``""`` is the whole model.
    """
    view = view_of(model).eval().requires_grad_(False)  # the counter asks a leaf for its history
    totals = dict.fromkeys((name for name, _ in view.named_modules()), 0)
    counter = FlopCounterMode(display=False)

    def watch(name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:  # noqa: ANN401 - a hook's arguments
            totals[name] -= counter.get_total_flops()

        def leave(*_: Any) -> None:  # noqa: ANN401 - a hook's arguments
            totals[name] += counter.get_total_flops()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    for name, module in view.named_modules():
        watch(name, module)
    with torch.no_grad(), reference_kernels(), counter:
        call(view, inputs)
    return {name: _per_example(flops, inputs) for name, flops in totals.items()}


def training_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the MACs of one forward and backward pass per example, in train mode.

    About three times the forward pass: the backward pass multiplies once for the gradient of the
    weights and once for that of the inputs, which the first layer does without. The optimizer's
    work is not counted.

    Args:
        model: Any network whose output holds logits; not modified.
        inputs: What the model is called on; N examples, at least 2 for batch normalization.

    Returns:
        MACs per example.

    Example:
        >>> training_macs(nn.Linear(3, 5), torch.ones(2, 3))  # 15 forward, 15 for the weights
        30
    """
    view = view_of(model).train()
    counter = FlopCounterMode(display=False)
    with preserved_random_state(0), torch.enable_grad(), reference_kernels(), counter:
        torch.autograd.backward(logits_of(call(view, inputs)).float().sum())
    return _per_example(counter.get_total_flops(), inputs)


def _per_example(flops: float, inputs: Inputs) -> int:
    """MACs per example: half of PyTorch's FLOPs over N."""
    examples = max(1, next((len(t) for t in tensors_of(inputs) if t.ndim), 1))
    return round(flops / 2 / examples)
