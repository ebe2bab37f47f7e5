"""What a network costs by counting: multiply-accumulates, parameters, memory for the backward pass.

Counts are exact and the same on every machine; what is measured with a clock is in `timing`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, CrossEntropy, LossFn, inputs_of, size_of
from layerticket.macs import count_macs, count_params, training_macs
from layerticket.view import preserved_random_state, view_of

__all__ = ["Counts", "accounted_bytes", "count", "held_bytes", "realized_share"]


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

    @property
    def training_flops(self) -> int:
        """FLOPs of a forward and backward pass: 2 per MAC."""
        return 2 * self.training_macs


def count(model: nn.Module, batch: Batch, *, loss_fn: LossFn | None = None) -> Counts:
    """Count what a network costs; it is not changed.

    Args:
        model: Any network.
        batch: ``(inputs, targets)`` or a dict, on the model's device; its size decides
            `held_bytes` only.
        loss_fn: Scalar loss of a model and a batch; mean cross-entropy by default.

    Returns:
        The counts.
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

    Args:
        model: Any network; run once in train mode on a view, so it is not changed.
        batch: ``(inputs, targets)`` or a dict, on the model's device.
        loss_fn: Scalar loss of a model and a batch; mean cross-entropy by default.
        bf16: Whether the forward pass runs under autocast to bfloat16.

    Returns:
        Bytes.

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


def accounted_bytes(model: nn.Module, held: int) -> int:
    """Bytes of a training step that can be counted: weights, gradients, momentum, buffers, held.

    Work space of kernels is not among them, so a measured peak is higher.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return 3 * weights + sum(b.numel() * b.element_size() for b in model.buffers()) + held


def realized_share(macs_saved: float, time_saved: float) -> float | None:
    """Share of the theoretical gain that the clock confirms: time saved over MACs saved.

    Args:
        macs_saved: 1 - MACs of the ticket / MACs of the dense network.
        time_saved: 1 - step time of the ticket / step time of the dense network.

    Returns:
        1 when the clock gives all that the count promises; None when nothing was promised.

    Example:
        >>> realized_share(0.5, 0.25)
        0.5
    """
    return time_saved / macs_saved if macs_saved > 0 else None
