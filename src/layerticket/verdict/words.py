"""What was found, in words. Enters: comparisons. Leaves: sentences; differences in pp."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from layerticket.verdict.pairs import failed_text

Comparison = Mapping[str, Any]


def comparison_sentence(comparison: Comparison, margin: float) -> str:
    """Say how one method compares with the dense network.

    Args:
        comparison: One of those `analyse` returns.
        margin: Tolerated loss of accuracy, as a fraction.

    Returns:
        One English sentence.
    """
    name, difference, n = comparison["method"], comparison["difference"], comparison["n"]
    lost = comparison["failed_seeds"]
    if not n:
        why = f"; {failed_text(lost)}" if lost else ""
        return f"{name}: no run is finished beside a dense one of the same seed{why}."
    mean, low, high = (difference[end] for end in ("mean", "low", "high"))
    if low is None or high is None:
        why = f"; {failed_text(lost)}" if lost else ""
        return f"{name} is undecided: {100 * mean:+.2f} pp in one seed, which decides nothing{why}."
    found = (
        f"{100 * mean:+.2f} pp against dense over {n} paired seeds "
        f"({100 * low:+.2f} to {100 * high:+.2f} pp)"
    )
    if lost:
        return (
            f"{name} is undecided: {found}, but {failed_text(lost)}, and what failed may be what "
            "is worst."
        )
    return f"{name} {_judged(comparison, found, margin)}."


def _judged(comparison: Comparison, found: str, margin: float) -> str:
    """Say what an interval shows; an outcome has to stand after the correction."""
    xi, outcome = f"{100 * margin:g} pp", comparison["outcome"]
    if outcome == "undecided":
        needed = comparison["seeds_needed"]
        more = f"; about {needed} seeds in all would decide with 80 % power" if needed else ""
        return f"is undecided: {found} holds the margin of {xi}{more}"
    side = "less" if outcome == "wins" else "more"
    if comparison["outcome_adjusted"] == outcome:
        return f"{outcome}: {found}, so it is {side} than {xi} worse"
    return (
        f"is undecided: taken alone it {outcome}, {found}, but corrected for the study's "
        f"{comparison['comparisons']} comparisons this is not certain"
    )


def study_sentence(comparisons: Sequence[Comparison], margin: float) -> str:
    """Say in one sentence whether the tickets of a study won, and what they saved.

    Args:
        comparisons: Those of the study.
        margin: Tolerated loss of accuracy, as a fraction.

    Returns:
        One English sentence.
    """
    tickets = [one for one in comparisons if one["role"] == "criterion"]
    judged = [one for one in tickets if one["n"]]
    if not tickets and any(one["kind"] in ("ticket", "lottery") for one in comparisons):
        return "No verdict: the study's tickets are controls; none was found by a criterion."
    if not tickets:
        return "No verdict: the study has no tickets."
    if not judged:
        return "No verdict yet: no ticket is finished beside a dense network of the same seed."
    return _one(judged[0], margin) if len(judged) == 1 else _several(judged, margin)


def _one(ticket: Comparison, margin: float) -> str:
    words = {"wins": "wins", "loses": "loses", "undecided": "neither wins nor loses yet"}
    difference = ticket["difference"]
    text = f"The {ticket['method']} ticket {words[ticket['outcome_adjusted']]} at a margin of "
    text += f"{100 * margin:g} pp: {100 * difference['mean']:+.2f} pp"
    if difference["low"] is not None:
        text += f" ({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f})"
    text += f" over {_seeds(ticket['n'])}{_saved([ticket])}"
    if ticket["outcome_adjusted"] != ticket["outcome"]:
        text += f"; taken alone it {ticket['outcome']}, but not after correction for "
        text += f"{ticket['comparisons']} comparisons"
    return f"{text}{_lost([ticket])}{_equals([ticket])}."


def _several(tickets: Sequence[Comparison], margin: float) -> str:
    counts = Counter(one["outcome_adjusted"] for one in tickets)
    alone = sum(one["outcome"] == "wins" for one in tickets)
    all_win = counts["wins"] == len(tickets)
    every = "Both" if len(tickets) == 2 else f"All {len(tickets)}"
    text = every if all_win else f"{counts['wins'] or 'None'} of {len(tickets)}"
    text += f" tickets {'wins' if counts['wins'] == 1 else 'win'} at a margin of "
    text += f"{100 * margin:g} pp"
    if alone:
        before = "" if alone == counts["wins"] else f"; {alone} taken alone"
        text += f" (after correction for {tickets[0]['comparisons']} comparisons{before})"
    if not all_win:
        lost, unclear = counts["loses"], counts["undecided"]
        text += f", {lost or 'none'} {'loses' if lost < 2 else 'lose'} and "
        text += f"{unclear or 'none'} {'is' if unclear < 2 else 'are'} undecided"
    fewest, most = (pick(one["n"] for one in tickets) for pick in (min, max))
    text += f", over {_seeds(most) if fewest == most else f'{fewest} to {most} paired seeds'}"
    return text + f"{_saved(tickets)}{_lost(tickets)}{_equals(tickets)}."


def _lost(tickets: Sequence[Comparison]) -> str:
    """Name what failed; its tickets are undecided for that alone."""
    told = [
        (f"{one['method']}, " if len(tickets) > 1 else "") + failed_text(one["failed_seeds"])
        for one in tickets
        if one["failed_seeds"]
    ]
    return f"; {'; '.join(told)}, so it stays undecided" if told else ""


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} paired seeds"


def _saved(tickets: Sequence[Comparison]) -> str:
    """Tell the range of MACs saved."""
    shares = [one["macs_saving"] for one in tickets if one["macs_saving"] is not None]
    if not shares:
        return ""
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return f", saving {low if low == high else f'{low} to {high}'} % of the MACs"


def _equals(tickets: Sequence[Comparison]) -> str:
    """Tell which controls do as well as which tickets."""
    if not any(one["controls"] for one in tickets):
        return "; no control of equal cost was trained beside"
    equal: dict[str, list[Comparison]] = {}
    verbs: dict[str, str] = {}
    for one in tickets:
        for control in one["controls"]:
            if control["outcome"] == "as well":
                equal.setdefault(control["name"], []).append(one)
                verbs[control["name"]] = "do" if control["plural"] else "does"
    if not equal:
        return ""
    if len(tickets) == 1:
        verb = "do" if len(equal) > 1 else next(iter(verbs.values()))
        return f"; but {_and(list(equal))} {verb} as well"
    told = [f"{name} {verbs[name]} as well as {_whom(of, tickets)}" for name, of in equal.items()]
    return f"; but {_and(told)}"


def _whom(some: Sequence[Comparison], tickets: Sequence[Comparison]) -> str:
    """Name a few tickets, or count many."""
    if len({one["method"] for one in tickets}) == len(tickets) and len(some) < 3:
        return _and([one["method"] for one in some])
    return f"{len(some)} of {len(tickets)}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
