"""What a study proves. Enters: the object of ``study.json``. Leaves: comparisons and a sentence.

Knows numbers only: reads no file, and no run beyond the figures in that object.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from layerticket.verdict.judge import Verdict, mean_interval, verdict
from layerticket.verdict.pairs import (
    Group,
    against_controls,
    among_random,
    groups,
    marked,
    paired,
    savings,
)
from layerticket.verdict.statistics import (
    bootstrap_interval,
    holm,
    minimum_detectable,
    outcome_after,
    p_margin,
)
from layerticket.verdict.words import comparison_sentence, study_sentence

NEW = ("role", "failed_seeds")  # of comparisons, since they were first written


def analyse(study: Mapping[str, Any]) -> dict[str, Any]:
    """Compare every method of a study with the dense network of the same seeds.

    For each model, budget and method: the paired differences with a t-interval (which judges) and
    a bootstrap interval, the p-value of non-inferiority before and after Holm's correction over
    all comparisons of the study, what was saved, and for tickets how they stand against random
    tickets and the other controls of equal cost.

    Args:
        study: The object of ``study.json``: "runs", "networks", "margin", "confidence",
            "test_images". It is not modified.

    Returns:
        "comparisons": one for each model, budget and method, in the order of the runs; a figure
        that the runs do not carry is None. "verdict": one sentence on the tickets.
    """
    found = groups(study)
    comparisons = [_comparison(group, study) for group in found]
    _correct(comparisons, study)
    for group, comparison in zip(found, comparisons, strict=True):
        rest = [other for other in found if other is not group]
        comparison |= among_random(group, rest, study["confidence"])
        comparison["controls"] = against_controls(
            group,
            rest,
            margin=study["margin"],
            confidence=study["confidence"],
            resolution=_resolution(study),
        )
        comparison["sentence"] = comparison_sentence(comparison, study["margin"])
    return {"comparisons": comparisons, "verdict": study_sentence(comparisons, study["margin"])}


def up_to_date(study: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a study anew whose comparisons an earlier version wrote.

    Args:
        study: The object of ``study.json``; it is not modified.

    Returns:
        The study with its rows marked; comparisons and verdict as they are, unless they lack what
        this version says of them.
    """
    current = {**study, "runs": marked(study)}
    old = any(key not in one for one in study["comparisons"] for key in NEW)
    return current | (analyse(current) if old else {})


def _comparison(group: Group, study: Mapping[str, Any]) -> dict[str, Any]:
    """Compare one method with the dense network; all null while no seed is paired."""
    pairs = paired(group, "test_accuracy")
    dense, method = [d for d, _ in pairs], [m for _, m in pairs]
    judged = None
    if pairs:
        judged = verdict(
            dense,
            method,
            margin=study["margin"],
            confidence=study["confidence"],
            resolution=_resolution(study),
        )
    return {
        "model": group.model,
        "budget": group.budget,
        "method": group.method,
        "kind": group.kind,
        "role": group.role,
        "reference": group.reference,
        "n": len(pairs),
        "seeds": group.seeds,
        "accuracy": _mean_std(method),
        "dense_accuracy": _mean_std(dense),
        "failed_seeds": group.failed,
        **_judgement(judged, held=bool(group.failed)),
        **savings(group, study["networks"].get(group.model), study["confidence"]),
        "evaluations": _evaluations(group, study),
        "similarity": _similarity(group),
    }


def _resolution(study: Mapping[str, Any], images: int | None = None) -> float:
    """Return the step between two accuracies on so many images; 0 if unknown."""
    counted = images or study["test_images"]
    return 1 / counted if counted else 0.0


def _mean_std(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": fmean(values) if values else None,
        "std": stdev(values) if len(values) > 1 else None,
    }


def _judgement(judged: Verdict | None, *, held: bool) -> dict[str, Any]:
    """Put the judgement of one comparison into the words of the study file.

    What is held stays undecided: seeds that failed are missing, and seldom at random.
    """
    if judged is None:
        ends = ("mean", "std", "low", "high", "bootstrap_low", "bootstrap_high")
        return {
            "difference": dict.fromkeys(ends),
            "outcome": "undecided",
            **dict.fromkeys(("p_value", "seeds_needed", "minimum_detectable", "spread")),
        }
    drawn = bootstrap_interval(judged.differences, confidence=judged.confidence)
    return {
        "difference": {
            "mean": judged.mean,
            "std": judged.std,
            "low": judged.low,
            "high": judged.high,
            "bootstrap_low": drawn and drawn[0],
            "bootstrap_high": drawn and drawn[1],
        },
        "outcome": "undecided" if held else judged.outcome,
        "p_value": p_margin(judged.mean, judged.spread, judged.n, judged.margin),
        "seeds_needed": judged.seeds_needed,
        "spread": judged.spread,
        "minimum_detectable": minimum_detectable(
            judged.spread, judged.n, confidence=judged.confidence
        ),
    }


def _correct(comparisons: list[dict[str, Any]], study: Mapping[str, Any]) -> None:
    """Correct for the number of comparisons, each direction with half of the error."""
    tested = [one for one in comparisons if one["p_value"] is not None]
    wins = holm([one["p_value"] for one in tested])
    loses = holm([1 - one["p_value"] for one in tested])
    adjusted = {id(one): pair for one, *pair in zip(tested, wins, loses, strict=True)}
    for one in comparisons:
        win, lose = adjusted.get(id(one), (None, None))
        one["p_adjusted"] = win
        one["comparisons"] = len(tested)
        after = outcome_after(win, lose, study["confidence"])
        one["outcome_adjusted"] = "undecided" if one["failed_seeds"] else after


def _evaluations(group: Group, study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Paired differences of every evaluation that both networks have."""
    every = [group.dense[seed] for seed in group.seeds]
    every += [run for seed in group.seeds for run in group.runs[seed]]
    found = {}
    for name in dict.fromkeys(name for run in every for name in run["evaluations"] or {}):
        differences = _differences_on(group, name)
        if differences:
            counts = [(run["evaluations"] or {}).get(name, {}).get("images") for run in every]
            images = min((count for count in counts if count), default=None)
            mean, std, low, high = mean_interval(
                differences,
                confidence=study["confidence"],
                resolution=_resolution(study, images),
            )
            found[name] = {"mean": mean, "std": std, "low": low, "high": high}
            found[name]["n"] = len(differences)
    return found


def _differences_on(group: Group, name: str) -> list[float]:
    """Differences of one evaluation, of the seeds where every run has it."""
    differences = []
    for seed in group.seeds:
        dense = _accuracy_on(group.dense[seed], name)
        values = [_accuracy_on(run, name) for run in group.runs[seed]]
        known = [value for value in values if value is not None]
        if dense is not None and len(known) == len(values):
            differences.append(fmean(known) - dense)
    return differences


def _accuracy_on(run: Mapping[str, Any], name: str) -> float | None:
    evaluated = (run["evaluations"] or {}).get(name)
    return None if evaluated is None else evaluated.get("accuracy")


def _similarity(group: Group) -> float | None:
    """Mean similarity to the dense network, of the runs where it was measured."""
    values = [
        run["similarity"]["mean"]
        for seed in group.seeds
        for run in group.runs[seed]
        if run["similarity"] is not None and run["similarity"]["mean"] is not None
    ]
    return fmean(values) if values else None
