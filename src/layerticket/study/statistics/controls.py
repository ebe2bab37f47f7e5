"""Is a ticket more than a shallower network? Enters: paired runs. Leaves: plain answers.

A criterion earns its name only against what costs the same without one: random blocks, the last
blocks, a standard shallower network, the dense network trained for less time.
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Literal

from layerticket.study.statistics.many import percentile
from layerticket.study.statistics.pairing import Group, failed_text
from layerticket.study.statistics.verdict import mean_interval

__all__ = ["against_controls", "among_random", "spoken"]

TICKETS = ("ticket", "lottery")
ALIKE = 0.05
"""Costs that differ by no more than this share count as equal."""


def spoken(control: Group) -> str:
    """Name a control so that readers know what it is; a label of the user's own stays."""
    if control.kind in TICKETS and control.reference is not None:
        return f"the same shape with new weights ({control.method})"
    if control.kind in TICKETS:
        return f"tickets drawn at random ({control.method})"
    known = {
        "shallower": "a plain shallower network",
        "dense, equal compute": "the dense network at equal compute",
    }
    return known.get(control.method, control.method)


def _plural(name: str) -> bool:
    """Whether a name takes the verb in the plural."""
    return name.endswith("blocks") or name.startswith("tickets drawn")


def _beside(group: Group, others: Sequence[Group]) -> list[Group]:
    """Pick the controls of the same model and budget that were matched to this one, or cost it."""
    return [
        one
        for one in others
        if (one.model, one.budget) == (group.model, group.budget)
        and one.role == "control"
        and _belongs(one, group)
    ]


def _belongs(control: Group, group: Group) -> bool:
    """Whether a control is one of this ticket's: matched to it, or of equal cost."""
    if control.reference == group.method:
        return True
    if control.kind in TICKETS and control.reference is not None:
        return False  # the shape of another ticket
    compute = control.kind == "equal_compute"
    own, other = (_cost(one, compute=compute) for one in (group, control))
    return own is not None and other is not None and abs(other - own) <= ALIKE * own


def _cost(group: Group, *, compute: bool) -> float | None:
    """MACs of the network, times epochs where compute was matched; None if unknown."""
    runs = [run for seed in group.seeds for run in group.runs[seed]]
    if not runs or any(run[key] is None for run in runs for key in ("macs", "epochs")):
        return None
    return fmean(run["macs"] * (run["epochs"] if compute else 1) for run in runs)


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
    randoms = [one for one in _beside(group, others) if one.drawn]
    seeds = [s for s in group.seeds if any(s in one.runs for one in randoms)]
    if group.role != "criterion" or not seeds:
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
    group: Group,
    others: Sequence[Group],
    *,
    margin: float,
    confidence: float,
    resolution: float = 0.0,
) -> list[dict[str, Any]]:
    """Hold the tickets of a criterion against every control of the same model, budget and cost.

    With d = criterion - control of n shared seeds and the t-interval of its mean: the control
    does *as well* if the interval lies below the margin, the criterion is *better* if it lies
    above 0, and neither is shown otherwise. A difference that is real but smaller than the
    margin counts as "as well", and the sentence says both. Answers are not corrected for their
    number.

    Args:
        group: The tickets of one criterion.
        others: All other groups of the study.
        margin: Difference in accuracy that would matter, as a fraction.
        confidence: Of the interval.
        resolution: As in `verdict`.

    Returns:
        One answer for each control, with a sentence; empty for what is no criterion.
    """
    if group.role != "criterion":
        return []
    return [
        _answer(group, control, margin, confidence, resolution)
        for control in _beside(group, others)
        if set(control.seeds) & set(group.seeds)
    ]


def _answer(
    group: Group, control: Group, margin: float, confidence: float, resolution: float
) -> dict[str, Any]:
    seeds = sorted(set(group.seeds) & set(control.seeds))
    differences = [round(_accuracy(group, s) - _accuracy(control, s), 12) for s in seeds]
    mean, std, low, high = mean_interval(differences, confidence=confidence, resolution=resolution)
    lost = sorted({*group.failed, *control.failed})
    outcome: Answer = "not shown" if lost else _outcome(low, high, margin)
    interval = {"mean": mean, "std": std, "low": low, "high": high}
    name = spoken(control)
    return {
        "method": control.method,
        "name": name,
        "plural": _plural(name),
        "kind": control.kind,
        "n": len(seeds),
        "difference": interval,
        "outcome": outcome,
        "failed_seeds": lost,
        "sentence": _sentence(group.method, name, interval, outcome, margin, len(seeds))
        + (f" Nothing is shown while {failed_text(lost)}." if lost else ""),
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
    do, are = ("do", "are") if _plural(control) else ("does", "is")
    real = "; the difference is real but smaller than that" if low > 0 else ""
    if high < 0:
        real = f"; {control} {are} even better"
    told = f"{control} {do} as well as {criterion}, within {100 * margin:g} pp{real}. {text}."
    return told[0].upper() + told[1:] if control.startswith(("a ", "the ", "tickets ")) else told
