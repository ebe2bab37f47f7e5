"""Is a ticket more than a shallower network? Enters: paired runs. Leaves: plain answers.

A criterion earns its name only against what costs the same without one: random blocks, the last
blocks, a standard shallower network, the dense network trained for less time.
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Literal

from layerticket.study.statistics.many import percentile
from layerticket.study.statistics.pairing import Group
from layerticket.study.statistics.verdict import mean_interval

__all__ = ["CONTROLS", "CRITERIA", "against_controls", "among_random", "plural"]

CRITERIA = ("ticket", "lottery")
CONTROLS = ("control", "shallower", "equal_compute")
RANDOM = "random blocks"


def plural(label: str) -> bool:
    """Whether a label takes the verb in the plural."""
    return label.endswith("blocks")


def is_random(group: Group) -> bool:
    """Whether a group holds the tickets whose blocks were drawn at random."""
    return group.kind == "control" and group.method.startswith(RANDOM)


def _beside(group: Group, others: Sequence[Group]) -> list[Group]:
    """Pick the groups of the same model and budget."""
    return [one for one in others if (one.model, one.budget) == (group.model, group.budget)]


def among_random(group: Group, others: Sequence[Group], confidence: float) -> dict[str, Any]:
    """Say at which percentile among random tickets of equal cost a criterion stands.

    Args:
        group: The tickets of one criterion.
        others: All other groups of the study.
        confidence: Of the interval.

    Returns:
        "percentile" in [0, 1], and "percentile_of" with its interval and numbers of tickets and
        seeds; both None without random tickets, and for what is no criterion.
    """
    randoms = [one for one in _beside(group, others) if is_random(one)]
    seeds = [s for s in group.seeds if any(s in one.runs for one in randoms)]
    if group.kind not in CRITERIA or not seeds:
        return {"percentile": None, "percentile_of": None}
    found = percentile(
        [_accuracy(group, seed) for seed in seeds],
        [
            [run["test_accuracy"] for one in randoms for run in one.runs.get(seed, ())]
            for seed in seeds
        ],
        confidence=confidence,
    )
    return {"percentile": found.share, "percentile_of": asdict(found)}


def _accuracy(group: Group, seed: int) -> float:
    """Accuracy of a seed; draws averaged."""
    return fmean(run["test_accuracy"] for run in group.runs[seed])


def against_controls(
    group: Group, others: Sequence[Group], *, margin: float, confidence: float
) -> list[dict[str, Any]]:
    """Hold the tickets of a criterion against every control of the same model and budget.

    With d = criterion - control of n shared seeds and the t-interval of its mean: the control
    does *as well* if the interval lies below the margin, the criterion is *better* if it lies
    above 0, and neither is shown otherwise. A difference that is real but smaller than the
    margin counts as "as well", and the sentence says both.

    Args:
        group: The tickets of one criterion.
        others: All other groups of the study.
        margin: Difference in accuracy that would matter, as a fraction.
        confidence: Of the interval.

    Returns:
        One answer for each control, with a sentence; empty for what is no criterion.
    """
    if group.kind not in CRITERIA:
        return []
    controls = [one for one in _beside(group, others) if one.kind in CONTROLS]
    return [
        _answer(group, control, margin, confidence)
        for control in controls
        if set(control.seeds) & set(group.seeds)
    ]


def _answer(group: Group, control: Group, margin: float, confidence: float) -> dict[str, Any]:
    seeds = sorted(set(group.seeds) & set(control.seeds))
    differences = [round(_accuracy(group, s) - _accuracy(control, s), 12) for s in seeds]
    mean, std, low, high = mean_interval(differences, confidence=confidence)
    outcome = _outcome(low, high, margin)
    interval = {"mean": mean, "std": std, "low": low, "high": high}
    return {
        "method": control.method,
        "kind": control.kind,
        "n": len(seeds),
        "difference": interval,
        "outcome": outcome,
        "sentence": _sentence(group.method, control.method, interval, outcome, margin, len(seeds)),
    }


Answer = Literal["as well", "better", "not shown"]


def _outcome(low: float | None, high: float | None, margin: float) -> Answer:
    if low is None or high is None:
        return "not shown"
    if high < margin:
        return "as well"
    return "better" if low > 0 else "not shown"


def _sentence(
    criterion: str,
    control: str,
    difference: dict[str, float | None],
    outcome: Answer,
    margin: float,
    n: int,
) -> str:
    """Say plainly whether the control does as well."""
    mean, low, high = (difference[end] for end in ("mean", "low", "high"))
    text = f"{criterion} minus {control}: {100 * (mean or 0):+.2f} pp"
    if low is None or high is None:
        return f"{text} in one seed, which decides nothing."
    text += f" ({100 * low:+.2f} to {100 * high:+.2f} pp, n = {n})"
    if outcome == "better":
        return f"{criterion} is better than {control}. {text}."
    if outcome == "not shown":
        return f"Not shown whether {control} would do as well as {criterion}. {text}."
    do, are = ("do", "are") if plural(control) else ("does", "is")
    real = "; the difference is real but smaller than that" if low > 0 else ""
    if high < 0:
        real = f"; {control} {are} even better"
    return f"{control} {do} as well as {criterion}, within {100 * margin:g} pp{real}. {text}."
