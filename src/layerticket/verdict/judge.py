"""Judge a ticket against its dense network by figures of paired seeds, from any trainer."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layerticket.display import Shown, table_html
from layerticket.errors import LayerticketError
from layerticket.verdict import words
from layerticket.verdict.statistics import (
    Array,
    Difference,
    Outcome,
    estimate,
    images_for,
    minimum_detectable,
    outcome_of,
    p_value,
    seeds_for,
)

BySeed = Sequence[Any] | Mapping[int, Any]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Verdict(Shown):
    """Outcome of a comparison; figures and differences are in the unit that was given."""

    outcome: Outcome
    """Wins: the interval shows the ticket to be less than the margin worse; loses: more."""
    difference: Difference
    """Ticket minus dense: mean, the interval that judges, and the interval over seeds alone."""
    differences: tuple[float, ...]
    """One per seed."""
    spread: float | None
    """What the intervals use: the deviation, or the floor set by the resolution if larger."""
    p_value: float | None
    """One-sided p-value of "worse by the margin or more"; None for one seed."""
    minimum_detectable: float | None
    """How far beyond the margin the truth must lie to be found with 80 % power."""
    seeds_needed: int | None
    """Seeds in all that would decide with 80 % power; None if decided or if no number would."""
    images_needed: int | None
    """Test images it takes at least where no number of seeds decides."""
    caution: str | None
    """What to keep in mind about a decided outcome."""
    margin: float
    """How much worse the ticket may be and still win."""
    confidence: float
    """Confidence of the two-sided intervals."""
    lower_is_better: bool
    unit: str

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return words.verdict_sentence(self)

    def __str__(self) -> str:
        return self.sentence

    def _headline(self) -> str:
        return f"{self.outcome.capitalize()}, over {words.basis(self.difference)}"

    def _facts(self) -> dict[str, object]:
        return words.verdict_facts(self)

    def _repr_html_(self) -> str:
        found, sign = self.difference, 1 if self.lower_is_better else -1
        picture = words.strip(found, sign * self.margin)
        head = f"<b>{self.outcome.capitalize()}</b> {picture}"
        return head + table_html((), [("", self.sentence), *self._facts().items()])


def judge(
    dense: BySeed,
    ticket: BySeed,
    *,
    margin: float | None = None,
    confidence: float = 0.95,
    lower_is_better: bool = False,
    correct: tuple[BySeed, BySeed] | None = None,
    unit: str = "accuracy",
    resolution: float = 0.0,
) -> Verdict:
    """Judge whether a ticket is less than a margin worse than its dense network.

    A paired test of non-inferiority: with d = ticket - dense of n seeds, mean m and standard
    error s, the interval is ``m -+ t s`` with Student's t of n - 1 degrees of freedom. It holds
    for new seeds on the same test images. Where `correct` tells the answers on single images, it
    is ``m -+ sqrt((t s)^2 + (z e)^2)``, e the standard error from the choice of images, and holds
    for new seeds and new images of the same kind; it is never the narrower one. The ticket wins
    if the interval lies above -margin, loses if it lies below. One seed decides nothing.

    Args:
        dense: Figures of the dense network: one per seed in order, or by seed.
        ticket: Figures of the ticket, for the same seeds.
        margin: How much worse the ticket may be, in the unit of the figures. 0.01, one percentage
            point, for accuracies; otherwise it must be given.
        confidence: Of the two-sided interval, in (0, 1).
        lower_is_better: For losses, errors, times.
        correct: Answers of the dense network and of the ticket: for every seed one figure per
            test image, 1 for right and 0 for wrong. Their mean is the figure of the seed.
        unit: "accuracy" for fractions in [0, 1], shown in percent; any other text is shown after
            the numbers.
        resolution: Step between two figures, if known: 1 / number of test images. The interval is
            never based on a deviation below ``resolution / sqrt(6)``, that of two uniform rounding
            errors; three equal differences prove less than they seem to.

    Raises:
        LayerticketError: If seeds do not pair, or a figure or option is out of range.

    Example:
        >>> judge([0.90, 0.91, 0.92], [0.905, 0.911, 0.921]).outcome
        'wins'
        >>> judge([2.31, 2.35], [2.36, 2.41], margin=0.1, lower_is_better=True, unit="nats").outcome
        'undecided'
    """
    before, after = _by_seed(dense), _by_seed(ticket)
    _check_seeds("dense and ticket figures", before, after)
    for value in (*before.values(), *after.values()):
        _check_figure(value, unit)
    margin = _margin(margin, unit)
    for name, number, holds, allowed in (
        ("confidence", confidence, 0 < confidence < 1, "in (0, 1)"),
        ("resolution", resolution, 0 <= resolution < math.inf, "at least 0"),
    ):
        if not holds:
            raise LayerticketError(f"{name} is {number}, but it must be {allowed}.")
    table = None if correct is None else _table([_by_seed(one) for one in correct], before, after)
    # Rounded, so that 0.89 against 0.90 is a margin of 0.01 and not a rounding error beyond it.
    differences = tuple(round(after[seed] - before[seed], 12) for seed in before)
    found = estimate(differences, resolution=resolution, table=table)
    gain = replace(found, mean=-found.mean) if lower_is_better else found
    outcome = outcome_of(gain, margin, confidence)
    undecided = outcome == "undecided"
    return Verdict(
        outcome=outcome,
        difference=found.difference(confidence),
        differences=differences,
        spread=found.spread,
        p_value=p_value(gain, margin),
        minimum_detectable=minimum_detectable(gain, confidence),
        seeds_needed=seeds_for(gain, margin, confidence) if undecided else None,
        images_needed=images_for(gain, margin, confidence) if undecided else None,
        caution=words.TWO_SEEDS if found.n == 2 and outcome == "wins" else None,
        margin=margin,
        confidence=confidence,
        lower_is_better=lower_is_better,
        unit=unit,
    )


def _by_seed(figures: BySeed) -> dict[int, Any]:
    """Number figures that are given in order; sort those given by seed."""
    if isinstance(figures, Mapping):
        return dict(sorted(figures.items()))
    return dict(enumerate(figures))


def _check_seeds(what: str, one: Mapping[int, Any], other: Mapping[int, Any]) -> None:
    """Refuse figures whose seeds do not pair."""
    alone = sorted(one.keys() ^ other.keys())
    if not one or alone:
        named = f" (seed {words.listed(alone)} stands alone)" if one and other else ""
        raise LayerticketError(
            f"there are {len(one)} and {len(other)} {what}, but seeds are paired{named}. Give one "
            "of each for every seed."
        )


def _check_figure(value: Any, unit: str) -> None:  # noqa: ANN401 - it is looked at here
    """Refuse what is no figure of this unit."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise LayerticketError(f"a figure is {value!r}. Give plain numbers, one per seed.")
    number = float(value)
    if math.isnan(number):
        raise LayerticketError(
            "a figure is NaN: that run has no result, so nothing is decided. Run it again; leaving "
            "its seed out would favour the network that failed."
        )
    if unit == "accuracy" and not 0 <= number <= 1:
        raise LayerticketError(
            f"an accuracy is {value}. Give fractions in [0, 1], not percent, or name the unit of "
            "other figures: unit='nats'."
        )
    if math.isinf(number):
        raise LayerticketError(f"a figure is {value}. Give finite numbers.")


def _margin(margin: float | None, unit: str) -> float:
    """Check a margin; accuracies have one by default."""
    if margin is None:
        if unit != "accuracy":
            raise LayerticketError(
                f"margin is missing. Say how much worse the ticket may be, in {unit}."
            )
        return 0.01
    if not 0 <= margin < math.inf:
        raise LayerticketError(f"margin is {margin}, but it must be a number of at least 0.")
    if unit == "accuracy" and margin >= 0.5:
        raise LayerticketError(
            f"margin is {margin}, but accuracies are fractions: 0.005 is half a percentage point. "
            "Give less than 0.5."
        )
    return margin


def _table(
    answers: Sequence[Mapping[int, Any]], before: Mapping[int, float], after: Mapping[int, float]
) -> Array:
    """Difference on every image (seeds, images), checked against the figures."""
    dense, ticket = answers
    _check_seeds("answers of the dense network and the ticket", dense, ticket)
    _check_seeds("figures and answers by seed", before, dense)
    rows: list[Array] = []
    for seed in before:
        try:
            pair = [np.asarray(of[seed], dtype=float) for of in (dense, ticket)]
        except (TypeError, ValueError) as err:
            raise LayerticketError(
                f"the answers of seed {seed} are no numbers ({err}). Give one number per test "
                "image: 1 for right, 0 for wrong."
            ) from err
        for one, figure in zip(pair, (before[seed], after[seed]), strict=True):
            # Half an image off is a figure that was rounded.
            if one.ndim != 1 or not one.size or not abs(one.mean() - figure) <= 0.51 / one.size:
                raise LayerticketError(
                    f"the answers of seed {seed} do not average to its figure, {figure:.6g}. Give "
                    "one number per test image: 1 for right, 0 for wrong."
                )
        if len({one.size for one in (*pair, *rows)}) > 1:
            raise LayerticketError(
                f"the answers of seed {seed} are for another number of images. All networks must "
                "answer the same test images, in the same order."
            )
        rows.append(pair[1] - pair[0])
    return np.stack(rows)
