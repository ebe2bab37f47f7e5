"""The record of a network with fewer filters: save, load, apply."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from layerticket.baselines.controls import match_record, require_same_network
from layerticket.baselines.saliency import Saliency
from layerticket.batch import Batch, batch_digest, call, head, inputs_of, logits_of, size_of
from layerticket.counting import count_macs, count_params, module_macs
from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import copy_of, preserved_random_state
from layerticket.surgery.channels import Group, coupled_channels, without_channels
from layerticket.ticket.ticket import (
    Initialization,
    Rival,
    Ticket,
    architecture_digest,
    weights_digest,
)


def count_filters(model: nn.Module) -> int:
    """Count the filters of a network: the output channels of its convolutions, shortcuts too."""
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the dense network; figures for each pair of a read and a written channel."""

    entering: int
    leaving: int
    macs: int
    """MACs an example for each pair of channels."""
    pair_params: int
    """Parameters for each pair of channels: the kernel."""
    params: int
    """Parameters for each written channel: biases, normalizations."""
    filters: int
    """1 for convolutions."""


@dataclass(slots=True)
class Tally:
    """What is left of each layer, and what all of it costs; changes as channels are taken."""

    layers: Mapping[str, Layer]
    rest: Mapping[str, int]
    """Figures of what no channel can change."""
    left: dict[tuple[str, str], int] = field(default_factory=dict)
    """Channels left, by layer and side."""

    @classmethod
    def of(cls, model: nn.Module, example: Tensor, groups: tuple[Group, ...]) -> "Tally":
        """Count the dense network."""
        macs, modules = module_macs(model, example), dict(model.named_modules())
        names = {part.layer for group in groups for part in group.parts}
        layers = {name: _layer(modules[name], macs[name]) for name in names}
        tally = cls(layers=layers, rest={})
        for name, layer in layers.items():
            tally.left[name, "in"], tally.left[name, "out"] = layer.entering, layer.leaving
        whole = {
            "filters": count_filters(model),
            "macs": macs[""],
            "params": sum(parameter.numel() for parameter in model.parameters()),
        }
        tally.rest = {figure: whole[figure] - tally.total(figure) for figure in whole}
        return tally

    def total(self, figure: str) -> int:
        """Return `filters`, `macs` or `params` of what is left."""
        return self.rest.get(figure, 0) + sum(self._of(name, figure) for name in self.layers)

    def without(self, group: Group, channel: int, figure: str) -> int:
        """Return how much of a figure one more channel would take."""
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
        """Take a channel."""
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


def _layer(module: nn.Module, macs: int) -> Layer:
    """Read the figures of a layer."""
    own = list(module.parameters(recurse=False))
    if isinstance(module, nn.Conv2d):
        entering, leaving = module.in_channels, module.out_channels
    elif isinstance(module, nn.Linear):
        entering, leaving = module.in_features, module.out_features
    else:  # a normalization: one written channel for each it reads
        leaving = next((len(p) for p in own if p.ndim == 1), 1)
        per_channel = sum(p.numel() for p in own) // leaving
        return Layer(1, leaving, 0, 0, per_channel, 0)
    kernel = sum(p.numel() for p in own if p.ndim > 1) // (entering * leaving)
    biases = sum(1 for p in own if p.ndim == 1)
    filters = int(isinstance(module, nn.Conv2d))
    return Layer(entering, leaving, macs // (entering * leaving), kernel, biases, filters)


TOLERANCE = 1e-9  # float64; sums in another order differ by 1e-15 or so


def silence_channels(
    model: nn.Module, groups: Sequence[Group], removed: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Return a copy of the network in which the filters, and what normalizes them, are zero.

    Args:
        model: The dense network; not modified.
        groups: Its coupled channels.
        removed: Filters by the name of their convolution.
    """
    silent = copy_of(model)
    with torch.no_grad():
        for group in groups:
            for part in group.parts:
                own = [i for c in removed.get(group.root, ()) for i in part.indices[c]]
                if part.side == "out":
                    for parameter in silent.get_submodule(part.layer).parameters(recurse=False):
                        parameter[own] = 0
    return silent


def require_equal_to_silenced(small: nn.Module, silent: nn.Module, images: Tensor) -> None:
    """Refuse a network without channels that computes something else than with silent ones.

    Args:
        small: The network without the channels; not modified.
        silent: The one of `silence_channels`; not modified.
        images: A few images (N, C, H, W), on the device of both.

    Raises:
        LayerticketError: If their outputs differ, in evaluation mode and float64.
    """
    with torch.no_grad(), preserved_random_state(0):
        one, other = (
            logits_of(call(copy_of(network).double().eval(), images.double()))
            for network in (small, silent)
        )
    if not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
        raise LayerticketError(
            f"without its channels this {type(small).__name__} computes something else than with "
            "silent ones: shortcuts padded with zeros couple channels at an offset, or a "
            "normalization mixes channels. Take projection shortcuts and batch normalization, or "
            "--rival weights."
        )


FILTER_CRITERIA = ("grasp", "l1", "random", "snip")
Slices = Literal["filters", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterCriterion:
    """How channels are scored, with all options."""

    name: str
    """One of `FILTER_CRITERIA`."""
    slices: Slices | None = None
    """`filters`: the weights of the filters that go; `all`: also those of the layers behind that
    read them. None: `filters` for l1, as Li et al. have it, `all` for snip and grasp."""
    draw: int = 0
    """Number of the draw of random."""
    saliency: Saliency | None = None
    """The criterion for single weights, of snip, grasp and l1."""

    @classmethod
    def of(
        cls,
        name: str,
        *,
        slices: Slices | None = None,
        draw: int = 0,
        **options: Any,  # noqa: ANN401 - those of `Saliency`
    ) -> "FilterCriterion":
        """Complete the options of a criterion with its defaults.

        Args:
            name: One of `FILTER_CRITERIA`.
            slices: See there.
            draw: See there.
            **options: `normalization`, `temperature`, `micro_batches` of `Saliency`.

        Raises:
            LayerticketError: If the criterion or an option is unknown.
        """
        if name not in FILTER_CRITERIA:
            raise unknown_name("criterion for filters", name, FILTER_CRITERIA)
        if slices not in (None, "filters", "all"):
            raise LayerticketError(f"slices is {slices!r}; allowed are 'filters' and 'all'.")
        if name == "random":
            if slices or options:
                raise LayerticketError(
                    "criterion 'random' reads nothing; it has no option but draw."
                )
            return cls(name=name, draw=draw)
        if draw:
            raise LayerticketError(f"draw is {draw}, but only criterion 'random' draws.")
        weights = Saliency.named("magnitude" if name == "l1" else name, options)
        return cls(
            name=name, slices=slices or ("filters" if name == "l1" else "all"), saliency=weights
        )

    @property
    def reads_data(self) -> bool:
        """Whether the batch is looked at."""
        return self.saliency is not None and self.saliency.reads_data

    def record(self) -> dict[str, Any]:
        """Return the options that count, as JSON values."""
        if self.saliency is None:
            return {"draw": self.draw}
        within = {"ranked": "within groups"} if self.name == "l1" else {}
        return {"slices": self.slices, **within, **self.saliency.record()}

    def scores(
        self, model: nn.Module, groups: Sequence[Group], batch: Batch
    ) -> dict[str, list[float]]:
        """Score every channel of every group; higher = keep.

        A channel's score is the sum of the saliencies of the weights that go with it, divided by
        the number of filters it takes along, so that channels of the residual stream, which run
        through a whole stage, compare with those inside a block. Random scores are not divided.
        Cost: that of the criterion, once.

        Args:
            model: The dense network; not modified.
            groups: Its coupled channels.
            batch: ``(inputs, targets)``, on the model's device.

        Returns:
            Root of the group -> one score a channel.
        """
        if self.saliency is None:
            generator = torch.Generator().manual_seed(self.draw)
            return {
                g.root: torch.rand(g.size, generator=generator, dtype=torch.double).tolist()
                for g in groups
            }
        values = self.saliency.of(model, batch)
        sides = {"out"} if self.slices == "filters" else {"out", "in"}
        return {group.root: _scores(group, values, sides) for group in groups}

    def ranks(self, scores: Mapping[str, list[float]]) -> dict[str, list[float]]:
        """Return what channels of different groups are compared by; the lowest go first.

        Norms of filters say nothing across layers: a filter has as many weights as its layer reads,
        and these are drawn the smaller the more there are. So l1 counts within a group: the k-th
        lowest of n channels, from 0, ranks ``(k + 1/2) / n``, which takes the same share of
        every group as nearly as whole channels allow. All other scores are compared as they are.

        Args:
            scores: Scores by root.

        References:
            Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710,
            section 3.1: filters are sorted layer by layer, and each layer has a share to lose.
        """
        if self.name != "l1":
            return dict(scores)
        return {root: _places(own) for root, own in scores.items()}


def _places(scores: list[float]) -> list[float]:
    """Return the place of each score among all, as a share from 0 to 1."""
    order = sorted(range(len(scores)), key=lambda channel: (scores[channel], channel))
    places = [0.0] * len(scores)
    for place, channel in enumerate(order):
        places[channel] = (place + 0.5) / len(scores)
    return places


def _scores(group: Group, values: Mapping[str, Tensor], sides: set[str]) -> list[float]:
    """Sum saliencies over the slices of every channel of a group."""
    total = torch.zeros(group.size, dtype=torch.double)
    for part in group.parts:
        value = values.get(f"{part.layer}.weight")
        if value is None or part.side not in sides:
            continue
        along = 0 if part.side == "out" else 1
        sums = value.sum([d for d in range(value.ndim) if d != along])  # one figure an index
        total += torch.stack([sums[list(own)].sum() for own in part.indices])
    scores: list[float] = (total / len(group.filters)).tolist()
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterTicket(Rival):
    """A network from which filters were removed, with the evidence for the choice."""

    kind: ClassVar[str] = "filters"

    removed: Mapping[str, tuple[int, ...]]
    """Filters that are gone, by the name of their convolution; coupled ones lose the same."""
    scores: Mapping[str, list[float]]
    """Score of every channel, higher = keep, by the first convolution of those coupled."""
    input_shape: tuple[int, ...]
    """Shape of one image the network is traced with."""

    def apply(self, model: nn.Module, *, initialization: Initialization = "ticket") -> nn.Module:
        """Remove the filters from a freshly built dense network; `model` is not modified.

        Args:
            model: A network of the architecture the filters were chosen in.
            initialization: `ticket`: the result starts at the recorded weights; `model`: at the
                values `model` has.

        Raises:
            LayerticketError: If the model's architecture is another one.
        """
        self._check(model, initialization)
        like = next(model.parameters())
        example = torch.zeros(1, *self.input_shape, dtype=like.dtype, device=like.device)
        small = without_channels(model, self.removed, example)
        if initialization == "ticket":
            small.load_state_dict(dict(self.init))
        return small

    @classmethod
    def _restored(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["removed"] = {name: tuple(gone) for name, gone in values["removed"].items()}
        values["input_shape"] = tuple(values["input_shape"])
        return values


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
