"""Is a ticket more robust than its dense network, and more than its clean accuracy explains?

Enters: clean and shifted accuracies of paired seeds. Leaves: paired differences with intervals.
Refuses to know files and runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerticket.errors import LayerticketError
from layerticket.study.statistics.verdict import mean_interval

__all__ = ["Difference", "ShiftedPair", "compare_shifted", "explained"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Ticket minus dense over paired seeds; fractions."""

    differences: tuple[float, ...]
    """One per seed."""
    mean: float
    std: float | None
    """Standard deviation of the differences (n - 1 below); None for one seed."""
    low: float | None
    """Lower end of the interval of the mean; None for one seed."""
    high: float | None
    """Upper end; None for one seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftedPair:
    """What paired seeds tell about one kind of shift."""

    n: int
    """Paired seeds."""
    confidence: float
    """Confidence of the two-sided intervals."""
    slope: float
    """As given to `compare_shifted`."""
    clean: Difference
    """Of the accuracy on the test images."""
    shifted: Difference
    """Of the accuracy on the shifted images."""
    relative: Difference | None
    """Of shifted / clean accuracy; None if a clean accuracy is 0."""
    at_equal_clean: Difference
    """Of the shifted accuracy, less what the change of the clean accuracy explains."""


def explained(
    clean_dense: float, shifted_dense: float, clean: float, *, slope: float, least: float
) -> float:
    """Shifted accuracy one expects of a network with another clean accuracy.

    Over many networks, clean and shifted accuracy lie near a line once both are on the scale
    ``logit(a) = ln(a / (1 - a))`` (Taori et al., 2020; Miller et al., 2021). The line here goes
    through the dense network:

        ``expected = sigmoid(logit(shifted_dense) + slope (logit(clean) - logit(clean_dense)))``

    Args:
        clean_dense: Clean accuracy of the dense network, in [0, 1].
        shifted_dense: Its shifted accuracy.
        clean: Clean accuracy of the other network.
        slope: Of the line; 1 moves both by the same amount on that scale.
        least: Accuracies are kept this far from 0 and 1, where the scale ends.

    Returns:
        The expected accuracy, in (0, 1); that of the dense network where the clean ones agree.

    References:
        Taori et al., "Measuring Robustness to Natural Distribution Shifts in Image
        Classification", NeurIPS 2020. arXiv:2007.00644. Differs: the line is not fitted to many
        models but goes through the paired dense network, with a slope that is given.
    """

    def logit(accuracy: float) -> float:
        kept = min(max(accuracy, least), 1 - least)
        return math.log(kept / (1 - kept))

    if clean == clean_dense:
        return shifted_dense
    return 1 / (1 + math.exp(-(logit(shifted_dense) + slope * (logit(clean) - logit(clean_dense)))))


def compare_shifted(
    dense: Sequence[tuple[float, float]],
    ticket: Sequence[tuple[float, float]],
    *,
    images: int,
    confidence: float = 0.95,
    slope: float = 1.0,
) -> ShiftedPair:
    """Compare tickets with dense networks of the same seeds on shifted images.

    Args:
        dense: (clean, shifted) accuracy of the dense networks, one pair per seed.
        ticket: The same of the tickets, in the same order of seeds.
        images: Number of images of the smaller set; half an image bounds accuracies off 0 and 1.
        confidence: Of the two-sided intervals, in (0, 1).
        slope: See `explained`.

    Returns:
        The differences with their intervals, as `study.statistics.verdict` computes.

    Raises:
        LayerticketError: If there are no pairs, or a figure is out of range.

    Example:
        >>> pair = compare_shifted([(0.9, 0.7), (0.8, 0.6)], [(0.9, 0.71), (0.8, 0.61)], images=100)
        >>> round(pair.at_equal_clean.mean, 4)
        0.01
    """
    _check(dense, ticket, images, confidence, slope)
    pairs = list(zip(dense, ticket, strict=True))
    usable = all(clean > 0 for clean, _ in (*dense, *ticket))
    relative = [t[1] / t[0] - d[1] / d[0] for d, t in pairs] if usable else None
    remaining = [
        shifted - explained(d[0], d[1], clean, slope=slope, least=0.5 / images)
        for d, (clean, shifted) in pairs
    ]
    return ShiftedPair(
        n=len(pairs),
        confidence=confidence,
        slope=slope,
        clean=_difference([t[0] - d[0] for d, t in pairs], confidence),
        shifted=_difference([t[1] - d[1] for d, t in pairs], confidence),
        relative=None if relative is None else _difference(relative, confidence),
        at_equal_clean=_difference(remaining, confidence),
    )


def _difference(values: Sequence[float], confidence: float) -> Difference:
    mean, std, low, high = mean_interval(values, confidence=confidence)
    return Difference(differences=tuple(values), mean=mean, std=std, low=low, high=high)


def _check(
    dense: Sequence[tuple[float, float]],
    ticket: Sequence[tuple[float, float]],
    images: int,
    confidence: float,
    slope: float,
) -> None:
    """Refuse input that no comparison can rest on."""
    if not dense or len(dense) != len(ticket):
        raise LayerticketError(
            f"there are {len(dense)} dense and {len(ticket)} ticket networks, but seeds are "
            "paired. Give one of each for every seed, in the same order."
        )
    odd = [value for pair in (*dense, *ticket) for value in pair if not 0 <= value <= 1]
    if odd:
        raise LayerticketError(f"an accuracy is {odd[0]}. Give fractions in [0, 1], not percent.")
    if images < 1 or not 0 < confidence < 1 or not 0 <= slope < math.inf:
        raise LayerticketError(
            f"images {images}, confidence {confidence}, slope {slope}: they must be at least 1, "
            "in (0, 1), and at least 0."
        )
