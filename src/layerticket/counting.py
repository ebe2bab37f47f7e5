"""What a network costs by counting: multiply-accumulates, parameters, memory for the backward pass.

Counts are exact and the same on every machine; what is measured with a clock is in
`evaluation.timing`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layerticket.batch import (
    Batch,
    CrossEntropy,
    Inputs,
    LossFn,
    call,
    inputs_of,
    logits_of,
    size_of,
    tensors_of,
)
from layerticket.modules import preserved_random_state, reference_kernels, view_of


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
    """Count MACs per example by module name, ``""`` for the whole model; repeated calls add up."""
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
    work is not counted. The output must hold logits; batch normalization needs two examples.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What one network costs; MACs and FLOPs per example, one MAC = one multiply-add = 2 FLOPs."""

    macs: int
    """MACs of a forward pass."""
    training_macs: int
    """MACs of a forward and backward pass."""
    params: int
    """Parameters; one that stands in several places counts once."""
    held_bytes: int
    """Bytes the forward pass of one batch keeps for the backward pass."""
    batch_size: int
    """Examples in that batch."""

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass: 2 per MAC."""
        return 2 * self.macs


def count(model: nn.Module, batch: Batch, *, loss_fn: LossFn | None = None) -> Counts:
    """Count what a network costs; it is not changed.

    Args:
        model: Any network.
        batch: ``(inputs, targets)`` or a dict, on the model's device; its size decides
            `held_bytes` only.
        loss_fn: Scalar loss of a model and a batch; mean cross-entropy by default.
    """
    inputs = inputs_of(batch)
    return Counts(
        macs=count_macs(model, inputs),
        training_macs=training_macs(model, inputs),
        params=count_params(model),
        held_bytes=held_bytes(model, batch, loss_fn=loss_fn),
        batch_size=size_of(batch),
    )


def held_bytes(
    model: nn.Module, batch: Batch, *, loss_fn: LossFn | None = None, bf16: bool = False
) -> int:
    """Count the bytes that autograd keeps between the forward and the backward pass.

    Every storage a saved tensor lies in counts once and as a whole; parameters and buffers do not
    count, the batch itself does where it is needed again. Copies of weights that autocast makes
    in bfloat16 count, because they are held as well.

    The network is run once in train mode on a view, so it is not changed; with `bf16` under
    autocast.

    Example:
        >>> batch = (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
        >>> held_bytes(nn.Linear(3, 2), batch)  # 48 input, 32 log-probabilities, 32 labels, 4 N
        116
    """
    view = view_of(model).train()
    own = {t.untyped_storage()._cdata for t in (*view.parameters(), *view.buffers())}
    held: dict[int, Tensor] = {}  # the tensors stay alive, so no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in own:
            held.setdefault(key, tensor)
        return tensor

    def unpack(tensor: Tensor) -> Any:  # noqa: ANN401 - as torch has it
        return tensor

    device = next((p.device.type for p in view.parameters()), "cpu")
    with (
        preserved_random_state(0),
        torch.enable_grad(),
        torch.autocast(device, torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
    ):
        loss = (loss_fn or CrossEntropy())(view, batch)
    total = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    del loss
    return total


def realized_share(macs_saved: float, time_saved: float) -> float | None:
    """Share of the theoretical gain that the clock confirms: time saved over MACs saved.

    1 when the clock gives all that the count promises; None when nothing was promised.

    Example:
        >>> realized_share(0.5, 0.25)
        0.5
    """
    return time_saved / macs_saved if macs_saved > 0 else None
