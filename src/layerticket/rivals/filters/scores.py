"""What a channel is worth: the saliencies of the weights that would go with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import Batch
from layerticket.errors import LayerticketError, unknown_name
from layerticket.rivals.filters.coupling import Group
from layerticket.rivals.saliency import Saliency

__all__ = ["FILTER_CRITERIA", "FilterCriterion"]

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
