"""Which weights go: a ranking over the whole network, and how few are left after each round."""

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layerticket.criteria.weights import network_weights
from layerticket.errors import LayerticketError

__all__ = ["keep_highest", "kept_shares", "prunable_weights"]

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag)


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that single weights may go from, by name.

    These are the ``weight`` of linear layers, convolutions and embeddings. Class tokens, position
    embeddings that are bare parameters, layer scales, biases and normalizations stay, as do
    the projections of ``nn.MultiheadAttention``, which reads them without calling a layer, so that
    no mask could act.

    Raises:
        LayerticketError: If one of them stands in several places (tied), which masks would tear
            apart.
    """
    modules = dict(model.named_modules())
    inside = [f"{n}." for n, m in modules.items() if isinstance(m, nn.MultiheadAttention)]
    found = {
        name: weight
        for name, weight in network_weights(model).items()
        if name.rpartition(".")[2] == "weight"
        and isinstance(modules[name.rpartition(".")[0]], LAYERS)
        and not any(name.startswith(attention) for attention in inside)
    }
    places = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    if tied := [name for name, weight in found.items() if places.count(id(weight)) > 1]:
        raise LayerticketError(
            f"weight {tied[0]!r} is tied: it stands in several places of this "
            f"{type(model).__name__}, and a mask would tear them apart. Untie it in the network's "
            "configuration, or take filters or blocks for rivals."
        )
    return found


def keep_highest(
    saliency: Mapping[str, Tensor], masks: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Keep exactly `count` weights, those of the highest saliency among those that are left.

    Args:
        saliency: Large = keep, by the weight's name.
        masks: True where a weight is left so far.
        count: How many are to stay.

    Returns:
        New masks. Of equal saliencies the one that comes first in the network goes; where that
        decides between a weight that goes and one that stays, a warning says so.

    Raises:
        LayerticketError: If `count` is below 1 or above the number of weights that are left.
    """
    alive = torch.cat([masks[name].flatten() for name in saliency])
    left = int(alive.sum())
    if not 1 <= count <= left:
        raise LayerticketError(
            f"{count:,} weights are to stay of {left:,} that are left. The reference must keep "
            "fewer parameters than the network has, and more than its biases and normalizations."
        )
    values = torch.cat([saliency[name].flatten() for name in saliency])
    values = torch.where(alive, values, -math.inf)
    order = torch.argsort(values, stable=True)
    kept = torch.zeros_like(alive)
    kept[order[len(order) - count :]] = True
    _warn_of_ties(values, kept & alive, alive)
    flat = iter(torch.split(kept, [value.numel() for value in saliency.values()]))
    found = {name: next(flat).reshape(value.shape) for name, value in saliency.items()}
    _warn_of_empty_layers(found)
    return found


def kept_shares(target: float, rounds: int | None = None, step: float = 0.8) -> tuple[float, ...]:
    """Share of the weights that is left after each round, down to `target`.

    Args:
        target: Share that is left in the end, in (0, 1).
        rounds: Equal rounds; None: as many as it takes when each keeps `step` of what is left, the
            last one less, as Frankle & Carbin have it.
        step: Share that each round keeps, in (0, 1), where `rounds` is None.

    Raises:
        LayerticketError: If a number is out of range.

    Example:
        >>> [round(share, 3) for share in kept_shares(0.5)]
        [0.8, 0.64, 0.512, 0.5]
        >>> [round(share, 3) for share in kept_shares(0.512, rounds=3)]
        [0.8, 0.64, 0.512]
    """
    if not 0 < target < 1 or not 0 < step < 1 or (rounds is not None and rounds < 1):
        raise LayerticketError(
            f"target is {target}, step {step}, rounds {rounds}; shares must lie between 0 and 1, "
            "rounds be 1 or more."
        )
    if rounds is None:
        rounds = max(1, math.ceil(round(math.log(target) / math.log(step), 9)))
        return (*(step**number for number in range(1, rounds)), target)
    return (*(target ** (number / rounds) for number in range(1, rounds)), target)


def _warn_of_ties(values: Tensor, kept: Tensor, alive: Tensor) -> None:
    gone = alive & ~kept
    if gone.any() and (ties := int((values[kept] == values[gone].max()).sum())):
        warnings.warn(
            f"{ties:,} weights that stay have the same saliency as one that goes; their place in "
            "the network decided.",
            stacklevel=3,
        )


def _warn_of_empty_layers(masks: Mapping[str, Tensor]) -> None:
    if empty := [name for name, mask in masks.items() if not mask.any()]:
        warnings.warn(
            f"no weight is left in {', '.join(empty)}; these layers put out a constant.",
            stacklevel=3,
        )
