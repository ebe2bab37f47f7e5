"""Controls: blocks removed without a criterion, and networks or epochs of equal cost."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from layerticket.blocks.block import Block, macs_of
from layerticket.counting import count_params
from layerticket.errors import LayerticketError, unknown_name
from layerticket.models.names import DEPTHS
from layerticket.surgery.remove import remove_blocks
from layerticket.ticket.ticket import Ticket, architecture_digest, first_weights, weights_digest

Control = Literal["random", "first", "last", "even", "each"]
CONTROLS: tuple[Control, ...] = ("random", "first", "last", "even", "each")
PARTS = 10_000
"""Resolution of costs: costs that differ by less than 1/10,000 of the dense MACs count as equal."""


def control_ticket(
    model: nn.Module,
    reference: Ticket,
    control: Control,
    *,
    draw: int = 0,
    name: str = "",
    seed: int | None = None,
) -> Ticket:
    """Return a ticket that removes blocks without a criterion.

    `random` draws the blocks, `first` and `last` take those nearest to the input and to the output,
    `even` spreads them over the depth. Their number is chosen so that the MACs are as close as
    possible to those of the reference. `each` is not matched: it removes only the block with number
    `draw`, so that all draws together show the worth of every single block.

    The draws of one seed are without replacement: of all sets of blocks with the nearest MACs (to
    1/10,000 of the dense network's), each is equally likely and none is drawn twice. The set of the
    reference is one of them. Cost: additions, 10,000 per block.

    Args:
        model: The dense network at theta_0; not modified.
        reference: Ticket of the same network; it gives the removable blocks and the cost to
            match.
        control: Which blocks are removed.
        draw: Number of the random draw, or of the single block in the order of execution; other
            controls have only draw 0.
        name: Name that the network is built by; recorded.
        seed: Seed that drew theta_0; recorded. Random draws depend on it.

    Returns:
        A ticket of blocks. Its criterion is the control's name; it has no scores and no batch.

    Raises:
        LayerticketError: If the control is unknown, the draw is out of range, or the reference
            belongs to another network.
    """
    if control not in CONTROLS:
        raise unknown_name("control", control, CONTROLS)
    if draw < 0 or (draw and control not in ("random", "each")):
        raise LayerticketError(
            f"draw is {draw}; it must be at least 0, and 0 for all controls except 'random' and "
            "'each'."
        )
    architecture = architecture_digest(model)
    require_same_network(architecture, reference, name or type(model).__name__)
    order = _chosen(reference, control, draw, seed)
    gone = {block.name for block in order}
    small = remove_blocks(model, order)
    macs, params = reference.counted_macs["dense"] - macs_of(order), count_params(small)
    figures = {
        name: {"dense": of["dense"], "reference": of["ticket"], "baseline": reached}
        for name, of, reached in (
            ("macs", reference.counted_macs, macs),
            ("params", reference.params, params),
        )
    }
    numbered = {"draw": draw} if control in ("random", "each") else {}
    return Ticket(
        model=name or type(model).__name__,
        architecture=architecture,
        weights=weights_digest(model),
        criterion=control,
        options={"reference": reference.digest, **numbered},
        batch="",
        examples=0,
        removed=tuple(block.name for block in reference.blocks if block.name in gone),
        kept=tuple(block.name for block in reference.blocks if block.name not in gone),
        blocks=reference.blocks,
        order=(tuple(block.name for block in order),),
        macs={"dense": reference.counted_macs["dense"], "ticket": macs},
        params={"dense": reference.params["dense"], "ticket": params},
        match=None if control == "each" else match_record("macs", reference, figures),
        seed=seed,
        score_seconds=0.0,
        versions={"torch": torch.__version__},
        init=first_weights(small),
    )


def shallower(model: str, reference: Ticket) -> str:
    """Return the name of the standard shallower network nearest in MACs to a ticket.

    The residual networks of He et al. for small images, 6n + 2 layers deep, have n blocks in each
    of three stages, so their MACs follow from those of the dense network and its blocks. For other
    networks, give the shallower network by name.

    Args:
        model: Name of the dense network, from this package.
        reference: A ticket of the dense network.

    Returns:
        The name of a network with more or fewer MACs than the ticket.

    Raises:
        LayerticketError: If the network is not from this package, or is the shallowest.
    """
    costs = {
        name: _shallower_macs(reference, fewer) for name, fewer in shallower_names(model).items()
    }
    return min(costs, key=lambda name: abs(costs[name] - reference.counted_macs["ticket"]))


def shallower_names(model: str) -> dict[str, int]:
    """Return the standard shallower networks, and how many blocks less each stage has.

    Args:
        model: Name of the dense network.

    Raises:
        LayerticketError: If the network is not from this package, or is the shallowest.

    Example:
        >>> shallower_names("resnet32-projection")
        {'resnet14-projection': 3, 'resnet20-projection': 2}
    """
    match = re.fullmatch(r"resnet(\d+)(-projection|)", model)
    depth = int(match[1]) if match else 0
    if match is None or depth % 6 != 2:
        raise LayerticketError(
            f"no shallower network is known for {model!r}, only for resnet20, resnet32 and so on "
            "(6n + 2 layers). Give one by name: in a study file add "
            '`model = "NAME"` to `method = "shallower"`, else train it by its name.'
        )
    found = {f"resnet{d}{match[2]}": (depth - d) // 6 for d in DEPTHS if d < depth}
    if not found:
        raise LayerticketError(
            f"{model!r} is the shallowest standard network of its family. Use a deeper one."
        )
    return found


def _shallower_macs(reference: Ticket, fewer: int) -> int:
    """Return the MACs of the network with `fewer` blocks less in each stage."""
    last = {block.stage: macs_of([block]) for block in reference.blocks}  # of each stage
    if len(last) != 3:
        raise LayerticketError(
            f"the ticket of {reference.model!r} has {len(last)} stages with removable blocks, but "
            "the networks of this package have 3. Train another network by name instead."
        )
    return reference.counted_macs["dense"] - fewer * sum(last.values())


def equal_compute_epochs(reference: Ticket, epochs: int) -> int:
    """Return the epochs of the dense network that use as many MACs as the training of a ticket.

    A ticket found at initialization trains `epochs` epochs at its share of the dense network's
    MACs. A ticket found in a training also needs that training up to the scored epoch or, if later,
    the one it was rewound to, where its own training starts. Scoring, the gradient of a few images,
    is not counted: with 100 of 45,000 images it is a few thousandths of one epoch.

    Args:
        reference: The ticket.
        epochs: Epochs of the schedule that the ticket is trained with.

    Returns:
        The nearest whole number, at least 1.

    Raises:
        LayerticketError: If the schedule has no epoch after the one of rewinding.
    """
    left = epochs - reference.rewind_epoch
    if left < 1:
        raise LayerticketError(
            f"the ticket starts at epoch {reference.rewind_epoch}, so a schedule of {epochs} "
            "epochs leaves nothing to train. Give the epochs of its schedule."
        )
    origin = reference.origin
    before = 0 if origin is None else max(origin.scored_epoch, origin.rewind_epoch)
    share = reference.counted_macs["ticket"] / reference.counted_macs["dense"]
    return max(1, round(before + left * share))


def match_record(
    by: str, reference: Ticket, figures: Mapping[Any, Mapping[str, int]]
) -> dict[str, Any]:
    """Return how close a baseline is to its reference, in every quantity.

    Args:
        by: The matched quantity, a key of `figures`.
        reference: The ticket of layers.
        figures: ``dense``, ``reference`` and ``baseline`` of each quantity.

    Returns:
        JSON values: the matched quantity, the digest of the ticket, the figures, and for the
        matched one the difference (baseline - reference), absolute and relative to the reference.
    """
    reached, wanted = figures[by]["baseline"], figures[by]["reference"]
    return {
        "by": by,
        "reference": reference.digest,
        "difference": reached - wanted,
        "relative_difference": (reached - wanted) / wanted,
        **{name: dict(values) for name, values in figures.items()},
    }


def require_same_network(architecture: str, reference: Ticket, given: str) -> None:
    """Raise if a reference was found in another network."""
    if architecture != reference.architecture:
        raise LayerticketError(
            f"the reference is a ticket of {reference.model!r} ({reference.params['dense']:,} "
            f"parameters), but {given!r} is another network. Give a ticket of the same network, "
            "with the same classes and channels."
        )
    if reference.kind != "blocks":
        raise LayerticketError(
            f"the reference removes {reference.kind}, but baselines are matched to a ticket of "
            "blocks. Give one."
        )


def _chosen(reference: Ticket, control: Control, draw: int, seed: int | None) -> tuple[Block, ...]:
    """Return the blocks to remove, in the order of removal."""
    blocks = reference.blocks
    saved = reference.counted_macs["dense"] - reference.counted_macs["ticket"]
    if control == "each":
        if draw >= len(blocks):
            raise LayerticketError(
                f"draw is {draw}, but {reference.model!r} has {len(blocks)} removable blocks; with "
                f"control 'each', allowed are 0 to {len(blocks) - 1}."
            )
        return (blocks[draw],)
    if control == "random":
        return _drawn(reference, saved, draw, seed)
    by_count: Mapping[str, Callable[[int], tuple[Block, ...]]] = {
        "first": lambda count: blocks[:count],
        "last": lambda count: blocks[::-1][:count],
        "even": lambda count: _spread(blocks, count),
    }
    choices = [by_count[control](count) for count in range(1, len(blocks) + 1)]
    return min(choices, key=lambda chosen: abs(macs_of(chosen) - saved))


def _spread(blocks: Sequence[Block], count: int) -> tuple[Block, ...]:
    """Return the blocks in the middle of `count` equal parts of the depth."""
    return tuple(blocks[(2 * i + 1) * len(blocks) // (2 * count)] for i in range(count))


def _drawn(reference: Ticket, saved: int, draw: int, seed: int | None) -> tuple[Block, ...]:
    """Return the random draw of a given number: a set of the nearest cost, none drawn twice."""
    blocks = reference.blocks
    part = max(1, reference.counted_macs["dense"] // PARTS)
    costs = [max(1, round(macs_of([block]) / part)) for block in blocks]
    ways = _subset_counts(costs)
    cost = min((one for one in ways[0] if one), key=lambda one: (abs(one - saved / part), one))
    total = ways[0][cost]
    if draw >= total:
        raise LayerticketError(
            f"draw is {draw}, but only {total} sets of blocks are this close to the MACs of the "
            f"reference, and all random draws differ; allowed are 0 to {total - 1}."
        )
    source = random.Random(f"blocks {seed}")
    numbers: dict[int, None] = {}  # in the order of drawing
    while len(numbers) <= draw:
        numbers[source.randrange(total)] = None
    chosen = [blocks[i] for i in _subset(list(numbers)[draw], cost, costs, ways)]
    random.Random(f"order {seed} {draw}").shuffle(chosen)
    return tuple(chosen)


def _subset_counts(costs: Sequence[int]) -> list[dict[int, int]]:
    """Count, for each i and each sum, the subsets of the costs from i on that have this sum."""
    ways = [{0: 1}]
    for cost in reversed(costs):
        grown = dict(ways[0])
        for total, count in ways[0].items():
            grown[total + cost] = grown.get(total + cost, 0) + count
        ways.insert(0, grown)
    return ways


def _subset(
    number: int, cost: int, costs: Sequence[int], ways: Sequence[dict[int, int]]
) -> list[int]:
    """Return the positions in the subset of a given number, among the subsets of a given cost."""
    positions = []
    for i, one in enumerate(costs):
        taken = ways[i + 1].get(cost - one, 0)
        if number < taken:
            positions.append(i)
            cost -= one
        else:
            number -= taken
    return positions
