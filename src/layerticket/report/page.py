"""The files of a report. Enters: the object of ``study.json``. Leaves: a page, tables, figures.

Never trains, never measures: all it shows stands in that object.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import write_atomically
from layerticket.report import words
from layerticket.report.charts import Chart, HeatMap, charts_of, full_label
from layerticket.report.draw import drawing, pictures
from layerticket.report.tables import Column, Grid, csv_text, markdown, shown_columns, text_table
from layerticket.verdict.words import failed_text

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
    told = {
        "control better": (f"{name} did better", False),
        "as good": (f"{name} did as well", False),
        "ticket better": (f"better than {name}", True),
    }
    text, good = told.get(control["outcome"], (f"not shown to beat {name}", None))
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


def clean(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    r"""Replace control characters and lone surrogates in every text of a JSON value.

    Args:
        value: A JSON value; it is not modified.

    Returns:
        The value anew.

    Example:
        >>> clean({"error": "a\x00b"})
        {'error': 'a\ufffdb'}
    """
    if isinstance(value, str):
        return "".join(sign if sign in "\n\t" or _plain(sign) else "\ufffd" for sign in value)
    if isinstance(value, dict):
        return {clean(key): clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    return value


def _plain(sign: str) -> bool:
    code = ord(sign)
    return (
        code >= 32
        and not 0x7F <= code <= 0x9F
        and not 0xD800 <= code <= 0xDFFF
        and (code & 0xFFFE != 0xFFFE)
    )


Study_listing = Mapping[str, Any]


def rivals_grid(study: Study_listing) -> Grid | None:
    """List what the tickets are held against, and how closely its cost was matched.

    Args:
        study: The object of ``study.json``.

    Returns:
        The table; None if the study has no rivals.
    """
    shown = [one for one in study["comparisons"] if one["role"] != "criterion"]
    if not shown:
        return None
    columns = [
        Column(title="network", words=True, context=True),
        Column(title="budget", words=True, absent="", context=True),
        Column(title="rival", words=True),
        Column(title="kind", words=True),
        Column(title="role", words=True),
        Column(title="seeds"),
        Column(
            title="difference to dense",
            show=lambda v: words.interval(dict(zip(("mean", "low", "high"), v, strict=True))),
            parts=("mean", "low", "high"),
        ),
        Column(title="outcome", words=True),
        Column(title="MACs", show=words.millions),
        Column(title="parameters", show=words.count),
        Column(title="MACs without masked weights", show=words.millions, absent="—"),
        Column(title="match", words=True, absent="—"),
    ]
    rows = [_rival(one, study) for one in shown]
    return Grid(name="rivals", title="What the tickets had to beat", columns=columns, rows=rows)


def _rival(one: Mapping[str, Any], study: Study_listing) -> tuple[Any, ...]:
    runs = [
        run
        for run in study["runs"]
        if (run["model"], run["budget"]) == (one["model"], one["budget"])
        and run["kind"] == one["kind"]
        and run["label"] == one["method"]
        and run["status"] == "done"
    ]
    found = one["difference"]
    ends = None if found["mean"] is None else (found["mean"], found["low"], found["high"])
    matches = [run["match"] for run in runs if run["match"]]
    return (
        one["model"],
        one["budget"],
        one["method"],
        one["kind"].replace("_", " "),
        one["role"],
        one["n"],
        ends,
        one["outcome"],
        _mean([run["macs"] for run in runs]),
        _mean([run["params"] for run in runs]),
        _mean([run["sparse_macs"] for run in runs]),
        closeness(matches[0]) if matches else None,
    )


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def closeness(match: Mapping[str, Any]) -> str:
    """Tell how close a match came: in what was matched first, then in what was not.

    A record names what was matched and holds, for each figure, what the reference and the rival
    have; or what was asked for and what was reached.

    Example:
        >>> closeness({"by": "filters", "filters": {"reference": 1200, "baseline": 1200},
        ...            "macs": {"reference": 1000, "baseline": 1039}})
        'filters equal; MACs 3.9 % more'
        >>> closeness({"of": "macs", "asked": 1000, "reached": 980})
        'MACs 2.0 % less'
    """
    if "asked" in match:
        return _off(match["of"], match["asked"], match["reached"])
    figures = {name: v for name, v in match.items() if isinstance(v, Mapping) and "baseline" in v}
    order = sorted(figures, key=lambda name: name != match["by"])
    return "; ".join(_off(n, figures[n]["reference"], figures[n]["baseline"]) for n in order)


def _off(figure: str, wanted: float, reached: float) -> str:
    """Tell how far a figure is off what was wanted."""
    name = {"macs": "MACs", "params": "parameters"}.get(figure, figure)
    if wanted == reached:
        return f"{name} equal"
    share = 100 * abs(reached - wanted) / wanted
    size = f"{share:.1f} %" if share >= 0.05 else "under 0.1 %"
    return f"{name} {size} {'more' if reached > wanted else 'less'}"


def runs_grid(study: Study_listing) -> Grid:
    """List every run with its figures.

    Args:
        study: The object of ``study.json``.

    Returns:
        The table.
    """
    figures = {
        "seed": Column(title="seed"),
        "status": Column(title="status", words=True),
        "test_accuracy": Column(title="test accuracy", show=words.accuracy),
        "validation_accuracy": Column(title="validation accuracy", show=words.accuracy),
        "macs": Column(title="MACs", show=words.millions),
        "params": Column(title="parameters", show=words.count),
        "epochs": Column(title="epochs"),
        "train_seconds": Column(title="training", show=words.duration),
        "energy_kwh": Column(title="energy", show=words.energy),
        "co2_kg": Column(title="CO2e", show=words.carbon),
        "device": Column(title="device", words=True),
        "precision": Column(title="precision", words=True),
        "folder": Column(title="folder", words=True),
    }
    columns = [
        Column(title="network", words=True, context=True),
        Column(title="budget", words=True, absent="", context=True),
        Column(title="method", words=True),
        *figures.values(),
    ]
    rows = [
        (run["model"], run["budget"], run["method"], *(run[key] for key in figures))
        for run in study["runs"]
    ]
    return Grid(name="runs", title="Every run", columns=columns, rows=rows)


def failures(study: Study_listing) -> list[Mapping[str, Any]]:
    """List the runs that failed, with their error.

    Args:
        study: The object of ``study.json``.

    Returns:
        Those runs.
    """
    return [run for run in study["runs"] if run["status"] == "failed"]


Study_sections = Mapping[str, Any]

TITLES = {
    "differences": "Did it win?",
    "accuracy": "Accuracy against cost",
    "blocks": "Which blocks went",
    "rivals": "What the tickets had to beat",
    "cost": "Cost, energy and carbon",
    "robustness": "Robustness",
    "similarity": "Similarity",
    "curves": "Training",
}
SHORT = {
    "differences": "Outcome",
    "accuracy": "Accuracy",
    "blocks": "Blocks",
    "rivals": "Rivals",
    "cost": "Cost",
    "robustness": "Robustness",
    "similarity": "Similarity",
    "curves": "Training",
}
WHY_ABSENT = {
    "differences": "No method has a finished run beside a dense one of the same seed.",
    "accuracy": "No method has both an accuracy and a count of its MACs.",
    "blocks": "No run of this study removed whole blocks.",
    "rivals": "The study names no rivals; without controls of equal cost a ticket proves little.",
    "cost": "No method has a finished run beside a dense one of the same seed.",
    "robustness": "The study evaluated on clean test images only (`evaluate` is empty).",
    "similarity": "Similarity was not measured (`similarity` is false).",
    "curves": "No finished run has a curve.",
}
OPENED = ("differences", "cost")
RIVALS_REMARK = (
    "Rivals are matched to the ticket of the same seed in the figure named under match. Networks "
    "with masked weights compute every masked product all the same: masks save no time, memory or "
    "energy on this hardware, so their MACs are those of dense; the count without masked weights "
    "stands beside it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the report."""

    name: str
    """Its place on the page."""
    title: str
    """Its heading."""
    short: str
    """Its heading in one word, for navigation."""
    charts: Sequence[Chart | HeatMap]
    """What is drawn."""
    grids: Sequence[Grid]
    """Tables that belong to no chart."""
    opened: bool
    """Whether the tables behind the charts are shown from the start."""
    remark: str
    """A paragraph above; why the section is empty, if it is."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.charts and not self.grids


def sections(study: Study_sections) -> list[Section]:
    """Put the parts of the report in order.

    Args:
        study: The object of ``study.json``.

    Returns:
        Every section; one without figures says why.
    """
    charts = charts_of(study)
    rivals = rivals_grid(study)
    grids: dict[str, list[Grid]] = {"rivals": [rivals] if rivals else []}
    remarks = {"rivals": RIVALS_REMARK, "cost": _metered(study)}
    return [
        Section(
            name=name,
            title=title,
            short=SHORT[name],
            charts=charts.get(name, []),
            grids=grids.get(name, []),
            opened=name in OPENED,
            remark=remarks.get(name, "")
            if charts.get(name) or grids.get(name)
            else WHY_ABSENT[name],
        )
        for name, title in TITLES.items()
    ]


def _metered(study: Study_sections) -> str:
    """Say how energy was measured, or that it was not."""
    ways = dict.fromkeys(run["energy_method"] for run in study["runs"] if run["energy_method"])
    if not ways:
        return (
            "Energy and carbon were not measured: the study states nothing to measure them by "
            "([energy] in its file). They are not shown as 0."
        )
    return f"Energy and carbon by: {'; '.join(str(way) for way in ways)}."


def _devices(study: Study_sections) -> list[str]:
    return list(dict.fromkeys(str(run["device"]) for run in study["runs"] if run["device"]))


def conditions(study: Study_sections) -> list[tuple[str, str]]:
    """List the conditions of a study: data, margin, machine, versions.

    Args:
        study: The object of ``study.json``.

    Returns:
        Pairs of name and text.
    """
    where, seeds = study["environment"], {run["seed"] for run in study["runs"]}
    told = [
        ("networks", ", ".join(dict.fromkeys(run["model"] for run in study["runs"]))),
        ("data", f"{study['data']}, {study['classes']} classes"),
        ("test images", f"{study['test_images']:,}" if study["test_images"] else "not known"),
        ("margin", f"{100 * study['margin']:g} pp, {100 * study['confidence']:g} % confidence"),
        ("seeds", ", ".join(str(seed) for seed in sorted(seeds))),
        ("device", ", ".join(_devices(study))),
        *((key, value if isinstance(value, str) else json.dumps(value))
          for key, value in where.items() if value is not None),
    ]  # fmt: skip
    return [(name, text) for name, text in told if text]


def report_text(study: Mapping[str, Any], parts: Sequence[Section], *, figures: bool = True) -> str:
    """Write the report as Markdown.

    Args:
        study: The object of ``study.json``.
        parts: Its sections.
        figures: Whether figures lie beside it, to be linked.

    Returns:
        The text, ending in a line break.
    """
    lines = [
        f"# {_line(study['title'])}",
        f"**{_line(study['verdict'])}**",
        *(_card_text(card) for card in cards(study)),
        *(text for part in parts for text in _section(part, figures=figures)),
        *_failed_text(study),
        "## Every run",
        _table(runs_grid(study)),
        "## Conditions",
        "\n".join(f"- {_line(name)}: {_line(text)}" for name, text in conditions(study)),
        f"```bash\n{_line(study['command'])}\n```",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _line(text: str) -> str:
    """Keep a text on one line and out of the syntax of tables and tags."""
    plain = " ".join(str(text).split())
    return plain.replace("|", "\\|").replace("<", "&lt;")


def _table(grid: Grid) -> str:
    header, rows = text_table(grid)
    return markdown(([_line(c) for c in header], [[_line(c) for c in r] for r in rows])).rstrip()


def _card_text(card: Any) -> str:  # noqa: ANN401 - a Card
    saved = "; ".join(f"{line.text}: {_told(line.figure, line.detail)}" for line in card.saved)
    trust = "\n".join(f"- {_line(_told(line.text, line.detail))}" for line in card.trust)
    return f"{_line(card.sentence)}\n\nSaved: {_line(saved)}.\n\n{trust}"


def _told(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text


def _section(part: Section, *, figures: bool) -> Iterator[str]:
    yield f"## {part.title}"
    yield _line(part.remark)
    for grid in part.grids:
        yield f"{_line(grid.title)}:"
        yield _table(grid)
    for chart in part.charts:
        if figures:
            yield f"![{_line(chart.title)}](figures/{chart.name}.svg)"
        if figures or part.opened:
            yield _line(chart.caption)
        if part.opened:
            yield _table(chart.table)


def _failed_text(study: Mapping[str, Any]) -> Iterator[str]:
    lost = failures(study)
    if lost:
        yield "## Failed runs"
        yield "\n".join(
            f"- {_line(run['method'])}, seed {run['seed']}: {_line(run['error'] or 'no error')}"
            for run in lost
        )


SCHEMA = 1
UNJUDGED = "No verdict yet: no run of this study has been compared."
NEEDED = (
    "schema", "title", "runs", "comparisons", "verdict", "networks", "margin", "confidence",
    "environment", "data", "classes", "test_images", "command", "study",
)  # fmt: skip


def write_report(study: Mapping[str, Any], out: Path, *, figures: bool = True) -> list[Path]:
    """Write ``report.html``, ``report.md``, tables as CSV, figures as PNG and SVG.

    The page needs nothing but itself: no network, no other file. Old files of the same names are
    replaced, each as a whole.

    Args:
        study: The object of ``study.json``; it is not modified.
        out: Folder to write into; made if missing.
        figures: Whether PNG and SVG are drawn, about a third of a second each.

    Returns:
        The files written, the page first.

    Raises:
        LayerticketError: If the object is no study of a known schema, or jinja2, plotly or
            matplotlib is not installed.
    """
    known = _known(study)
    parts = sections(known)
    grids = list(_grids(known, parts))
    written: list[Path] = []

    def write(name: str, content: str | bytes) -> None:
        write_atomically(out / name, content)
        written.append(out / name)

    write("report.html", _page(known, parts))
    write("report.md", report_text(known, parts, figures=figures))
    for grid in grids:
        write(f"tables/{grid.name}.csv", csv_text(grid))
    for chart in (chart for part in parts for chart in part.charts if figures):
        for kind, content in pictures(chart).items():
            write(f"figures/{chart.name}.{kind}", content)
    return written


def study_page(study: Mapping[str, Any]) -> str:
    """Return ``report.md`` alone; its figures are links into ``figures/``.

    Args:
        study: The object of ``study.json``; it is not modified.

    Raises:
        LayerticketError: If the object is no study of a known schema.
    """
    known = _known(study)
    return report_text(known, sections(known))


def _known(study: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a study that is judged by the rules of today, without what no page can hold."""
    _check(study)
    known: Mapping[str, Any] = clean({**study, "verdict": study["verdict"] or UNJUDGED})
    return known


def _check(study: Mapping[str, Any]) -> None:
    """Refuse what is no study."""
    lacking = [key for key in NEEDED if key not in study]
    if lacking:
        raise LayerticketError(
            f"the study lacks {lacking[0]!r}. Give the object of study.json, as "
            "`layerticket study run` writes it."
        )
    if study["schema"] != SCHEMA:
        raise LayerticketError(
            f"the study has schema {study['schema']}, but schema {SCHEMA} is known. "
            "Run the study again with this version of layerticket."
        )


def _grids(study: Mapping[str, Any], parts: list[Section]) -> Iterator[Grid]:
    """Name every table once; those of charts lie beside their figures."""
    named = {grid.name: grid for part in parts for grid in part.grids}
    named |= {chart.table.name: chart.table for part in parts for chart in part.charts}
    yield from (named | {"runs": runs_grid(study)}).values()


def _page(study: Mapping[str, Any], parts: list[Section]) -> str:
    """Fill the template."""
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as err:
        raise LayerticketError(
            f"the report needs {err.name}, which is not installed. "
            'Run: pip install "layerticket[report]"'
        ) from err
    maker = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    maker.filters["tie"] = _tie
    drawings = {chart.name: drawing(chart) for part in parts for chart in part.charts}
    return maker.from_string(_asset("page.html")).render(
        study=study,
        sections=parts,
        cards=cards(study),
        conditions=conditions(study),
        runs=runs_grid(study),
        failures=failures(study),
        wide={
            chart.name: 240 + 30 * len(chart.columns)
            for part in parts
            for chart in part.charts
            if isinstance(chart, HeatMap)
        },
        text_table=text_table,
        shown_columns=shown_columns,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        style=_asset("style.css"),
        script=_asset("script.js"),
        plotly=_in_script(get_plotlyjs()),
        drawings=_in_script(json.dumps(drawings, allow_nan=False).replace("<", "\\u003c")),
    )


def _asset(name: str) -> str:
    return (files("layerticket.report") / "assets" / name).read_text(encoding="utf-8")


def _tie(text: str) -> str:
    """Keep figures beside their unit, and set a minus as one."""
    tied = re.sub(r"(?<=\d) (?=(%|pp|Wh|kWh|s|min|h|g|kg|M)\b|%)", "\u00a0", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", tied)


def _in_script(code: str) -> str:
    """Keep code from ending its own script element."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
