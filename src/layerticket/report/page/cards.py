"""The first screen: did the ticket win, what did it save, can I trust it?

Enters: a study. Leaves: one card for each ticket, as words and places. Judges nothing anew: every
figure and every outcome is taken from the comparisons.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from layerticket.report import words
from layerticket.report.figures.outcomes import full_label
from layerticket.study.statistics.pairing import failed_text

__all__ = ["Bar", "Card", "Line", "cards"]

FEW_SEEDS = 3
Study = Mapping[str, Any]
Comparison = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A small drawing of an interval; places in percent of its width."""

    low: float | None
    """Left end of the interval; None for one seed."""
    high: float | None
    """Right end."""
    mean: float
    """The mean."""
    zero: float
    """Where the dense network lies."""
    margin: float
    """Where the margin lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One figure or remark on a card."""

    text: str
    """What is said."""
    figure: str = ""
    """The figure, if there is one to set large."""
    detail: str = ""
    """The figures behind the remark."""
    good: bool | None = None
    """Whether it speaks for the ticket; None if it does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What the first screen says about one ticket."""

    label: str
    """Name of the ticket."""
    outcome: str
    """wins, loses or undecided, after the correction for many comparisons."""
    alone: str
    """The same, taken alone."""
    difference: str
    """Mean difference to dense."""
    interval: str
    """Its interval, or that there is none."""
    accuracies: tuple[str, str]
    """Of the dense network and of the ticket, mean over seeds."""
    sentence: str
    """The comparison in a sentence."""
    bar: Bar
    """The interval, drawn."""
    saved: list[Line]
    """What was saved."""
    trust: list[Line]
    """What speaks for and against trusting it."""


def cards(study: Study) -> list[Card]:
    """Make a card for every ticket that has a finished pair of runs.

    Args:
        study: The object of ``study.json``.

    Returns:
        The cards in the order of the study: the first is the one planned first, not the best.
    """
    tickets = [one for one in study["comparisons"] if one["role"] == "criterion" and one["n"]]
    return [_card(one, study) for one in tickets]


def _card(one: Comparison, study: Study) -> Card:
    difference = one["difference"]
    told = "one seed has no interval"
    if difference["low"] is not None:
        ends = f"{words.difference(difference['low'])} to {words.difference(difference['high'])}"
        told = f"{100 * study['confidence']:g} % interval {ends}"
    return Card(
        label=full_label(one, study),
        outcome=one["outcome_adjusted"],
        alone=one["outcome"],
        difference=words.difference(difference["mean"]),
        interval=told,
        accuracies=(
            words.accuracy(one["dense_accuracy"]["mean"]),
            words.accuracy(one["accuracy"]["mean"]),
        ),
        sentence=one["sentence"],
        bar=_bar(difference, study["margin"]),
        saved=_saved(one),
        trust=[*_lost(one), *_trust(one, study), *_failed(study)],
    )


def _bar(difference: Mapping[str, Any], margin: float) -> Bar:
    """Place an interval, 0 and the margin on one line."""
    places = [0.0, -margin, difference["mean"]]
    places += [difference[end] for end in ("low", "high") if difference[end] is not None]
    left, right = min(places), max(places)
    width = float(right - left) or 1.0

    def place(value: float | None) -> float:
        return 5 + 90 * float((value or 0.0) - left) / width

    known = difference["low"] is not None
    return Bar(
        low=place(difference["low"]) if known else None,
        high=place(difference["high"]) if known else None,
        mean=place(difference["mean"]),
        zero=place(0.0),
        margin=place(-margin),
    )


def _saved(one: Comparison) -> list[Line]:
    """List what was saved, the largest words first."""
    speed = one["speedup"]
    told = "" if speed["low"] is None else f"{speed['low']:.2f} to {speed['high']:.2f}"
    faster = None if speed["mean"] is None else speed["mean"] > 1
    lines = [
        Line(figure=words.saving(one["macs_saving"]), text="MACs", good=_positive(one, "macs")),
        Line(
            figure=words.ABSENT if speed["mean"] is None else f"{speed['mean']:.2f}×",
            text="speed, search and training",
            detail=told,
            good=faster,
        ),
    ]
    named = {"energy": "energy", "co2": "carbon", "memory": "peak memory", "params": "parameters"}
    lines += [
        Line(figure=words.saving(one[f"{key}_saving"]), text=name, good=_positive(one, key))
        for key, name in named.items()
    ]
    return lines


def _positive(one: Comparison, key: str) -> bool | None:
    value = one[f"{key}_saving"]
    return None if value is None else value > 0


def _lost(one: Comparison) -> Iterator[Line]:
    """Name the seeds without which nothing is decided."""
    if one["failed_seeds"]:
        seeds = f"{failed_text(one['failed_seeds'])}: undecided until repeated"
        yield Line(text=seeds, detail="what failed may be what is worst", good=False)


def _trust(one: Comparison, study: Study) -> Iterator[Line]:
    """List what speaks for the outcome and what against it."""
    n = one["n"]
    yield Line(text="1 paired seed" if n == 1 else f"{n} paired seeds", good=n >= FEW_SEEDS)
    many = one.get("comparisons") or 0
    if one["outcome_adjusted"] == one["outcome"] and one["outcome"] != "undecided" and many > 1:
        yield Line(text=f"stands after correction for {many} comparisons", good=True)
    elif one["outcome"] != "undecided" and many > 1:
        yield Line(text=f"does not stand after correction for {many} comparisons", good=False)
    if one["seeds_needed"]:
        yield Line(
            text=f"about {one['seeds_needed']} seeds in all would decide with 80 % power",
            detail="for a study planned anew: seeds added until it decides mislead",
        )
    found = one["minimum_detectable"]
    if found is not None:
        reach = f"{100 * found:.2f} pp beyond the margin would be found with 80 % power"
        yield Line(text=reach, good=found <= study["margin"] if study["margin"] else None)
    yield _among_random(one)
    for control in one.get("controls") or []:
        yield _control(one["method"], control)


def _control(method: str, control: Mapping[str, Any]) -> Line:
    """Say in a few words how a control does; its own sentence says it in full."""
    name = control["name"]
    do, are = ("do", "are") if control["plural"] else ("does", "is")
    told = {
        "as well": (f"{name} {do} as well", False),
        "better": (f"better than {name}", True),
    }
    text, good = told.get(control["outcome"], (f"not shown to beat {name}", None))
    if control["outcome"] == "as well" and control["difference"]["high"] < 0:
        text = f"{name} {are} better"
    found = f"{method} minus {name}: {words.interval(control['difference'])}"
    return Line(text=text, detail=found, good=good)


def _among_random(one: Comparison) -> Line:
    where = one["percentile"]
    if where is None:
        return Line(text="not held against random tickets", good=None)
    text = f"more accurate than {words.share(where)} of the random tickets"
    of = one["percentile_of"]
    if of["low"] is None:
        return Line(text=text, detail=f"{of['tickets']} drawn, in one seed", good=None)
    told = f"{of['tickets']} drawn; {words.share(of['low'])} to {words.share(of['high'])}"
    good = True if of["low"] > 0.5 else False if where <= 0.5 else None
    return Line(text=text, detail=told, good=good)


def _failed(study: Study) -> Iterator[Line]:
    runs = study["runs"]
    lost = sum(run["status"] == "failed" for run in runs)
    open_runs = sum(run["status"] in ("running", "waiting") for run in runs)
    if lost:
        yield Line(text=f"{lost} of {len(runs)} runs failed", good=False)
    if open_runs:
        yield Line(text=f"{open_runs} of {len(runs)} runs are not finished", good=None)
