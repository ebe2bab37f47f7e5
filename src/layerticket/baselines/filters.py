"""Filter pruning as a baseline: remove the lowest-scoring filters until a ticket is matched."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.baselines.controls import match_record, require_same_network
from layerticket.batch import Batch, call, head, inputs_of, logits_of
from layerticket.counting import count_macs, count_params, module_macs
from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import copy_of, preserved_random_state
from layerticket.scoring import score_filters
from layerticket.surgery.channels import Group, coupled_channels, without_channels
from layerticket.ticket.ticket import Ticket, architecture_digest, first_weights, weights_digest

Match = Literal["filters", "macs", "params"]
MATCHES: tuple[Match, ...] = ("filters", "macs", "params")
TOLERANCE = 1e-9  # float64; sums in another order differ by about 1e-15


def find_filter_ticket(
    model: nn.Module,
    batch: Batch,
    *,
    criterion: str = "snip",
    match: Match = "filters",
    reference: Ticket,
    name: str = "",
    seed: int | None = None,
    **options: Any,  # noqa: ANN401 - the criterion's own, see `score_filters`
) -> Ticket:
    """Remove filters at initialization until the network is as small as a ticket of layers.

    The count to reach is that of the reference. The lowest-scoring channels are removed first; a
    channel that would overshoot is skipped. At least one channel stays in every group. With l1,
    ranks within groups are compared, see `ranks`. Cost: one scoring.

    Args:
        model: Dense network at theta_0; not modified.
        batch: Scoring batch ``(images, labels)``, on the model's device.
        criterion: One of ``criterion_names("filters")``: snip, grasp, l1, random, ...
        match: Matched quantity: the number of filters, as in the paper, or MACs or parameters.
        reference: Ticket of the same network to match.
        name: Name that the network is built by; recorded.
        seed: Seed that drew theta_0; recorded.
        **options: `slices`, `draw`, and those of the criterion, see `score_filters`.

    Returns:
        A ticket of kind `filters`; ``ticket.apply(model)`` is the smaller network.

    Raises:
        LayerticketError: If a name or option is unknown, the reference belongs to another network,
            the network has padded shortcuts, or Torch-Pruning is not installed.

    References:
        Jordao et al., "When Layers Play the Lottery, all Tickets Win at Initialization", section 4.
        arXiv:2301.10835. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """
    if match not in MATCHES:
        raise unknown_name("match", match, MATCHES)
    architecture = architecture_digest(model)
    require_same_network(architecture, reference, name or type(model).__name__)
    images = inputs_of(batch)
    example = head(images, 1)
    if not isinstance(example, Tensor) or example.ndim != 4:
        raise LayerticketError(
            "filters can be removed only from networks for images. Give a batch of images "
            "(N, C, H, W) and labels."
        )
    started = time.perf_counter()
    wanted = _figures(reference.apply(model), example)
    groups = coupled_channels(model, example)
    scores = score_filters(model, groups, batch, criterion, **options)
    counts = ChannelCounts.of(model, example, groups)
    taken = take_channels(counts, groups, ranks(criterion, scores.values), match, wanted[match])
    removed = {layer: taken[g.root] for g in groups for layer in g.filters if g.root in taken}
    small = without_channels(model, removed, example)
    require_equal_to_zeroed(small, zero_channels(model, groups, removed), head(images, 4))
    seconds = time.perf_counter() - started
    dense, reached = _figures(model, example), _figures(small, example)
    figures = {
        f: {"dense": dense[f], "reference": wanted[f], "baseline": reached[f]} for f in MATCHES
    }
    within = {"ranked": "within groups"} if criterion == "l1" else {}
    return Ticket(
        kind="filters",
        model=name or type(model).__name__,
        architecture=architecture,
        weights=weights_digest(model),
        criterion=criterion,
        options={**scores.options, **within},
        batch=scores.batch_digest,
        examples=scores.examples,
        removed=tuple(removed),
        filters=removed,
        scores=scores.values,
        input_shape=tuple(example.shape[1:]),
        macs={"dense": dense["macs"], "ticket": reached["macs"]},
        params={"dense": dense["params"], "ticket": reached["params"]},
        match=match_record(match, reference, figures),
        seed=seed,
        score_seconds=seconds,
        versions={"torch": torch.__version__},
        init=first_weights(small),
    )


def ranks(criterion: str, scores: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return the values by which channels of all groups are compared; the lowest are removed first.

    Norms of filters cannot be compared across layers: layers differ in the number and the initial
    scale of weights per filter. So l1 ranks within a group: the k-th lowest of n channels, from 0,
    gets ``(k + 1/2) / n``, which removes about the same share of every group. All other scores are
    compared directly.

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710,
        section 3.1: filters are sorted layer by layer, and each layer loses a share.
    """
    if criterion != "l1":
        return dict(scores)
    places: dict[str, list[float]] = {}
    for root, own in scores.items():
        order = sorted(range(len(own)), key=lambda channel: (own[channel], channel))
        place = {channel: number for number, channel in enumerate(order)}
        places[root] = [(place[channel] + 0.5) / len(own) for channel in range(len(own))]
    return places


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Costs of one layer of the dense network, per pair of an input and an output channel."""

    entering: int
    leaving: int
    macs: int
    """MACs per example for each pair of channels."""
    pair_params: int
    """Parameters for each pair of channels: the kernel."""
    params: int
    """Parameters for each output channel: biases, normalizations."""
    filters: int
    """1 for convolutions."""


@dataclass(slots=True)
class ChannelCounts:
    """Remaining channels of each layer and the total cost, updated as channels are removed."""

    layers: Mapping[str, LayerCosts]
    rest: Mapping[str, int]
    """Costs that do not depend on the channels."""
    left: dict[tuple[str, str], int] = field(default_factory=dict)
    """Remaining channels, by layer and side."""

    @classmethod
    def of(cls, model: nn.Module, example: Tensor, groups: tuple[Group, ...]) -> "ChannelCounts":
        """Count the dense network."""
        macs, modules = module_macs(model, example), dict(model.named_modules())
        names = {part.layer for group in groups for part in group.parts}
        layers = {name: _layer(modules[name], macs[name]) for name in names}
        counts = cls(layers=layers, rest={})
        for name, layer in layers.items():
            counts.left[name, "in"], counts.left[name, "out"] = layer.entering, layer.leaving
        whole = {
            "filters": count_filters(model),
            "macs": macs[""],
            "params": count_params(model),
        }
        counts.rest = {figure: whole[figure] - counts.total(figure) for figure in whole}
        return counts

    def total(self, figure: str) -> int:
        """Return `filters`, `macs` or `params` of the remaining network."""
        return self.rest.get(figure, 0) + sum(self._of(name, figure) for name in self.layers)

    def saving(self, group: Group, channel: int, figure: str) -> int:
        """Return how much of a quantity the removal of one more channel would save."""
        change: dict[tuple[str, str], int] = defaultdict(int)
        for part in group.parts:
            change[part.layer, part.side] += len(part.indices[channel])
        names = {name for name, _ in change}
        before = sum(self._of(name, figure) for name in names)
        for key, count in change.items():
            self.left[key] -= count
        after = sum(self._of(name, figure) for name in names)
        for key, count in change.items():
            self.left[key] += count
        return before - after

    def take(self, group: Group, channel: int) -> None:
        """Remove a channel."""
        for part in group.parts:
            self.left[part.layer, part.side] -= len(part.indices[channel])

    def _of(self, name: str, figure: str) -> int:
        layer = self.layers[name]
        entering, leaving = self.left[name, "in"], self.left[name, "out"]
        if figure == "filters":
            return layer.filters * leaving
        if figure == "macs":
            return layer.macs * entering * leaving
        return layer.pair_params * entering * leaving + layer.params * leaving


def _layer(module: nn.Module, macs: int) -> LayerCosts:
    """Return the costs of a layer."""
    own = list(module.parameters(recurse=False))
    if isinstance(module, nn.Conv2d):
        entering, leaving = module.in_channels, module.out_channels
    elif isinstance(module, nn.Linear):
        entering, leaving = module.in_features, module.out_features
    else:  # a normalization: one output channel per input channel
        leaving = next((len(p) for p in own if p.ndim == 1), 1)
        per_channel = sum(p.numel() for p in own) // leaving
        return LayerCosts(1, leaving, 0, 0, per_channel, 0)
    kernel = sum(p.numel() for p in own if p.ndim > 1) // (entering * leaving)
    biases = sum(1 for p in own if p.ndim == 1)
    filters = int(isinstance(module, nn.Conv2d))
    return LayerCosts(entering, leaving, macs // (entering * leaving), kernel, biases, filters)


def take_channels(
    counts: ChannelCounts,
    groups: tuple[Group, ...],
    scores: Mapping[str, list[float]],
    figure: Match,
    wanted: int,
) -> dict[str, tuple[int, ...]]:
    """Remove the lowest-scoring channels until a quantity is as near as possible to its target.

    `counts` is updated from the dense to the remaining network. Returns the removed channels, by
    root.
    """
    ranked = sorted(
        (score, order, channel)
        for order, group in enumerate(groups)
        for channel, score in enumerate(scores[group.root])
    )
    taken: dict[str, list[int]] = {group.root: [] for group in groups}
    left = counts.total(figure)
    skipped: list[tuple[Group, int]] = []
    for _, order, channel in ranked:
        group = groups[order]
        if len(taken[group.root]) == group.size - 1:
            continue
        saved = counts.saving(group, channel, figure)
        if left - saved < wanted:
            skipped.append((group, channel))
            continue
        counts.take(group, channel)
        taken[group.root].append(channel)
        left -= saved
    _remove_one_more(counts, taken, skipped, figure, left - wanted)
    return {root: tuple(sorted(channels)) for root, channels in taken.items() if channels}


def _remove_one_more(
    counts: ChannelCounts,
    taken: dict[str, list[int]],
    skipped: list[tuple[Group, int]],
    figure: Match,
    above: int,
) -> None:
    """Remove one of the skipped channels if the result is nearer to the target."""
    nearest = above
    best: tuple[Group, int] | None = None
    for group, channel in skipped:
        if len(taken[group.root]) == group.size - 1:
            continue
        below = counts.saving(group, channel, figure) - above
        if abs(below) < nearest:
            nearest, best = abs(below), (group, channel)
    if best is not None:
        counts.take(*best)
        taken[best[0].root].append(best[1])


def count_filters(model: nn.Module) -> int:
    """Count the filters of a network: output channels of its convolutions, including shortcuts."""
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _figures(model: nn.Module, example: Tensor) -> dict[str, int]:
    return {
        "filters": count_filters(model),
        "macs": count_macs(model, example),
        "params": count_params(model),
    }


def zero_channels(
    model: nn.Module, groups: Sequence[Group], removed: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Return a copy of the network in which the filters and their normalizations are zero."""
    zeroed = copy_of(model)
    with torch.no_grad():
        for group in groups:
            for part in group.parts:
                own = [i for c in removed.get(group.root, ()) for i in part.indices[c]]
                if part.side == "out":
                    for parameter in zeroed.get_submodule(part.layer).parameters(recurse=False):
                        parameter[own] = 0
    return zeroed


def require_equal_to_zeroed(small: nn.Module, zeroed: nn.Module, images: Tensor) -> None:
    """Raise unless removing channels gives the same outputs as setting them to zero.

    This detects wrong coupling. Outputs are compared in evaluation mode and float64.
    """
    with torch.no_grad(), preserved_random_state(0):
        one, other = (
            logits_of(call(copy_of(network).double().eval(), images.double()))
            for network in (small, zeroed)
        )
    if not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
        raise LayerticketError(
            f"removing channels of this {type(small).__name__} does not give the same outputs as "
            "setting them to zero: a padded shortcut shifts channels, or a normalization mixes "
            "them. Use projection shortcuts and batch normalization, or --baseline weights."
        )
