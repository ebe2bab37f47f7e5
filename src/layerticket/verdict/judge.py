"""Judge a ticket against its dense network by the results of paired seeds, from any trainer."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layerticket.display import Shown, table_html
from layerticket.errors import LayerticketError
from layerticket.settings import check_margin
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
    """Outcome of a comparison; values and differences are in the given unit."""

    outcome: Outcome
    """wins: the interval shows that the ticket is less than the margin worse; loses: more."""
    difference: Difference
    """Ticket minus dense: mean, the deciding interval, and the interval over seeds only."""
    differences: tuple[float, ...]
    """Differences, one per seed."""
    spread: float | None
    """Standard deviation that the intervals use, at least the floor set by the resolution."""
    p_value: float | None
    """One-sided p-value of "worse by the margin or more"; None for one seed."""
    minimum_detectable: float | None
    """Distance of the true difference from the margin that is found with 80 % power."""
    seeds_needed: int | None
    """Total seeds that would decide with 80 % power; None if decided or no number would."""
    images_needed: int | None
    """Minimum number of test images, where no number of seeds decides."""
    caution: str | None
    """Caution about a decided outcome."""
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
    for new seeds on the same test images. If `correct` gives the answers on single images, it
    is ``m -+ sqrt((t s)^2 + (z e)^2)``, e the standard error from the choice of images, and holds
    for new seeds and new images of the same kind; it is never narrower. The ticket wins
    if the interval lies above -margin, loses if it lies below. One seed decides nothing.

    Args:
        dense: Results of the dense network: one per seed in order, or by seed.
        ticket: Results of the ticket, for the same seeds.
        margin: How much worse the ticket may be, in the unit of the results. 0.01, one percentage
            point, for accuracies; otherwise it must be given.
        confidence: Confidence of the two-sided interval, in (0, 1).
        lower_is_better: True for losses, errors, times.
        correct: Answers of the dense network and of the ticket: for every seed one number per
            test image, 1 for right and 0 for wrong. Their mean is the result of the seed.
        unit: "accuracy" for fractions in [0, 1], shown in percent; any other text is shown after
            the numbers.
        resolution: Step between two possible results, if known: 1 / number of test images. The
            interval never uses a deviation below ``resolution / sqrt(6)``, that of two uniform
            rounding errors, since a few equal differences prove little.

    Raises:
        LayerticketError: If seeds do not pair, or a number or option is out of range.

    Example:
        >>> judge([0.90, 0.91, 0.92], [0.905, 0.911, 0.921]).outcome
        'wins'
        >>> judge([2.31, 2.35], [2.36, 2.41], margin=0.1, lower_is_better=True, unit="nats").outcome
        'undecided'
    """
    before, after = _by_seed(dense), _by_seed(ticket)
    _check_seeds("dense and ticket results", before, after)
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
    # Rounded, so that 0.90 - 0.89 equals a margin of 0.01 in spite of rounding errors.
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
    """Return results by seed; results in a list are numbered from 0."""
    if isinstance(figures, Mapping):
        return dict(sorted(figures.items()))
    return dict(enumerate(figures))


def _check_seeds(what: str, one: Mapping[int, Any], other: Mapping[int, Any]) -> None:
    """Raise if the seeds of two sets of results differ."""
    alone = sorted(one.keys() ^ other.keys())
    if not one or alone:
        who = f"seed {alone[0]} has" if len(alone) == 1 else f"seeds {words.listed(alone)} have"
        named = f" ({who} no partner)" if one and other else ""
        raise LayerticketError(
            f"there are {len(one)} and {len(other)} {what}, but seeds must be paired{named}. Give "
            "one of each for every seed."
        )


def _check_figure(value: Any, unit: str) -> None:  # noqa: ANN401 - checked here
    """Raise if a value is not a valid result in this unit."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise LayerticketError(f"a result is {value!r}. Give plain numbers, one per seed.")
    number = float(value)
    if math.isnan(number):
        raise LayerticketError(words.NAN_RESULT)
    if unit == "accuracy" and not 0 <= number <= 1:
        raise LayerticketError(
            f"an accuracy is {value}. Give fractions in [0, 1], not percent, or name another "
            "unit: unit='nats'."
        )
    if math.isinf(number):
        raise LayerticketError(f"a result is {value}. Give finite numbers.")


def _margin(margin: float | None, unit: str) -> float:
    """Return the margin after checking it; accuracies have a default."""
    if margin is None:
        if unit != "accuracy":
            raise LayerticketError(
                f"margin is missing. Give how much worse the ticket may be, in {unit}."
            )
        return 0.01
    if not 0 <= margin < math.inf:
        raise LayerticketError(f"margin is {margin}, but it must be a number of at least 0.")
    return check_margin(margin) if unit == "accuracy" else margin


def _table(
    answers: Sequence[Mapping[int, Any]], before: Mapping[int, float], after: Mapping[int, float]
) -> Array:
    """Return the difference on every image (seeds, images), checked against the results."""
    dense, ticket = answers
    _check_seeds("answers of the dense network and the ticket", dense, ticket)
    _check_seeds("results and answers by seed", before, dense)
    rows: list[Array] = []
    for seed in before:
        try:
            pair = [np.asarray(of[seed], dtype=float) for of in (dense, ticket)]
        except (TypeError, ValueError) as err:
            raise LayerticketError(
                f"the answers of seed {seed} are not numbers ({err}). Give one number per test "
                "image: 1 for right, 0 for wrong."
            ) from err
        for one, figure in zip(pair, (before[seed], after[seed]), strict=True):
            # A difference of half an image comes from rounding.
            if one.ndim != 1 or not one.size or not abs(one.mean() - figure) <= 0.51 / one.size:
                raise LayerticketError(
                    f"the mean of the answers of seed {seed} is not its result, {figure:.6g}. Give "
                    "one number per test image: 1 for right, 0 for wrong."
                )
        if len({one.size for one in (*pair, *rows)}) > 1:
            raise LayerticketError(
                f"seed {seed} has answers for another number of images. All networks must be "
                "tested on the same images, in the same order."
            )
        rows.append(pair[1] - pair[0])
    return np.stack(rows)
