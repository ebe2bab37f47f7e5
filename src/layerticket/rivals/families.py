"""The standard shallower network: families of residual networks and how deep their stages are."""

import re
from collections.abc import Mapping

from layerticket.errors import LayerticketError
from layerticket.ticket import Ticket

__all__ = ["shallower"]

CIFAR = {f"resnet{6 * n + 2}": (n, n, n) for n in (3, 5, 7, 9, 18, 200)}
BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
FAMILIES: Mapping[str, tuple[Mapping[str, tuple[int, ...]], ...]] = {
    "": (CIFAR,),
    "timm:": (BASIC, {"resnet26": (2, 2, 2, 2)} | BOTTLENECK),
    "torchvision:": (BASIC, BOTTLENECK),
}


def shallower(model: str, reference: Ticket) -> str:
    """Name the standard shallower network of a family that costs most nearly what a ticket costs.

    The networks of a family differ in the number of blocks in each stage, so their MACs follow from
    those of the dense network and of its blocks. The dense network itself is not among them.

    Args:
        model: Name of the dense network, options included, which are carried over.
        reference: A ticket of it.

    Returns:
        A name, from above or from below.

    Raises:
        LayerticketError: If the family is not known, or has no shallower network.
    """
    match = re.fullmatch(r"(timm:|torchvision:|)(resnet\d+)(-projection|)((?:,.*)?)", model)
    source, stem, suffix, options = match.groups() if match else ("?", "", "", "")
    family = next((f for f in FAMILIES.get(source, ()) if stem in f), None)
    if family is None:
        known = [f"{source}{name}" for source, all_ in FAMILIES.items() for f in all_ for name in f]
        raise LayerticketError(
            f"the family of {model!r} is not known, so its shallower network is not. Known: "
            f"{', '.join(known)}. Train another network by name in its place."
        )
    own = family[stem]
    costs = {
        name: _macs(reference, own, depths)
        for name, depths in family.items()
        if sum(depths) < sum(own)
    }
    if not costs:
        raise LayerticketError(
            f"{model!r} is the shallowest standard network of its family. Take a deeper one."
        )
    wanted = reference.macs["ticket"]
    nearest = min(costs, key=lambda name: abs(costs[name] - wanted))
    return f"{source}{nearest}{suffix}{options}"


def _macs(reference: Ticket, own: tuple[int, ...], depths: tuple[int, ...]) -> int:
    """MACs of the network with these depths, from those of the dense one and its blocks."""
    inner = {block.stage: block.macs for block in reference.blocks}  # the last one of each stage
    if len(inner) != len(own):
        raise LayerticketError(
            f"the ticket knows {len(inner)} stages with removable blocks, and {reference.model!r} "
            f"has {len(own)}. Train another network by name in its place."
        )
    gone = [have - has for have, has in zip(own, depths, strict=True)]
    spared = sum(count * inner[stage] for count, stage in zip(gone, sorted(inner), strict=True))
    return reference.macs["dense"] - spared
