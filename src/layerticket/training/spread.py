"""How one training is spread over several processes; changes how it is computed, not what of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from layerticket.errors import LayerticketError
from layerticket.training.processes import Processes

__all__ = ["Spread", "global_batch_norms"]


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Choices that have a meaning for several processes only."""

    shard: bool = False
    """Whether weights, gradients and momentum lie in parts on the devices (FSDP2), for a network
    that does not fit on one; otherwise every device holds all of them (DDP)."""
    sync_batch_norm: bool = False
    """Whether batch norms take mean and variance over the images of all processes; otherwise each
    takes those of its own images. On GPUs only."""

    def check(self, team: Processes, device: torch.device) -> None:
        """Refuse what would do nothing, or cannot be done.

        Raises:
            LayerticketError: If there is one process, or no GPU for synchronized batch norms.
        """
        wanted = [name for name in ("shard", "sync_batch_norm") if getattr(self, name)]
        if wanted and team.count == 1:
            raise LayerticketError(
                f"{wanted[0]} needs several processes, but there is one. Start them with torchrun "
                "or accelerate launch, or leave it out."
            )
        if self.sync_batch_norm and device.type != "cuda":
            raise LayerticketError(
                f"sync_batch_norm is made for GPUs, but training runs on {device}. Leave it out: "
                "each process then normalizes by its own images."
            )


@contextmanager
def global_batch_norms(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Put torch's synchronized batch norms in place of the plain ones, and take them out again.

    Parameters and buffers are the same tensors before, meanwhile and afterwards. Where the model is
    moved or cast meanwhile, its plain norms get what the synchronized ones hold in the end.

    Raises:
        LayerticketError: If a batch norm is of a class of its own, which torch would not keep.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if wanted and isinstance(child, _BatchNorm)
    ]
    for _, name, child in places:
        if type(child) not in _PLAIN:
            raise LayerticketError(
                f"batch norm {name!r} is a {type(child).__name__}, of which torch has no "
                "synchronized kind. Leave sync_batch_norm out."
            )
    try:
        for parent, name, child in places:
            setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        yield
    finally:
        for parent, name, child in places:
            used = getattr(parent, name)
            for key, parameter in used._parameters.items():
                child.register_parameter(key, parameter)
            for key, buffer in used._buffers.items():
                child.register_buffer(key, buffer, key not in used._non_persistent_buffers_set)
            setattr(parent, name, child.train(used.training))
