"""Test whether scores rank blocks consistently over initializations and batches.

Letters: S seeds of theta_0, K batches per seed, B blocks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import combine_pvalues
from torch import nn

from layerticket.batch import Batch, head, inputs_of
from layerticket.blocks.block import Granularity
from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError
from layerticket.scoring import score
from layerticket.verdict.statistics import kendall_w

LEVEL = 0.05
"""Rankings agree if the p-value of their agreement is below this level."""


def ranking_stability(
    build: Callable[[int], nn.Module],
    draw: Callable[[int], Batch],
    *,
    criterion: str = "grasp",
    seeds: int = 3,
    batches: int = 3,
    granularity: Granularity = "block",
    **options: Any,  # noqa: ANN401 - the criterion's own, see `score`
) -> dict[str, Any]:
    """Score the blocks of a network over several initializations and batches, and compare.

    Args:
        build: Returns the network with theta_0 drawn by the given seed.
        draw: Returns the batch with the given number.
        criterion: A registered name; `random` is drawn again for every batch.
        seeds: Number of initializations S, at least 2.
        batches: Number of batches K per initialization, at least 2.
        granularity: "block" or "branch".
        **options: Options of `score`.

    Returns:
        The record of `stability_of`, with `criterion`, `blocks` and `scores`: per seed and batch,
        the score of every block in the order of `blocks`. Cost: S K scorings.

    Raises:
        LayerticketError: If there are too few seeds, batches or blocks, or scoring fails.
    """
    if seeds < 2 or batches < 2:
        raise LayerticketError(
            f"seeds is {seeds} and batches is {batches}; give at least 2 of each, to separate "
            "noise from differences."
        )
    table: list[list[list[float]]] = []
    names: list[str] = []
    for seed in range(seeds):
        model = build(seed)
        blocks = find_blocks(model, head(inputs_of(draw(0)), 1), granularity=granularity)
        names = [block.name for block in blocks]
        rows = []
        for number in range(batches):
            own: dict[str, Any] = {"draw": seed * batches + number} if criterion == "random" else {}
            values = score(model, blocks, draw(number), criterion, **own, **options).values
            rows.append([values[name] for name in names])
        table.append(rows)
    return {"criterion": criterion, "blocks": names, "scores": table} | stability_of(
        np.array(table)
    )


def stability_of(scores: NDArray[np.float64]) -> dict[str, Any]:
    """Compare the differences between blocks with the noise of batches and initializations.

    Scores are divided by the mean of their absolute values over the blocks of one scoring, since a
    common factor does not change a ranking. `between` is the variance over blocks within an
    initialization (minus its noise), `noise` that over batches, `position` the variance over blocks
    of the overall means. Agreement is Kendall's W (1: always the same ranking; about 1 / m for m
    independent rankings). Its p-value is Friedman's test, over batches within each initialization
    (combined by Fisher's method) and over initializations.

    Args:
        scores: (S, K, B), S >= 2, K >= 2, B >= 3.

    Returns:
        `between`, `noise`, `position`, `signal_to_noise`, `relative_spread` (standard deviation
        over blocks of the mean scores), `agreement` and `p_value` for `batches` and for `seeds`,
        `lowest` (share of scorings whose lowest block is the most frequent lowest block of that
        initialization), `outcome` (`any`, `seed` or `position`) and `sentence`.

    Raises:
        LayerticketError: If there are fewer than 3 blocks.

    References:
        [1] Kendall and Babington Smith, "The Problem of m Rankings", 1939.
        [2] Friedman, "The Use of Ranks to Avoid the Assumption of Normality", 1937.
    """
    seeds, batches, count = scores.shape
    if count < 3:
        raise LayerticketError(
            f"the network has {count} removable blocks; a ranking needs at least 3 to compare."
        )
    relative = scores / np.abs(scores).mean(-1, keepdims=True)
    means = relative.mean(1)
    noise = float(relative.var(1, ddof=1).mean())
    between = max(0.0, float(means.var(1, ddof=1).mean()) - noise / batches)
    within = [kendall_w(of_one) for of_one in scores]
    across, p_across = kendall_w(means)
    combined = float(combine_pvalues([p for _, p in within]).pvalue)
    found: dict[str, Any] = {
        "between": between,
        "noise": noise,
        "position": float(means.mean(0).var(ddof=1)),
        "signal_to_noise": between / noise if noise > 0 else None,
        "relative_spread": float(means.mean(0).std(ddof=1)),
        "agreement": {"batches": float(np.mean([w for w, _ in within])), "seeds": across},
        "p_value": {"batches": combined, "seeds": p_across},
        "lowest": _lowest(scores),
    }
    outcome = "any" if combined >= LEVEL else "seed" if p_across >= LEVEL else "position"
    return found | {"outcome": outcome, "sentence": _sentence(outcome, found, seeds, batches)}


def _lowest(scores: NDArray[np.float64]) -> float:
    """Return the share of batches of a seed in which the same block has the lowest score."""
    lowest = scores.argmin(-1)
    return float(np.mean([np.bincount(of_one).max() / len(of_one) for of_one in lowest]))


def _sentence(outcome: str, found: dict[str, Any], seeds: int, batches: int) -> str:
    """Return the outcome in words."""
    p, w = found["p_value"], found["agreement"]
    conditions = f"{seeds} initializations, {batches} batches each"
    if outcome == "any":
        return (
            f"Any block would do: another batch ranks the blocks as if at random (agreement "
            f"{w['batches']:.2f}, p = {p['batches']:.2g}; {conditions})."
        )
    if outcome == "seed":
        return (
            f"The scores rank the blocks of one initialization (agreement over batches "
            f"{w['batches']:.2f}, p = {p['batches']:.2g}), but another initialization ranks them "
            f"differently (agreement {w['seeds']:.2f}, p = {p['seeds']:.2g}): by position, any "
            f"block would do ({conditions})."
        )
    return (
        f"The scores tell blocks apart: rankings agree over batches ({w['batches']:.2f}, p = "
        f"{p['batches']:.2g}) and over initializations ({w['seeds']:.2f}, p = {p['seeds']:.2g}; "
        f"{conditions}). Over blocks they vary by {found['relative_spread']:.0%} of their mean."
    )
