"""From a network and a ticket of layers to the same network with fewer filters, at equal cost."""

import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, batch_digest, head, inputs_of, size_of
from layerticket.errors import LayerticketError, unknown_name
from layerticket.macs import count_macs, count_params
from layerticket.rivals.filters.costs import Tally, count_filters
from layerticket.rivals.filters.coupling import Group, coupled_channels, without_channels
from layerticket.rivals.filters.oracle import require_equal_to_silenced, silence_channels
from layerticket.rivals.filters.record import FilterTicket
from layerticket.rivals.filters.scores import FilterCriterion
from layerticket.rivals.matching import match_record, require_same_network
from layerticket.ticket import Ticket, architecture_digest, weights_digest

__all__ = ["MATCHES", "find_filter_ticket", "take_channels"]

Match = Literal["filters", "macs", "params"]
MATCHES: tuple[Match, ...] = ("filters", "macs", "params")


def find_filter_ticket(
    model: nn.Module,
    batch: Batch,
    *,
    criterion: str = "snip",
    match: Match = "filters",
    reference: Ticket,
    name: str = "",
    seed: int | None = None,
    **options: Any,  # noqa: ANN401 - the criterion's own, see `FilterCriterion.of`
) -> FilterTicket:
    """Remove filters at initialization until the network is as small as a ticket of layers.

    Blocks are cut first (the reference), what they leave is counted, then channels go, the lowest
    score first, until the count is met: a channel that would go below it is passed over for the
    next one that does not. At least one channel stays in every group. Of l1 the lowest of each
    group are compared, see `FilterCriterion.ranks`. Cost: one scoring.

    Args:
        model: Dense network at theta_0; not modified.
        batch: ``(images, labels)`` on the model's device, to score on.
        criterion: One of snip, grasp, l1, random.
        match: What is to be equal: the number of filters, as in the paper, or MACs or parameters.
        reference: Ticket of the same network that is matched.
        name: What the network is built by; recorded.
        seed: Seed theta_0 was drawn with; recorded.
        **options: `slices`, `draw`, and those of `Saliency`.

    Returns:
        The rival; ``rival.apply(model)`` is the smaller network.

    Raises:
        LayerticketError: If anything is unknown, the reference is of another network, the network
            has padded shortcuts, or Torch-Pruning is not installed.

    References:
        Jordao et al., "When Layers Play the Lottery, all Tickets Win at Initialization", section 4.
        arXiv:2301.10835. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """
    if match not in MATCHES:
        raise unknown_name("match", match, MATCHES)
    how = FilterCriterion.of(criterion, **options)
    architecture = architecture_digest(model)
    require_same_network(architecture, reference, name or type(model).__name__)
    example = head(inputs_of(batch), 1)
    if not isinstance(example, Tensor) or example.ndim != 4:
        raise LayerticketError("filters are removed from networks of images (N, C, H, W) only.")
    started = time.perf_counter()
    wanted = _figures(reference.apply(model), example)
    small, removed, scores = _shrink(model, batch, how, match, wanted[match])
    seconds = time.perf_counter() - started
    dense, reached = _figures(model, example), _figures(small, example)
    three = {f: {"dense": dense[f], "reference": wanted[f], "rival": reached[f]} for f in MATCHES}
    return FilterTicket(
        model=name or type(model).__name__,
        architecture=architecture,
        weights=weights_digest(model),
        criterion=criterion,
        options=how.record(),
        batch=batch_digest(batch) if how.reads_data else "",
        examples=size_of(batch) if how.reads_data else 0,
        macs={"dense": dense["macs"], "ticket": reached["macs"]},
        params={"dense": dense["params"], "ticket": reached["params"]},
        match=match_record(match, reference, three),
        seed=seed,
        score_seconds=seconds,
        versions={"torch": torch.__version__},
        init={key: value.detach().cpu().clone() for key, value in small.state_dict().items()},
        removed=removed,
        scores=scores,
        input_shape=tuple(example.shape[1:]),
    )


def _shrink(
    model: nn.Module, batch: Batch, how: FilterCriterion, match: Match, wanted: int
) -> tuple[nn.Module, dict[str, tuple[int, ...]], dict[str, list[float]]]:
    """Score, choose and remove; returns the smaller network, what went, and the scores."""
    images = inputs_of(batch)
    example = head(images, 1)
    groups = coupled_channels(model, example)
    scores = how.scores(model, groups, batch)
    tally, ranks = Tally.of(model, example, groups), how.ranks(scores)
    taken = take_channels(tally, groups, ranks, match, wanted)
    removed = {layer: taken[g.root] for g in groups for layer in g.filters if g.root in taken}
    small = without_channels(model, removed, example)
    require_equal_to_silenced(small, silence_channels(model, groups, removed), head(images, 4))
    return small, removed, scores


def take_channels(
    tally: Tally,
    groups: tuple[Group, ...],
    scores: Mapping[str, list[float]],
    figure: Match,
    wanted: int,
) -> dict[str, tuple[int, ...]]:
    """Take the lowest-scored channels until a figure is as near to what is wanted as it gets.

    Args:
        tally: The dense network; afterwards, what is left.
        groups: Its coupled channels.
        scores: One score for every channel of each root.
        figure: What is counted.
        wanted: What is to be left of it.

    Returns:
        Channels that go, by root.
    """
    ranked = sorted(
        (score, order, channel)
        for order, group in enumerate(groups)
        for channel, score in enumerate(scores[group.root])
    )
    taken: dict[str, list[int]] = {group.root: [] for group in groups}
    left = tally.total(figure)
    spare: list[tuple[int, Group, int]] = []
    for _, order, channel in ranked:
        group = groups[order]
        if len(taken[group.root]) == group.size - 1:
            continue
        cost = tally.without(group, channel, figure)
        if left - cost < wanted:
            spare.append((cost, group, channel))
            continue
        tally.take(group, channel)
        taken[group.root].append(channel)
        left -= cost
    _step_over(tally, taken, spare, figure, left - wanted)
    return {root: tuple(sorted(channels)) for root, channels in taken.items() if channels}


def _step_over(
    tally: Tally,
    taken: dict[str, list[int]],
    spare: list[tuple[int, Group, int]],
    figure: Match,
    above: int,
) -> None:
    """Take one channel more if that ends nearer to what is wanted."""
    nearest = above
    best: tuple[Group, int] | None = None
    for _, group, channel in spare:
        if len(taken[group.root]) == group.size - 1:
            continue
        below = tally.without(group, channel, figure) - above
        if abs(below) < nearest:
            nearest, best = abs(below), (group, channel)
    if best is not None:
        tally.take(*best)
        taken[best[0].root].append(best[1])


def _figures(model: nn.Module, example: Tensor) -> dict[str, int]:
    return {
        "filters": count_filters(model),
        "macs": count_macs(model, example),
        "params": count_params(model),
    }
