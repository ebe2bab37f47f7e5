"""What a network costs without some of its channels, counted without building it.

Filters, MACs and parameters are products of the channels a layer reads and writes, so they follow
from the dense network's own counts and from how many of either are left.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from layerticket.macs import module_macs
from layerticket.rivals.filters.coupling import Group

__all__ = ["Layer", "Tally", "count_filters"]


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
