"""The standard shallower network of the residual networks of this package, by depth."""

import re

from layerticket.errors import LayerticketError
from layerticket.models.cifar_resnet import DEPTHS
from layerticket.ticket import Ticket

__all__ = ["shallower"]


def shallower(model: str, reference: Ticket) -> str:
    """Name the standard shallower network that costs most nearly what a ticket costs.

    The residual networks of He et al. for small images, 6n + 2 layers deep, have n blocks in each
    of three stages, so their MACs follow from those of the dense network and of its blocks. Of
    other networks nothing is known here: name the shallower one.

    Args:
        model: Name of the dense network, one of this package.
        reference: A ticket of it.

    Returns:
        A name, from above or from below.

    Raises:
        LayerticketError: If the network is another, or the shallowest.
    """
    match = re.fullmatch(r"resnet(\d+)(-projection|)", model)
    depth = int(match[1]) if match else 0
    if match is None or depth % 6 != 2:
        raise LayerticketError(
            f"what is shallower than {model!r} is not known; only the networks resnet20, resnet32 "
            "and so on of this package, 6n + 2 deep, are. Name a network yourself: in a study file "
            '`model = "NAME"` beside `method = "shallower"`, else train it by its name.'
        )
    costs = {d: _macs(reference, (depth - d) // 6) for d in DEPTHS if d < depth}
    if not costs:
        raise LayerticketError(
            f"{model!r} is the shallowest standard network of its family. Take a deeper one."
        )
    nearest = min(costs, key=lambda d: abs(costs[d] - reference.macs["ticket"]))
    return f"resnet{nearest}{match[2]}"


def _macs(reference: Ticket, fewer: int) -> int:
    """MACs of the network with so many blocks fewer in each stage."""
    inner = {block.stage: block.macs for block in reference.blocks}  # the last one of each stage
    if len(inner) != 3:
        raise LayerticketError(
            f"the ticket of {reference.model!r} knows {len(inner)} stages with removable blocks, "
            "and the networks of this package have 3. Train another network by name in its place."
        )
    return reference.macs["dense"] - fewer * sum(inner.values())
