"""Write numbers with their units, and sentences about verdicts.

None is written "not measured", never 0.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerticket import display
from layerticket.display import Markup

if TYPE_CHECKING:
    from layerticket.verdict.judge import Verdict
    from layerticket.verdict.pairs import Comparison, Control, Row
    from layerticket.verdict.statistics import Difference

ABSENT = "not measured"

# Numbers.


def accuracy(value: float | None) -> str:
    """Write a fraction in percent."""
    return ABSENT if value is None else f"{100 * value:.2f} %"


def mean_sd(figure: Mapping[str, float | None]) -> str:
    """Write an accuracy in percent with its standard deviation over seeds, if it has one.

    Example:
        >>> mean_sd({"mean": 0.9123, "std": 0.0021})
        '91.23 ± 0.21 %'
    """
    mean, std = figure["mean"], figure["std"]
    if mean is None or std is None:
        return accuracy(mean)
    return f"{100 * mean:.2f} ± {100 * std:.2f} %"


def difference(value: float | None) -> str:
    """Write a difference of fractions in percentage points."""
    return ABSENT if value is None else f"{100 * value:+.2f} pp"


def size(value: float | None) -> str:
    """Write a size of differences of fractions, without a sign, in percentage points."""
    return ABSENT if value is None else f"{100 * value:.2f} pp"


def interval(figure: "Difference") -> str:
    """Write a difference of fractions with its interval, if it has one."""
    return _with_ends(figure.mean, figure.low, figure.high, "accuracy")


def points(margin: float) -> str:
    """Write a margin in percentage points, with no more digits than it has."""
    return f"{100 * margin:g} pp"


def share(value: float | None) -> str:
    """Write a fraction in whole percent."""
    return ABSENT if value is None else f"{100 * value:.0f} %"


def saving(value: float | None) -> str:
    """Write a share saved, as in "34.0 % less"; a negative share as "more"."""
    if value is None:
        return ABSENT
    percent = f"{100 * abs(value):.1f}"
    return "none saved" if percent == "0.0" else f"{percent} % {'less' if value > 0 else 'more'}"


def speedup(figure: Mapping[str, Any], waiting: float | None = None) -> str:
    """Write a ratio of times with its interval, and the share of time spent waiting for data.

    Example:
        >>> speedup({"mean": 1.5, "low": 1.4, "high": 1.62}, 0.034)
        '1.50× (1.40 to 1.62), 3 % waiting for data'
    """
    if figure["mean"] is None:
        return ABSENT
    text, low = f"{figure['mean']:.2f}×", figure["low"]
    text += "" if low is None else f" ({low:.2f} to {figure['high']:.2f})"
    return text if waiting is None else f"{text}, {share(waiting)} waiting for data"


WAITS_LONG = 0.1
"""Share of the training time from which waiting for data limits what a ticket saves."""


def waiting(share_waited: float | None) -> str:
    """Warn where a training waits long for its data; empty where it does not.

    Example:
        >>> waiting(0.234)
        'training waited for data 23 % of its time: there a smaller network saves nothing'
    """
    if share_waited is None or share_waited <= WAITS_LONG:
        return ""
    return (
        f"training waited for data {share(share_waited)} of its time: there a smaller network "
        "saves nothing"
    )


def study_forecast(found: Mapping[str, Any]) -> str:
    """Write the forecast of a study."""
    steps = ", ".join(f"{name} {duration(one)}" for name, one in found["step_seconds"].items())
    return (
        f"at most {counted(found['trainings'], 'training')}, {found['epochs']:,} epochs; a step: "
        f"{steps}\nat most {duration(found['train_seconds'])} of training "
        f"({found['parallel']} at a time), without searches, evaluations and start-up; equal "
        "trainings run once, and tickets take less time than dense networks"
    )


def duration(seconds: float | None) -> str:
    """Write a time in s, min or h."""
    if seconds is None:
        return ABSENT
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def energy(kwh: float | None) -> str:
    """Write an energy in kWh or Wh."""
    return _thousandths(kwh, "kWh", "Wh")


def carbon(kg: float | None) -> str:
    """Write carbon (CO2e) in kg or g."""
    return _thousandths(kg, "kg", "g")


def _thousandths(value: float | None, unit: str, small: str) -> str:
    if value is None:
        return ABSENT
    return f"{value:.3g} {unit}" if value >= 1 else f"{1000 * value:.3g} {small}"


def electricity(kwh: float | None, kg: float | None, before: str = ", ") -> str:
    """Write energy and carbon after `before`; nothing if not measured."""
    text = "" if kwh is None else f"{before}{energy(kwh)}"
    return text if kg is None else f"{text}, {carbon(kg)} CO2e"


def memory(count: float | None) -> str:
    """Write bytes in MiB."""
    return ABSENT if count is None else f"{count / 2**20:,.0f} MiB"


def count(value: float | None) -> str:
    """Write a count with separated thousands."""
    return ABSENT if value is None else f"{value:,.0f}"


def millions(value: float | None) -> str:
    """Write a count in millions."""
    return ABSENT if value is None else f"{value / 1e6:.2f} M"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    Example:
        >>> counted(1, "seed"), counted(2000, "image")
        ('1 seed', '2,000 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[object]) -> str:
    """Join names with commas and "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    texts = [str(name) for name in names]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def failed_text(seeds: Sequence[int]) -> str:
    """Write which seeds failed.

    Example:
        >>> failed_text([1, 3])
        'seeds 1 and 3 failed'
    """
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)} failed"


def forecast(record: Mapping[str, Any] | None) -> str:
    """Write a forecast, one line per network; empty if there is none."""
    if record is None:
        return ""
    lines = [f"Forecast for {counted(record['epochs'], 'epoch')} ({record['steps']:,} steps):"]
    lines += [
        f"{name}: {one['train_seconds']:.4g} s of training, "
        f"{one['validation_seconds']:.3g} s of validation"
        f"{electricity(one['energy_kwh'], one['co2_kg'])}"
        for name in ("dense", "ticket")
        if (one := record[name]) is not None
    ]
    if (saved := record["saving"]) is not None:
        fast = saved["speedup"]
        ends = "" if fast["low"] is None else f" ({fast['low']:.2f} to {fast['high']:.2f})"
        waited = max(record[name]["data_wait_share"] for name in ("dense", "ticket"))
        part = saved["realized_share"]
        realized = "" if part is None else f"; {part:.0%} of the gain in MACs is realized"
        lines.append(
            f"The ticket trains {fast['value']:.2f}x as fast{ends}, by its MACs it would be "
            f"{saved['theoretical_speedup']:.2f}x{realized}; {share(waited)} of the time it waits "
            "for data."
        )
        lines += [f"Warning: {slow}."] if (slow := waiting(waited)) else []
    return "\n".join(lines)


def strip(found: "Difference", worst: float) -> Markup:
    """Draw an interval with marks for dense and the margin; empty without a mean."""
    if found.mean is None:
        return Markup("")
    ends = [value for value in (found.low, found.high) if value is not None]
    values = [found.mean, 0.0, worst, *ends]
    room = 0.08 * (max(values) - min(values)) or 1.0
    within = (min(values) - room, max(values) + room)
    return display.strip(found.mean, found.low, found.high, worst, within)


# Comparisons.

FEW_SEEDS = 3
NAN_RESULT = (
    "a result is NaN: the run failed, so nothing can be decided. Run it again; leaving its seed "
    "out would favour the network that failed."
)
TWO_SEEDS = "a result from two seeds is weak: repeat it with more before you rely on it"


def _signed(value: float, unit: str) -> str:
    return f"{100 * value:+.2f} pp" if unit == "accuracy" else f"{value:+.4g} {unit}"


def _with_ends(
    mean: float | None,
    low: float | None,
    high: float | None,
    unit: str,
    *,
    before: str = "",
    after: str = "",
) -> str:
    """Write a mean difference with its interval, if it has one, and words before and after that."""
    if mean is None:
        return ABSENT
    text = _signed(mean, unit)
    if low is None or high is None:
        return text
    if unit == "accuracy":  # few seeds give intervals wider than accuracies can differ
        low, high = max(low, -1.0), min(high, 1.0)
    return f"{text} ({before}{_signed(low, unit).split()[0]} to {_signed(high, unit)}{after})"


def decision_rule(margin: str, confidence: float) -> str:
    """Write the name of the deciding test.

    Example:
        >>> decision_rule("1 pp", 0.95)
        'one-sided 2.5 %, non-inferiority at 1 pp'
    """
    return f"one-sided {50 * (1 - confidence):.3g} %, non-inferiority at {margin}"


def basis(found: "Difference") -> str:
    """Write how many seeds and images an interval is based on."""
    seeds = "1 seed" if found.n == 1 else f"{found.n} paired seeds"
    if found.images is None:
        return f"{seeds}, on these test images"
    return f"{seeds} and {counted(found.images, 'test image')}"


def would_decide(seeds: int | None, images: int | None) -> str:
    """Write how many seeds would decide, or that only more test images would."""
    if seeds is not None:
        return (
            f"; a new study of {seeds:,} seeds, fixed in advance, would decide with 80 % power if "
            "pairs differ as they do here"
        )
    if images is not None:
        return f"; only more test images would decide (at least about {images:,}), not more seeds"
    return ""


def verdict_sentence(verdict: "Verdict") -> str:
    """Write the verdict of `judge` as a sentence."""
    found, unit = verdict.difference, verdict.unit
    percent = unit == "accuracy"
    margin = points(verdict.margin) if percent else f"{verdict.margin:g} {unit}"
    on, _, these = basis(found).partition(", ")
    if found.low is None:
        return (
            f"Undecided: in 1 seed the ticket differs by {_signed(verdict.differences[0], unit)} "
            "from the dense network, and one seed decides nothing."
        )
    around = {"before": f"{interval_name(verdict.confidence)} "}
    if these and percent:
        around["after"] = f" {these}"
    ends = _with_ends(found.mean, found.low, found.high, unit, **around)
    test = decision_rule(margin, verdict.confidence)
    text = f"over {on} it differs by {ends}"
    if verdict.outcome == "undecided":
        more = would_decide(verdict.seeds_needed, verdict.images_needed)
        worst = verdict.margin if verdict.lower_is_better else -verdict.margin
        return f"Undecided: {text}; the interval contains {_at_margin(worst, unit)} ({test}){more}."
    less = "less" if verdict.outcome == "wins" else "more"
    caution = f"; {verdict.caution}" if verdict.caution else ""
    return (
        f"The ticket {verdict.outcome}: {text}, so it is {less} than {margin} worse ({test})"
        f"{caution}."
    )


def _at_margin(worst: float, unit: str) -> str:
    """Write the difference at the margin.

    Example:
        >>> _at_margin(-0.01, "accuracy"), _at_margin(0.1, "nats")
        ('-1 pp, the margin', '+0.1 nats, the margin')
    """
    number, name = (100 * worst, "pp") if unit == "accuracy" else (worst, unit)
    return f"{number + 0.0:{'+' if number else ''}g} {name}, the margin"


def verdict_facts(verdict: "Verdict") -> dict[str, object]:
    """Return the numbers behind a verdict of `judge`, by name."""
    found, unit = verdict.difference, verdict.unit
    margin = points(verdict.margin) if unit == "accuracy" else f"{verdict.margin:g} {unit}"
    facts: dict[str, object] = {
        "ticket minus dense": _with_ends(found.mean, found.low, found.high, unit),
        "margin": margin,
        "p": ABSENT if verdict.p_value is None else p_value(verdict.p_value),
    }
    if verdict.seeds_needed is not None:
        facts["seeds for 80 % power"] = verdict.seeds_needed
    return facts


def comparison_sentence(one: "Comparison", margin: float, confidence: float) -> str:
    """Write how one method compares with the dense network."""
    name, found = one.method, one.difference
    why = f"; {failed_text(one.failed_seeds)}" if one.failed_seeds else ""
    same = same_network(one.n, one.same_seeds, one.average_effect, "dense")
    if not one.n:
        return f"{name}: no finished run has a finished dense run of the same seed{why}."
    if found.mean is None:
        return f"{name} is undecided{same}{why}."
    if found.low is None:
        alone = f"{difference(found.mean)} in one seed, which decides nothing"
        return f"{name} is undecided: {alone}{same}{why}."
    text = f"{interval(found)} against dense over {basis(found)}"
    if one.failed_seeds:
        return (
            f"{name} is undecided: {text}, but {failed_text(one.failed_seeds)}, and the failed "
            f"runs may be the worst{same}."
        )
    return f"{name} {_judged(one, text, margin, confidence)}{same}."


def same_network(n: int, same: Sequence[int], effect: float | None, other: str) -> str:
    """Write in how many seeds two methods are the same network, which is no evidence."""
    if not same:
        return ""
    text = f"; the same network as {other} in {len(same)} of {n} seeds"
    if len(same) == n:
        return text
    return f"{text}, which count for nothing (average effect of the choice {difference(effect)})"


def _judged(one: "Comparison", found: str, margin: float, confidence: float) -> str:
    """Write what an interval shows; the outcome must hold after the correction."""
    xi, outcome = points(margin), one.outcome
    test = decision_rule(xi, confidence)
    if outcome == "undecided":
        more = would_decide(one.seeds_needed, one.images_needed)
        at = _at_margin(-margin, "accuracy")
        return f"is undecided: {found}; the interval contains {at} ({test}){more}"
    if one.outcome_adjusted != outcome:
        return (
            f"is undecided: taken alone it {outcome}, {found}, but corrected for the study's "
            f"{one.comparisons} comparisons this is not certain ({test})"
            f"{would_decide(one.seeds_needed, one.images_needed)}"
        )
    side = "less" if outcome == "wins" else "more"
    caution = f"; {one.caution}" if one.caution else ""
    return f"{outcome}: {found}, so it is {side} than {xi} worse ({test}){caution}"


# Tickets and controls.


def control_name(control: "Row", *, alone: bool) -> str:
    """Write the name of a control; `alone`: it is the only one of its kind."""
    if control.kind in ("ticket", "lottery"):
        new = control.reference is not None
        text = "the same shape with new weights" if new else "tickets drawn at random"
        return f"{text} ({control.method})"
    known = {
        "shallower": "a plain shallower network",
        "equal_compute": "the dense network at equal compute",
    }
    if control.kind not in known:
        return control.method
    return known[control.kind] if alone else f"{known[control.kind]} ({control.method})"


def control_sentence(ticket: str, control: "Control", margin: float) -> str:
    """Write whether a control does at least as well as the ticket."""
    name, found = control.name, control.difference
    same = same_network(control.n, control.same_seeds, control.average_effect, name)
    text = f"{ticket} minus {name}: {interval(found)}"
    lost = ""
    if control.failed_seeds:
        lost = f" Nothing is shown while {failed_text(control.failed_seeds)}."
    if found.mean is None:
        return f"{ticket} is the same network as {name} in {control.n} of {control.n} seeds.{lost}"
    if found.low is None:
        return f"{text} in one seed, which decides nothing{same}.{lost}"
    text = f"{text} over {basis(found)}{same}."
    said = {
        "control better": f"{name} did better than {ticket}",
        "as good": f"{name} did at least as well as {ticket}, within {points(margin)}",
        "ticket better": f"{ticket} did better than {name}",
        "not shown": f"not shown whether {name} would do as well as {ticket}",
    }[control.outcome]
    said += _by_less(control, margin)
    said += f"; {TWO_SEEDS}" if on_two_seeds(control) else ""
    return f"{_capital(said, keep=(ticket, control.method))}. {text}{lost}"


def on_two_seeds(control: "Control") -> bool:
    """Whether an answer about a control comes from two seeds where the networks differ."""
    return control.outcome != "not shown" and control.difference.n < FEW_SEEDS


def _by_less(control: "Control", margin: float) -> str:
    """Write that the better of ticket and control is better by less than the margin, if it is."""
    low, high = control.difference.low, control.difference.high
    better = control.outcome in ("ticket better", "control better")
    if not better or low is None or high is None or max(-low, high) >= margin:
        return ""
    return f", by less than {points(margin)}"


def _capital(text: str, keep: Sequence[str]) -> str:
    """Begin with a capital letter, unless the text begins with a label."""
    return text if text.startswith(tuple(keep)) else text[0].upper() + text[1:]


def study_verdict(comparisons: Sequence["Comparison"], margin: float, confidence: float) -> str:
    """Write in short sentences whether the tickets of a study won; the most important first."""
    tickets = [one for one in comparisons if one.role == "criterion"]
    judged = [one for one in tickets if one.n]
    if not tickets and any(one.kind in ("ticket", "lottery") for one in comparisons):
        return "No verdict: the study's tickets are controls; none was found by a criterion."
    if not tickets:
        return "No verdict: the study has no tickets."
    if not judged:
        return "No verdict yet: no ticket is finished beside a dense network of the same seed."
    test = decision_rule(points(margin), confidence)
    parts = _one_ticket(judged[0]) if len(judged) == 1 else _several(judged)
    parts += [_lost(judged), *_controls(judged, points(margin)), _saved(judged)]
    parts += [_tested(judged, test), *_needed(judged)]
    if any(one.caution is not None or any(map(on_two_seeds, one.controls)) for one in judged):
        parts.append(TWO_SEEDS)
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


def _one_ticket(ticket: "Comparison") -> list[str]:
    said = {"wins": "wins", "loses": "loses", "undecided": "neither wins nor loses yet"}
    found = ticket.difference
    text = f"The {ticket.method} ticket {said[ticket.outcome_adjusted]}"
    if found.mean is not None:
        text += f": {interval(found)} over {basis(found)}"
    same = same_network(ticket.n, ticket.same_seeds, ticket.average_effect, "dense")
    return [text, same and f"it is {same.removeprefix('; ')}"]


def _several(tickets: Sequence["Comparison"]) -> list[str]:
    counts = Counter(one.outcome_adjusted for one in tickets)
    if counts["wins"] == len(tickets):
        return [f"{'Both' if len(tickets) == 2 else f'All {len(tickets)}'} tickets win"]
    wins, lost, unclear = (counts[name] for name in ("wins", "loses", "undecided"))
    text = f"{wins or 'None'} of {len(tickets)} tickets {'wins' if wins == 1 else 'win'}"
    text += f"{_named(tickets, 'wins')}, {lost or 'none'} {'loses' if lost < 2 else 'lose'}"
    text += f"{_named(tickets, 'loses')} and {unclear or 'none'}"
    text += f" {'is' if unclear < 2 else 'are'} undecided{_named(tickets, 'undecided')}"
    return [text]


def _named(tickets: Sequence["Comparison"], outcome: str) -> str:
    """Write which tickets have an outcome, if they are few and differ in name."""
    names = [one.method for one in tickets if one.outcome_adjusted == outcome]
    if not names or len(tickets) > 4 or len({one.method for one in tickets}) < len(tickets):
        return ""
    return f" ({listed(names)})"


def _tested(tickets: Sequence["Comparison"], test: str) -> str:
    """Write the deciding test, what it rests on, and its correction."""
    text = f"Test: {test}"
    if len(tickets) > 1:
        found = [one.difference for one in tickets]
        fewest, most = min(one.n for one in found), max(one.n for one in found)
        # If one interval holds for these test images only, say so for all.
        least = next((one for one in found if one.images is None), found[0])
        over = basis(replace(least, n=most))
        text += f", over {over if fewest == most else f'{fewest} to {over}'}"
    number = tickets[0].comparisons
    if number > 1:
        text += f", after correction for {number} comparisons"
    changed = [one for one in tickets if one.outcome != one.outcome_adjusted]
    if len(tickets) == 1 and changed:
        return f"{text}; taken alone it {changed[0].outcome}"
    alone: Counter[str] = Counter(one.outcome for one in changed)
    told = [f"{alone[name]} more {verb}" for name, verb in
            (("wins", "would win"), ("loses", "would lose")) if alone[name]]  # fmt: skip
    return f"{text}; taken alone {listed(told)}" if told else text


def _needed(tickets: Sequence["Comparison"]) -> list[str]:
    """Write what would decide the undecided tickets."""
    unclear = [t for t in tickets if t.outcome_adjusted == "undecided" and not t.failed_seeds]
    seeds = [one.seeds_needed for one in unclear if one.seeds_needed]
    images = [one.images_needed for one in unclear if one.images_needed]
    told = (
        (len(seeds), would_decide(max(seeds, default=None), None)),
        (len(images), would_decide(None, max(images, default=None))),
    )
    return [
        ("" if number == len(unclear) else f"for {number} of the undecided ") + text[2:]
        for number, text in told
        if text
    ]


def _lost(tickets: Sequence["Comparison"]) -> str:
    """Write the failed seeds, which leave their tickets undecided."""
    lost = [one for one in tickets if one.failed_seeds]
    if lost and len(tickets) == 1:
        return f"{failed_text(lost[0].failed_seeds)}, so it stays undecided"
    told = [f"{one.method} ({failed_text(one.failed_seeds)})" for one in lost]
    return f"undecided because runs failed: {listed(told)}" if lost else ""


def _saved(tickets: Sequence["Comparison"]) -> str:
    """Write the range of MACs saved."""
    shares = [one.macs_saving for one in tickets if one.macs_saving is not None]
    if not shares:
        return ""
    low, high = (f"{100 * one:.0f}" for one in (min(shares), max(shares)))
    it = "it saves" if len(tickets) == 1 else "the tickets save"
    return f"{it} {low if low == high else f'{low} to {high}'} % of the MACs"


def _controls(tickets: Sequence["Comparison"], margin: str) -> list[str]:
    """Write which controls are better than which tickets, and which at least as good."""
    if not any(one.controls for one in tickets):
        return ["no control of equal cost was trained beside"]
    told = []
    said = (("control better", "better than", ""),
            ("as good", "at least as good as", f", within {margin}"))  # fmt: skip
    for outcome, how, within in said:
        found: dict[str, list[str]] = {}
        for one in tickets:
            for control in one.controls:
                if control.outcome == outcome:
                    few = " (two seeds)" if on_two_seeds(control) else ""
                    found.setdefault(control.name + few, []).append(one.method)
        by_tickets: dict[tuple[str, ...], list[str]] = {}
        for name, of in found.items():
            by_tickets.setdefault(tuple(of), []).append(name)
        told += [
            f"{how} {_whom(of, tickets)}{within}: {listed(by)}" for of, by in by_tickets.items()
        ]
    return told


def _whom(some: Sequence[str], tickets: Sequence["Comparison"]) -> str:
    """Write the names of a few tickets, or the number of many."""
    if len(tickets) == 1:
        return "the ticket"
    if len({one.method for one in tickets}) == len(tickets) and len(some) < 3:
        return listed(some)
    return f"{len(some)} of the {len(tickets)} tickets"


# Texts of the report.

UNJUDGED = "No verdict yet: no run of this study has been compared."


def p_value(value: float) -> str:
    """Write a p-value."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def figure(value: float) -> str:
    """Write a number without a unit."""
    return f"{value:.4g}"


def span(low: float, high: float) -> str:
    """Write an interval of differences in percentage points."""
    return f"{100 * low:+.2f} to {difference(high)}"


def of_dense(value: float) -> str:
    """Write the cost of a network as a share of the dense cost."""
    return f"{100 * value:.1f} %"


def closeness(matches: Sequence[Mapping[str, Any]]) -> str:
    """Write how close a baseline is to its ticket: first the matched quantity, then the others.

    Each is the ratio of the means over the runs; if runs differ, their range is in brackets.

    Example:
        >>> seeds = [{"by": "filters", "filters": {"reference": 12, "baseline": 12},
        ...           "macs": {"reference": 1000, "baseline": macs}} for macs in (990, 650)]
        >>> closeness(seeds[:1])
        'filters equal; MACs 1.0 % less'
        >>> closeness(seeds)
        'filters equal; MACs 18.0 % less (-35.0 to -1.0 %)'
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for match in matches:
        for name, one in match.items():
            if isinstance(one, Mapping) and "baseline" in one:
                found.setdefault(name, []).append((one["reference"], one["baseline"]))
    order = sorted(found, key=lambda name: name != matches[0]["by"])
    return "; ".join(_off(name, found[name]) for name in order)


def _off(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    name = {"macs": "MACs", "params": "parameters"}.get(name, name)
    wanted, reached = (sum(side) for side in zip(*pairs, strict=True))
    off = 100 * (reached / wanted - 1) if wanted else 100.0 * (reached > 0)
    size = f"{abs(off):.1f} %" if abs(off) >= 0.05 else "under 0.1 %"
    text = f"{size} {'more' if off > 0 else 'less'}" if off else "equal"
    each = [100 * (two / one - 1) for one, two in pairs if one]
    ends = (min(each, default=0.0), max(each, default=0.0))
    low, high = (f"{round(end, 1) + 0.0:+.1f}" for end in ends)  # + 0.0: no -0.0
    return f"{name} {text}" + ("" if low == high else f" ({low} to {high} %)")


def shared_machine(workers: int | None, threads: int | None, parallel: int | None) -> str:
    """Write how many trainings shared the machine, since times depend on it."""
    each = f", with {counted(threads, 'thread')}" if threads else ""
    if parallel == 0 or workers == 1:
        return f"One training ran at a time{each}."
    if workers is None:
        return "The number of parallel trainings was not recorded; times depend on it."
    return f"Times are those of {workers} parallel workers{each and each + ' each'}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """One line of the first screen of a report."""

    text: str
    figure: str = ""
    """The number to show large, if any."""
    detail: str = ""
    """The numbers behind it."""
    good: bool | None = None
    """Whether it supports the ticket; None if neither."""


def saved_remarks(one: "Comparison") -> list[Remark]:
    """List what a ticket saved, the most important first."""
    mean, low, high = (one.speedup.get(end) for end in ("mean", "low", "high"))
    ends = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    if mean is not None and one.data_wait_share is not None:
        ends += f"{'; ' if ends else ''}{share(one.data_wait_share)} waiting for data"
    lines = [("MACs", one.macs_saving), ("energy", one.energy_saving), ("carbon", one.co2_saving)]
    lines += [("peak memory", one.memory_saving), ("parameters", one.params_saving)]
    found = [
        Remark(text=name, figure=saving(value), good=None if value is None else value > 0)
        for name, value in lines
    ]
    fast = Remark(
        text="speed, search and training",
        figure=ABSENT if mean is None else f"{mean:.2f}×",
        detail=ends,
        good=None if mean is None else mean > 1,
    )
    return [found[0], fast, *found[1:]]


def trust_remarks(one: "Comparison", margin: float) -> list[Remark]:
    """List the remarks for and against the outcome of a ticket."""
    found, decided = one.difference, one.outcome != "undecided"
    lines = []
    if one.failed_seeds:
        lines.append(
            Remark(
                text=f"{failed_text(one.failed_seeds)}: undecided until repeated",
                detail="the failed runs may be the worst",
                good=False,
            )
        )
    if slow := waiting(one.data_wait_share):
        lines.append(Remark(text=slow, good=False))
    lines.append(Remark(text=counted(one.n, "paired seed"), good=one.n >= FEW_SEEDS))
    if one.same_seeds:
        effect = ""
        if one.average_effect is not None:
            effect = f"average effect of the choice {difference(one.average_effect)}"
        text = f"the same network as dense in {len(one.same_seeds)} of {counted(one.n, 'seed')}"
        lines.append(Remark(text=text, detail=effect, good=False))
    if found.low is not None and found.images is not None:
        alone = ""
        if found.seeds_low is not None and found.seeds_high is not None:
            alone = f"over seeds alone: {span(found.seeds_low, found.seeds_high)}"
        text = f"holds for new seeds and new images ({counted(found.images, 'test image')})"
        lines.append(Remark(text=text, detail=alone, good=True))
    elif found.low is not None:
        lines.append(Remark(text="holds for these test images only"))
    if decided and one.comparisons > 1:
        stands = one.outcome_adjusted == one.outcome
        text = f"{'stands' if stands else 'does not stand'} after correction for "
        lines.append(Remark(text=f"{text}{one.comparisons} comparisons", good=stands))
    if one.seeds_needed:
        lines.append(
            Remark(
                text=f"a new study of {one.seeds_needed:,} seeds would decide with 80 % power",
                detail="number fixed in advance, if pairs differ as they do here",
            )
        )
    elif one.images_needed:
        text = f"only more test images would decide, at least about {one.images_needed:,}"
        lines.append(Remark(text=text, detail="more seeds would not"))
    if (reach := one.minimum_detectable) is not None:
        text = f"{100 * reach:.2f} pp beyond the margin would be found with 80 % power"
        if reach >= 1:
            text = "no difference beyond the margin would be found with 80 % power"
        lines.append(Remark(text=text, good=reach <= margin if margin else None))
    if one.caution:
        lines.append(Remark(text=one.caution, good=False))
    lines.append(_among_random(one))
    return lines + [_control_remark(one, control, margin) for control in one.controls]


def _among_random(one: "Comparison") -> Remark:
    if one.percentile is None or one.percentile_of is None:
        return Remark(text="not compared with random tickets")
    text, of = (
        f"more accurate than {share(one.percentile)} of the random tickets",
        one.percentile_of,
    )
    if of.low is None or of.high is None:
        return Remark(text=text, detail=f"{of.tickets} drawn, in one seed")
    good = True if of.low > 0.5 else False if one.percentile <= 0.5 else None
    detail = f"{of.tickets} drawn; {share(of.low)} to {share(of.high)}"
    return Remark(text=text, detail=detail, good=good)


def _control_remark(one: "Comparison", control: "Control", margin: float) -> Remark:
    """Return a short remark on a control; `control_sentence` writes it in full."""
    if control.same_seeds and not control.difference.n:
        number = f"{control.n} of {counted(control.n, 'seed')}"
        return Remark(text=f"the same network as {control.name} in {number}")
    said = {
        "control better": (f"{control.name} did better", False),
        "as good": (f"{control.name} did at least as well, within {points(margin)}", False),
        "ticket better": (f"better than {control.name}", True),
    }
    text, good = said.get(control.outcome, (f"not shown to beat {control.name}", None))
    text += _by_less(control, margin)
    detail = f"{one.method} minus {control.name}: {interval(control.difference)}"
    if control.same_seeds:
        detail += f"; the same network in {len(control.same_seeds)} of {control.n} seeds"
    detail += f"; {TWO_SEEDS}" if on_two_seeds(control) else ""
    return Remark(text=text, detail=detail, good=good)


def suspicions(one: "Comparison", unchanged: int) -> list[Remark]:
    """Return warnings about trainings that may not have trained the given network."""
    found = []
    if unchanged:
        text = f"{counted(unchanged, 'training')} left every parameter as it was"
        found.append(Remark(text=text, good=False))
    if one.difference.n > 1 and one.difference.mean == one.difference.std == 0:
        text = "the same figures as dense in every seed"
        detail = "does the training use the network it is given?"
        found.append(Remark(text=text, detail=detail, good=False))
    return found


def bill(cost: Mapping[str, Any]) -> str:
    """Write the total cost of trainings and searches."""
    seconds = [cost.get("train_seconds"), cost.get("search_seconds")]
    known = [value for value in seconds if value is not None]
    text = f"{duration(sum(known) if known else None)} of search and training"
    return text + electricity(cost.get("energy_kwh"), cost.get("co2_kg"))


def progress_remarks(failed: int, waiting: int, rows: int) -> list[Remark]:
    """Return remarks on how many runs failed, and how many are not finished."""
    found = []
    if failed:
        found.append(Remark(text=f"{failed} of {counted(rows, 'run')} failed", good=False))
    if waiting:
        verb = "is" if waiting == 1 else "are"
        found.append(Remark(text=f"{waiting} of {counted(rows, 'run')} {verb} not finished"))
    return found


def interval_text(found: "Difference", confidence: float) -> str:
    """Write the interval of a difference, without its mean."""
    if found.low is None or found.high is None:
        return "one seed has no interval"
    return f"{interval_name(confidence)} {span(found.low, found.high)}"


def interval_name(confidence: float) -> str:
    """Write the name of an interval.

    Example:
        >>> interval_name(0.95)
        '95 % interval'
    """
    return f"{100 * confidence:g} % interval"


def metered(ways: Sequence[str]) -> str:
    """Write how energy was measured, or that it was not."""
    if ways:
        return f"Energy and carbon by: {'; '.join(ways)}."
    return "Energy and carbon were not measured. They are not shown as 0."
