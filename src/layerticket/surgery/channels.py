"""Find coupled channels by tracing with Torch-Pruning, and remove filters.

A *filter* is an output channel of a convolution.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.errors import LayerticketError, need
from layerticket.models.cifar_resnet import PaddedShortcut
from layerticket.modules import copy_of, preserved_modes

Side = Literal["out", "in"]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one layer in a group."""

    layer: str
    side: Side
    """`out`: the layer loses output channels; `in`: it loses input channels."""
    indices: tuple[tuple[int, ...], ...]
    """Indices in this layer, for each channel of the group."""


@dataclass(frozen=True, slots=True)
class Group:
    """Coupled channels: channel i must be removed from all layers of the group together."""

    root: str
    """A convolution whose filters are the channels."""
    size: int
    parts: tuple[Part, ...]
    filters: tuple[str, ...]
    """Convolutions that lose a filter with each channel, including the root."""


def coupled_channels(model: nn.Module, example: Tensor) -> tuple[Group, ...]:
    """Return the groups of removable channels, in the order of the network's modules.

    Every convolution is in at most one group; channels of the network's outputs are not included.
    The network is traced with `example`, images (N, C, H, W), and not modified. Shortcuts padded
    with zeros and grouped convolutions raise an error.
    """
    _check_traceable(model)
    copy = copy_of(model)
    with _traceable(copy):
        graph = _graph(copy, example)
        names = {id(module): name for name, module in copy.named_modules()}
        roots = graph.get_all_groups(root_module_types=[nn.Conv2d])
        found = [_group(graph, group, names) for group in roots]
    order = list(names.values())
    groups = sorted((g for g in found if g is not None), key=lambda g: order.index(g.root))
    if not groups:
        raise LayerticketError(
            f"no filter of this {type(model).__name__} can be removed: the outputs of all its "
            "convolutions are outputs of the network. Use --baseline weights."
        )
    return tuple(groups)


def without_channels(
    model: nn.Module, removed: Mapping[str, Iterable[int]], example: Tensor
) -> nn.Module:
    """Return a new, smaller network without the filters; `model` is not modified.

    Filters are given by convolution; of coupled convolutions, give all or only one.
    """
    given = {name: tuple(sorted(indices)) for name, indices in removed.items() if indices}
    groups = {name: group for group in coupled_channels(model, example) for name in group.filters}
    for name, indices in given.items():
        if name not in groups or not set(indices) < set(range(groups[name].size)):
            raise LayerticketError(
                f"filters {list(indices)} of {name!r} cannot be removed from this "
                f"{type(model).__name__}. Give the network they were found in."
            )
    chosen = {groups[name].root: indices for name, indices in given.items()}
    if odd := [n for n, i in given.items() if chosen[groups[n].root] != i]:
        raise LayerticketError(
            f"filters of {odd[0]!r} are coupled with those of {groups[odd[0]].root!r}, but other "
            "indices are given there. Give the same indices."
        )
    small = copy_of(model)
    with _traceable(small):
        graph = _graph(small, example)
        modules = dict(small.named_modules())
        prune = _library().prune_conv_out_channels
        for root, indices in chosen.items():
            graph.get_pruning_group(modules[root], prune, list(indices)).prune()
    small.zero_grad(set_to_none=True)
    return small


def _group(graph: Any, traced: Any, names: Mapping[int, str]) -> Group | None:  # noqa: ANN401
    """Return a group of Torch-Pruning; None if it includes outputs of the network."""
    size = len(traced[0].idxs)
    found: dict[tuple[str, Side], list[list[int]]] = defaultdict(lambda: [[] for _ in range(size)])
    filters: list[str] = []
    for item in traced:
        dependency, module = item.dep, item.dep.target.module
        # Torch-Pruning's functions are bound methods: `is` would always be false.
        reads = isinstance(module, (nn.Conv2d, nn.Linear)) and graph.is_in_channel_pruning_fn(
            dependency.handler
        )
        if not reads and not dependency.target.outputs:
            return None
        name = names.get(id(module))
        if name is None:  # an addition or a pooling, which has no weights
            continue
        side: Side = "in" if reads else "out"
        for index, channel in zip(item.idxs, item.root_idxs, strict=True):
            found[name, side][channel].append(index)
        if isinstance(module, nn.Conv2d) and not reads:
            filters.append(name)
    parts = tuple(
        Part(name, side, tuple(tuple(sorted(set(own))) for own in indices))
        for (name, side), indices in found.items()
    )
    straight = tuple((channel,) for channel in range(size))
    for part in parts:
        if part.side == "out" and part.layer in filters and part.indices != straight:
            raise LayerticketError(
                f"filters of {part.layer!r} are coupled with filters of other indices or only in "
                "part, which is not supported. Use another network, or --baseline weights."
            )
    order = list(names.values())
    first, *rest = sorted(set(filters), key=order.index)
    return Group(root=first, size=size, parts=parts, filters=(first, *rest))


def _check_traceable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, PaddedShortcut):
            raise LayerticketError(
                f"{name!r} is a shortcut padded with zeros (option A of He et al.), and tracing "
                "does not detect how it couples channels. Use the network with projection "
                "shortcuts, such as resnet32-projection."
            )
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups != 1:
            raise LayerticketError(
                f"{name!r} is a convolution with {module.groups} groups; filters can be removed "
                "only from ordinary convolutions. Use another network, or --baseline weights."
            )


def _library() -> Any:  # noqa: ANN401 - a module without types
    return need("torch_pruning", extra="filters", why="removing filters needs Torch-Pruning")


def _graph(model: nn.Module, example: Tensor) -> Any:  # noqa: ANN401
    """Trace the network."""
    return _library().DependencyGraph().build_dependency(model, example_inputs=example)


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Prepare a copy for tracing: gradients on, evaluation mode; restore both at the end."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    with preserved_modes(model), torch.enable_grad():
        model.eval().requires_grad_(True)
        try:
            yield
        finally:
            for name, parameter in model.named_parameters():  # pruning creates new ones
                parameter.requires_grad_(name not in frozen)
