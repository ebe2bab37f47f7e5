"""Every process must hold the same network: the same blocks removed, the same first weights."""

from torch import nn

from layerticket.files import digest
from layerticket.ticket import architecture_digest, weights_digest
from layerticket.training.launch import processes

__all__ = ["same_on_all_ranks"]

_REMEDY = (
    "Every process has to remove the same blocks and start from the same weights: load one saved "
    "ticket on all of them, or find it on process 0 and hand it out with `first`."
)


def same_on_all_ranks(model: nn.Module, **facts: object) -> str:
    """Check that all processes hold the same network, and refuse on all of them if not.

    Call it on every process, before the model is wrapped (DDP, FSDP). In one process it compares
    nothing. Cost: one SHA-256 over the weights, one message of about 200 bytes a process.

    Args:
        model: Network to compare by modules, settings, and names, shapes and values of tensors.
        facts: JSON values that must be equal too, such as ``ticket=ticket.digest``.

    Returns:
        The fingerprint: SHA-256 over architecture, weights and facts.

    Raises:
        LayerticketError: If a process holds another network or other facts than process 0; the
            message names the processes and what differs.
    """
    parts = {
        "architecture": architecture_digest(model),
        "weights": weights_digest(model),
        **{name: digest(value) for name, value in facts.items()},
    }
    with processes() as team:
        team.agree(parts, _REMEDY)
    return digest(parts)
