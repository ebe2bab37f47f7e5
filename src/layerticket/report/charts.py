"""A chart as a value: what is drawn, not how. Enters: figures. Leaves: nothing but themselves.

Colours are names (`ink`, `blue`, ...) that whoever draws looks up, so that one chart serves light
and dark, screen and paper.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any, Literal

from layerticket.report import words
from layerticket.report.tables import Column, Grid

# source: M. Okabe, K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/
COLOURS = {
    "ink": "#1b1f24",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "grey": "#7a828c",
}
_TURNS = ("blue", "vermilion", "green", "purple", "orange", "sky", "grey")
_SHAPES = {
    "ticket": "circle",
    "lottery": "diamond",
    "control": "triangle-up",
    "last blocks": "triangle-down",
    "first blocks": "triangle-left",
    "even blocks": "triangle-right",
    "shallower": "square",
    "filters": "hexagon",
    "weights": "star",
    "imp": "pentagon",
    "equal_compute": "x",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one method is drawn."""

    colour: str
    """Name of a colour."""
    marker: str
    """Name of a shape."""


DENSE = Look(colour="ink", marker="cross")


def looks(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Give every method of a study its colour and its shape, by order of appearance.

    Args:
        comparisons: Those of the study.

    Returns:
        A look for each label; "dense" among them.
    """
    kinds = {one["method"]: one["kind"] for one in comparisons}
    found = {
        label: Look(
            colour=_TURNS[index % len(_TURNS)],
            marker=_SHAPES.get(label, _SHAPES.get(kind, "circle")),
        )
        for index, (label, kind) in enumerate(kinds.items())
    }
    return {"dense": DENSE} | found


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis."""

    title: str
    """What it measures, with the unit."""
    ticks: Sequence[tuple[float, str]] = ()
    """Places and texts instead of figures, for an axis of names."""
    downwards: bool = False
    """Whether small values are on top, as in a list."""
    span: tuple[float, float] | None = None
    """Where it begins and ends; None: where the data do, intervals included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points or a line that belong together."""

    label: str
    """Name in the legend."""
    x: Sequence[float]
    """Places to the right."""
    y: Sequence[float]
    """Places upwards."""
    colour: str
    """Name of a colour."""
    marker: str = "circle"
    """Name of a shape."""
    line: Literal["", "solid", "dash", "dot"] = ""
    """How points are joined; empty for points alone."""
    x_ends: Sequence[tuple[float, float] | None] = ()
    """Interval of each x, where there is one."""
    y_ends: Sequence[tuple[float, float] | None] = ()
    """Interval of each y, where there is one; a band around a line."""
    notes: Sequence[str] = ()
    """What a pointer at each point is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guide:
    """A straight line to read the points against."""

    at: float
    """Where it crosses its axis."""
    axis: Literal["x", "y"]
    """The axis it crosses."""
    label: str
    """What it stands for."""
    strong: bool = False
    """Whether it decides something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Points and lines over two axes."""

    name: str
    """Name of its files and of its place on the page."""
    title: str
    """What it shows."""
    caption: str
    """How to read it."""
    x: Axis
    """Axis to the right."""
    y: Axis
    """Axis upwards."""
    series: Sequence[Series]
    """What is drawn, in the order of the legend."""
    table: Grid
    """The same figures as a table."""
    guides: Sequence[Guide] = field(default_factory=tuple)
    """Lines to read against."""
    height: int = 420
    """Of the drawing, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Cells in rows and columns, shaded by value."""

    name: str
    """Name of its files and of its place on the page."""
    title: str
    """What it shows."""
    caption: str
    """How to read it."""
    columns: Sequence[str]
    """Names along the network."""
    rows: Sequence[str]
    """Names from top to bottom; all different."""
    values: Sequence[Sequence[float | None]]
    """Shade of each cell, in [0, 1]; None where there is nothing to shade."""
    marks: Sequence[Sequence[str]]
    """Text inside each cell."""
    notes: Sequence[Sequence[str]]
    """What a pointer at each cell is told."""
    scale: str
    """What the shade means, for the colour bar."""
    table: Grid
    """The same figures as a table."""
    breaks: Sequence[float] = ()
    """Places between columns where a new stage begins."""
    splits: Sequence[float] = ()
    """Places between rows where a new method begins."""
    floor: float = 0.0
    """Value of the lightest shade."""
    figures: bool = False
    """Whether the marks are figures, set small and plain."""


FIGURES = {
    "validation_accuracy": ("Validation accuracy", "validation accuracy, %", 100.0),
    "train_loss": ("Training loss", "training loss, nats", 1.0),
}
Row = tuple[str, int, float, float, float, int]


def curve_chart(
    study: Mapping[str, Any],
    model: str,
    budget: str | None,
    figure: str,
    look: Mapping[str, Look],
) -> Chart | None:
    """Draw one figure over the epochs: mean over seeds, with the range they span.

    Args:
        study: The object of ``study.json``.
        model: The network.
        budget: The budget; the dense network is drawn beside it.
        figure: "validation_accuracy" or "train_loss".
        look: Looks of the methods.

    Returns:
        The chart; None if no run of the budget has the figure.
    """
    title, axis, factor = FIGURES[figure]
    rows = [
        row
        for method, runs in _methods(study, model, budget).items()
        for row in _rows(method, runs, figure)
    ]
    if not {method for method, *_ in rows} - {"dense"}:
        return None
    series = []
    for method in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == method]
        series.append(
            Series(
                label=method,
                x=[float(row[1]) for row in mine],
                y=[factor * row[2] for row in mine],
                y_ends=[(factor * row[3], factor * row[4]) if row[5] > 1 else None for row in mine],
                colour=look[method].colour if method in look else "grey",
                line="dash" if method == "dense" else "solid",
                notes=[f"{method}, epoch {row[1]}: {factor * row[2]:.4g}" for row in mine],
            )
        )
    name = f"{figure.replace('_', ' ')} {model} {budget}"
    title = f"{title}, {model}, {budget}"
    return Chart(
        name=name,
        title=title,
        caption="Mean over seeds; the band spans the lowest to the highest seed.",
        x=Axis(title="epoch"),
        y=Axis(title=axis),
        series=series,
        table=_grid(name, title, rows),
        height=360,
    )


def _methods(
    study: Mapping[str, Any], model: str, budget: str | None
) -> dict[str, list[Mapping[str, Any]]]:
    """Collect finished runs of a budget and of dense, draws of one method together."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in study["runs"]:
        if run["model"] != model or run["status"] != "done" or not run["curve"]:
            continue
        if run["kind"] == "dense":
            found["dense"].append(run)
        elif run["budget"] == budget:
            found[run["label"]].append(run)
    return found


def _rows(method: str, runs: Sequence[Mapping[str, Any]], figure: str) -> list[Row]:
    values: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for point in run["curve"]:
            if point.get(figure) is not None:
                values[point["epoch"]].append(point[figure])
    return [
        (method, epoch, fmean(many), min(many), max(many), len(many))
        for epoch, many in sorted(values.items())
    ]


def _grid(name: str, title: str, rows: Sequence[Row]) -> Grid:
    columns = [
        Column(title="method", words=True),
        Column(title="epoch"),
        *(
            Column(title=part, show=lambda value: f"{value:.4g}")
            for part in ("mean", "low", "high")
        ),
        Column(title="runs"),
    ]
    return Grid(name=name, title=title, columns=columns, rows=rows)


Study_outcomes = Mapping[str, Any]
Comparison_outcomes = Mapping[str, Any]


def full_label(one: Comparison_outcomes, study: Study_outcomes) -> str:
    """Name a comparison; model and budget only where the study has several."""
    models = {other["model"] for other in study["comparisons"]}
    budgets = {other["budget"] for other in study["comparisons"]}
    parts = [one["method"]]
    parts += [str(one["budget"])] * (len(budgets) > 1) + [one["model"]] * (len(models) > 1)
    return ", ".join(parts)


def ends_of(figure: Mapping[str, Any], factor: float = 1.0) -> tuple[float, float] | None:
    """Return the interval of a figure, scaled; None if it has none."""
    if figure["low"] is None:
        return None
    return factor * figure["low"], factor * figure["high"]


def differences_grid(study: Study_outcomes) -> Grid:
    """List every comparison with dense: difference, verdict, what was saved."""
    ends = ("mean", "low", "high")
    columns = [
        Column(title="network", words=True, context=True),
        Column(title="budget", words=True, absent="", context=True),
        Column(title="method", words=True),
        Column(title="seeds"),
        Column(title="accuracy", show=words.accuracy),
        Column(title="difference to dense", show=_interval, parts=ends),
        Column(title="outcome", words=True),
        Column(title="after correction", words=True),
        Column(title="p", show=_p, absent="needs 2 seeds"),
        Column(title="p, corrected", show=_p, absent="needs 2 seeds"),
        Column(title="minimum detectable", show=words.difference, absent="needs 2 seeds"),
        Column(title="seeds for 80 % power", absent="—"),
        Column(title="failed seeds", absent="none"),
        Column(title="MACs", show=words.saving),
        Column(title="parameters", show=words.saving),
        Column(title="speed, search and training", show=_speed, parts=ends),
        Column(title="peak memory", show=words.saving),
        Column(title="energy", show=words.saving),
        Column(title="carbon", show=words.saving),
        Column(title="above random tickets", show=words.share, absent="—"),
    ]
    rows = [_difference_row(one) for one in study["comparisons"]]
    return Grid(name="comparisons", title="Every method against dense", columns=columns, rows=rows)


def _interval(value: Sequence[float | None]) -> str:
    return words.interval(dict(zip(("mean", "low", "high"), value, strict=True)))


def _speed(value: Sequence[float | None]) -> str:
    return words.speedup(dict(zip(("mean", "low", "high"), value, strict=True)))


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _triple(figure: Mapping[str, Any]) -> tuple[Any, ...] | None:
    return None if figure["mean"] is None else (figure["mean"], figure["low"], figure["high"])


def _difference_row(one: Comparison_outcomes) -> tuple[Any, ...]:
    return (
        one["model"],
        one["budget"],
        one["method"],
        one["n"],
        one["accuracy"]["mean"],
        _triple(one["difference"]),
        one["outcome"],
        one["outcome_adjusted"],
        one["p_value"],
        one["p_adjusted"],
        one["minimum_detectable"],
        one["seeds_needed"],
        " ".join(str(seed) for seed in one["failed_seeds"]) or None,
        one["macs_saving"],
        one["params_saving"],
        _triple(one["speedup"]),
        one["memory_saving"],
        one["energy_saving"],
        one["co2_saving"],
        one["percentile"],
    )


def difference_chart(study: Study_outcomes, look: Mapping[str, Look]) -> Chart | None:
    """Draw every method's difference to dense with its interval against the margin."""
    shown = [one for one in study["comparisons"] if one["n"]]
    if not shown:
        return None
    labels = [full_label(one, study) for one in shown]
    series = [
        Series(
            label=label,
            x=[100 * one["difference"]["mean"]],
            y=[float(index)],
            colour=look[one["method"]].colour,
            marker=look[one["method"]].marker,
            x_ends=[ends_of(one["difference"], 100)],
            notes=[f"{label}: {words.interval(one['difference'])}, n = {one['n']}, "
                   f"{one['outcome']}"],
        )
        for index, (one, label) in enumerate(zip(shown, labels, strict=True))
    ]  # fmt: skip
    margin = 100 * study["margin"]
    return Chart(
        name="comparisons",
        title="Difference to the dense network",
        caption=(
            f"Mean over paired seeds with its {100 * study['confidence']:g} % interval. A method "
            f"wins if the whole interval lies right of the margin of {margin:g} percentage points "
            "(pp), and loses if all of it lies left; a point without a bar is one seed."
        ),
        x=Axis(title="test accuracy, method minus dense, pp"),
        y=Axis(title="", ticks=list(enumerate(labels)), downwards=True),
        series=series,
        guides=[
            Guide(at=0.0, axis="x", label="dense"),
            Guide(at=-margin, axis="x", label=f"margin {words.MINUS}{margin:g} pp", strong=True),
        ],
        table=differences_grid(study),
        height=130 + 34 * len(shown),
    )


def similarity_map(study: Mapping[str, Any], model: str, budget: str | None) -> HeatMap | None:
    """Draw how alike each method's layers are to those of the dense network, mean over runs.

    Args:
        study: The object of ``study.json``.
        model: The network.
        budget: The budget.

    Returns:
        Rows are methods, columns layers; None if similarity was not measured.
    """
    runs = [
        run
        for run in study["runs"]
        if (run["model"], run["budget"]) == (model, budget) and run["similarity"]
    ]
    if not runs:
        return None
    fullest = max(runs, key=lambda run: len(run["similarity"]["layers"]))  # in order of depth
    columns = list(
        dict.fromkeys(name for run in (fullest, *runs) for name in run["similarity"]["layers"])
    )
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, value in run["similarity"]["layers"].items():
            if value is not None:
                found[run["method"]][name].append(value)
    means = {m: {name: fmean(v) for name, v in layers.items()} for m, layers in found.items()}
    name, title = f"similarity {model} {budget}", f"Similarity to dense, {model}, {budget}"
    heads = [Column(title="method", words=True), Column(title="layer", words=True)]
    heads += [Column(title="similarity", show=lambda value: f"{value:.3f}")]
    rows = [(m, layer, value) for m, layers in means.items() for layer, value in layers.items()]
    return HeatMap(
        name=name,
        title=title,
        caption=(
            "Centred kernel alignment (CKA) of each layer's outputs with those of the dense "
            "network of the same seed, mean over seeds: 1 is alike up to rotation and scale. "
            "Layers a method removed are left empty."
        ),
        columns=columns,
        rows=list(means),
        values=[[_unit(layers.get(name)) for name in columns] for layers in means.values()],
        marks=[[_mark(layers.get(name)) for name in columns] for layers in means.values()],
        figures=True,
        floor=_floor(means),
        notes=[[_note(m, c, layers.get(c)) for c in columns] for m, layers in means.items()],
        scale="CKA",
        table=Grid(name=name, title=title, columns=heads, rows=rows),
    )


def _unit(value: float | None) -> float | None:
    return None if value is None else min(max(value, 0.0), 1.0)


def _mark(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".removeprefix("0")


def _floor(means: Mapping[str, Mapping[str, float]]) -> float:
    """Start the shades at the tenth below the least value, so that differences show."""
    least = min((value for layers in means.values() for value in layers.values()), default=0.0)
    return min(max(math.floor(10 * least) / 10, 0.0), 0.9)


def _note(method: str, layer: str, value: float | None) -> str:
    return f"{method}: {layer} removed" if value is None else f"{method}: {layer} {value:.3f}"


Run = Mapping[str, Any]


def strip_map(study: Mapping[str, Any], model: str, budget: str | None) -> HeatMap | None:
    """Draw which blocks each ticket of a network removed, shaded by the rank of their scores.

    Args:
        study: The object of ``study.json``.
        model: The network.
        budget: The budget.

    Returns:
        Rows are runs, columns the removable blocks in depth; None if no run removed blocks.
    """
    runs = [
        run
        for run in study["runs"]
        if (run["model"], run["budget"]) == (model, budget) and run["removed"]
    ]
    if not runs:
        return None
    order = list(dict.fromkeys(run["method"] for run in runs))
    runs.sort(key=lambda run: (order.index(run["method"]), run["seed"]))
    known = study["networks"].get(model, {}).get("blocks", [])
    blocks = [block["name"] for block in sorted(known, key=lambda block: block["position"])]
    seen = dict.fromkeys(name for run in runs for name in (*run["kept"], *run["removed"]))
    columns = blocks + [name for name in seen if name not in blocks]
    title = f"Blocks removed, {model}, {budget}"
    return HeatMap(
        name=f"blocks {model} {budget}",
        title=title,
        caption=(
            "Each row is one ticket, from the first block on the left to the last; × marks what "
            "was removed. The darker a block, the higher its score stands among those of its row; "
            "rows without scores are not shaded. Lines part the stages."
        ),
        columns=columns,
        rows=[f"{run['method']} · seed {run['seed']}" for run in runs],
        values=[_ranks(run["scores"] or {}, columns) for run in runs],
        marks=[["×" if name in run["removed"] else "" for name in columns] for run in runs],
        notes=[[_note_strips(run, name) for name in columns] for run in runs],
        scale="rank of score",
        splits=[
            index - 0.5
            for index in range(1, len(runs))
            if runs[index]["method"] != runs[index - 1]["method"]
        ],
        table=_grid_strips(f"blocks {model} {budget}", title, runs, columns),
        breaks=_breaks(known, columns),
    )


def _ranks(scores: Mapping[str, float], columns: Sequence[str]) -> list[float | None]:
    """Rank scores within a row, 0 for the lowest and 1 for the highest."""
    order = sorted(set(scores.values()))
    most = max(len(order) - 1, 1)
    return [order.index(scores[name]) / most if name in scores else None for name in columns]


def _note_strips(run: Run, name: str) -> str:
    fate = "removed" if name in run["removed"] else "kept" if name in run["kept"] else "not scored"
    score = (run["scores"] or {}).get(name)
    text = f"{run['method']}, seed {run['seed']}: {name} {fate}"
    return text if score is None else f"{text}, score {score:.4g}"


def _breaks(blocks: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[float]:
    """Find where one stage ends and the next begins."""
    stages = {block["name"]: block["stage"] for block in blocks}
    return [
        index - 0.5
        for index in range(1, len(columns))
        if stages.get(columns[index]) != stages.get(columns[index - 1])
    ]


def _grid_strips(name: str, title: str, runs: Sequence[Run], columns: Sequence[str]) -> Grid:
    heads = [
        Column(title="method", words=True),
        Column(title="seed"),
        Column(title="block", words=True),
        Column(title="removed", words=True),
        Column(title="score", show=lambda value: f"{value:.4g}", absent="not scored"),
    ]
    rows = [
        (
            run["method"],
            run["seed"],
            block,
            "removed" if block in run["removed"] else "kept",
            (run["scores"] or {}).get(block),
        )
        for run in runs
        for block in columns
        if block in run["removed"] or block in run["kept"]
    ]
    return Grid(name=name, title=title, columns=heads, rows=rows)


Study = Mapping[str, Any]
Comparison = Mapping[str, Any]


def accuracy_chart(study: Study, model: str, look: Mapping[str, Look]) -> Chart | None:
    """Draw accuracy over MACs for one network: dense, tickets, rivals."""
    shown = [
        one
        for one in study["comparisons"]
        if one["model"] == model and one["n"] and one["macs_saving"] is not None
    ]
    macs = study["networks"].get(model, {}).get("macs")
    if not shown or not macs:
        return None
    rows: list[tuple[Any, ...]] = []
    series = [_dense_point(study, model, macs, look["dense"], rows)]
    for method in dict.fromkeys(one["method"] for one in shown):
        mine = [one for one in shown if one["method"] == method]
        points = [_point(one, macs) for one in mine]
        rows += [(method, one["budget"], x, y, ends, one["n"]) for one, (x, y, ends)
                 in zip(mine, points, strict=True)]  # fmt: skip
        series.append(
            Series(
                label=method,
                x=[x / 1e6 for x, _, _ in points],
                y=[100 * y for _, y, _ in points],
                y_ends=[ends and (100 * ends[0], 100 * ends[1]) for _, _, ends in points],
                colour=look[method].colour,
                marker=look[method].marker,
                line="dot" if len(points) > 1 else "",
                notes=[
                    f"{method}, {one['budget']}: {words.accuracy(y)} at {words.millions(x)} MACs"
                    for one, (x, y, _) in zip(mine, points, strict=True)
                ],
            )
        )
    return _accuracy_over_macs(study, model, _side_by_side(series), rows)


def _dense_point(
    study: Study, model: str, macs: float, look: Look, rows: list[tuple[Any, ...]]
) -> Series:
    """Place the dense network, with one deviation over its seeds."""
    values = [
        run["test_accuracy"]
        for run in study["runs"]
        if run["kind"] == "dense" and run["model"] == model and run["test_accuracy"] is not None
    ]
    mean = fmean(values)
    spread = stdev(values) if len(values) > 1 else None
    ends = None if spread is None else (mean - spread, mean + spread)
    rows.append(("dense", None, macs, mean, ends, len(values)))
    return Series(
        label="dense",
        x=[macs / 1e6],
        y=[100 * mean],
        y_ends=[ends and (100 * ends[0], 100 * ends[1])],
        colour=look.colour,
        marker=look.marker,
        notes=[f"dense: {words.accuracy(mean)} at {words.millions(macs)} MACs"],
    )


def _point(one: Comparison, macs: float) -> tuple[float, float, tuple[float, float] | None]:
    """Place a method: MACs, accuracy, and the paired interval drawn about it."""
    mean, offset = one["accuracy"]["mean"], one["dense_accuracy"]["mean"]
    ends = ends_of(one["difference"])
    around = None if ends is None else (offset + ends[0], offset + ends[1])
    return macs * (1 - one["macs_saving"]), mean, around


def _side_by_side(series: Sequence[Series]) -> list[Series]:
    """Set points of equal cost a little apart, so that none hides another."""
    places = sorted(x for one in series for x in one.x)
    step, moved = 0.009 * places[-1], []
    taken: dict[int, int] = {}
    alike = [sum(abs(x - other) < step for other in places) for x in places]
    width = dict(zip(places, alike, strict=True))
    for one in series:
        x_new = []
        for x in one.x:
            at = taken[round(x / step)] = taken.get(round(x / step), -1) + 1
            x_new.append(x + step * (at - (width[x] - 1) / 2))
        moved.append(replace(one, x=x_new))
    return moved


def _accuracy_over_macs(
    study: Study, model: str, series: Sequence[Series], rows: Sequence[tuple[Any, ...]]
) -> Chart:
    columns = [
        Column(title="method", words=True),
        Column(title="budget", words=True, absent="", context=True),
        Column(title="MACs", show=words.millions),
        Column(title="accuracy", show=words.accuracy),
        Column(title="from, to", show=_from_to, parts=("low", "high"), absent="one seed"),
        Column(title="seeds"),
    ]
    title = f"Accuracy against cost, {model}"
    return Chart(
        name=f"accuracy {model}",
        title=title,
        caption=(
            "Test accuracy over multiply-accumulates per image; up and to the left is better. "
            f"Bars: the {100 * study['confidence']:g} % interval of the paired difference to "
            "dense, drawn about each method; for dense one standard deviation over seeds. Methods "
            "of equal cost are set side by side. Networks with masked weights stand at the cost "
            "of dense: masks save no time."
        ),
        x=Axis(title="million MACs per image"),
        y=Axis(title="test accuracy, %"),
        series=series,
        table=Grid(name=f"accuracy {model}", title=title, columns=columns, rows=rows),
    )


def _from_to(value: Sequence[float]) -> str:
    return f"{100 * value[0]:.2f} to {100 * value[1]:.2f} %"


Study_dots = Mapping[str, Any]
Comparison_dots = Mapping[str, Any]
SAVINGS = {
    "macs_saving": "MACs",
    "params_saving": "parameters",
    "speedup": "time, search and training",
    "memory_saving": "peak memory",
    "energy_saving": "energy",
    "co2_saving": "carbon",
}
Point = tuple[float, tuple[float, float] | None, str]


def _dots(
    shown: Sequence[Comparison_dots],
    rows: Sequence[str],
    look: Mapping[str, Look],
    point: Callable[[Comparison_dots, str], Point | None],
) -> list[Series]:
    """Place one point for each method in each row, methods below each other in a row."""
    series = []
    for index, one in enumerate(shown):
        place = 0.64 * ((index + 0.5) / len(shown) - 0.5)
        found = [(number, dot) for number, row in enumerate(rows) if (dot := point(one, row))]
        series.append(
            Series(
                label=one["method"],
                x=[dot[0] for _, dot in found],
                y=[number + place for number, _ in found],
                x_ends=[dot[1] for _, dot in found],
                colour=look[one["method"]].colour,
                marker=look[one["method"]].marker,
                notes=[dot[2] for _, dot in found],
            )
        )
    return series


def _height(rows: int, methods: int) -> int:
    return 130 + rows * max(34, 13 * methods)


def _of(study: Study_dots, model: str, budget: str) -> list[Comparison_dots]:
    return [
        one
        for one in study["comparisons"]
        if (one["model"], one["budget"]) == (model, budget) and one["n"]
    ]


def cost_chart(
    study: Study_dots, model: str, budget: str, look: Mapping[str, Look]
) -> Chart | None:
    """Draw what each method needs of what the dense network needs, figure by figure."""
    shown = _of(study, model, budget)
    rows = [row for row in SAVINGS if any(_need(one, row) is not None for one in shown)]
    if not rows:
        return None

    def point(one: Comparison_dots, row: str) -> Point | None:
        need = _need(one, row)
        if need is None:
            return None
        value, ends = need
        return value, ends, f"{one['method']}: {value:.1f} % of the {SAVINGS[row]} of dense"

    needs = [need[0] for one in shown for row in rows if (need := _need(one, row)) is not None]
    return Chart(
        name=f"cost {model} {budget}",
        title=f"Cost of training beside dense, {model}, {budget}",
        caption=(
            "Percent of what the dense network needs; left is cheaper. MACs and parameters are "
            "counted, the rest is measured on the same machine; what was not measured is left out. "
            "A bar that leaves the chart goes on beyond it. "
            f"{_at_once(study)}"
        ),
        x=Axis(title="percent of dense", span=(0.0, 1.25 * max(100.0, *needs))),
        y=Axis(title="", ticks=[(i, SAVINGS[r]) for i, r in enumerate(rows)], downwards=True),
        series=_dots(shown, rows, look, point),
        guides=[Guide(at=100.0, axis="x", label="dense")],
        table=cost_grid(study, model, budget),
        height=_height(len(rows), len(shown)),
    )


def _at_once(study: Study_dots) -> str:
    """Say how many trainings shared the machine, on which times depend."""
    workers, threads = (study["environment"].get(key) for key in ("workers", "threads"))
    if workers is None:
        return "How many trainings ran side by side was not recorded; times depend on it."
    each = f" of {threads} thread{'s' * (threads > 1)} each" if threads else ""
    if workers == 1:
        return f"One training at a time{each}."
    return f"Times are those of {workers} workers{each}, side by side on one machine."


def _need(one: Comparison_dots, row: str) -> tuple[float, tuple[float, float] | None] | None:
    """Percent of dense a method needs, with an interval for the time."""
    if row != "speedup":
        return None if one[row] is None else (100 * (1 - one[row]), None)
    mean, low, high = (one[row][end] for end in ("mean", "low", "high"))
    if mean is None:
        return None
    return 100 / mean, None if low is None else (100 / high, 100 / low)


FIGURES_dots = (
    ("macs", Column(title="MACs", show=words.millions)),
    ("params", Column(title="parameters", show=words.count)),
    ("train_seconds", Column(title="training", show=words.duration)),
    ("search_seconds", Column(title="search", show=words.duration)),
    ("images_per_second", Column(title="images/s", show=words.count)),
    ("peak_memory_bytes", Column(title="peak memory", show=words.memory)),
    ("energy_kwh", Column(title="energy", show=words.energy)),
    ("co2_kg", Column(title="CO2e", show=words.carbon)),
)  # fmt: skip


def cost_grid(study: Study_dots, model: str, budget: str) -> Grid:
    """List the cost of one run of each method, mean over its finished runs."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for run in study["runs"]:
        beside = run["kind"] == "dense" or run["budget"] == budget
        if run["model"] == model and beside and run["status"] == "done":
            runs.setdefault(run["label"], []).append(run)
    rows = [
        (method, len(many), *(_mean(many, figure) for figure, _ in FIGURES_dots))
        for method, many in runs.items()
    ]
    columns = [
        Column(title="method", words=True),
        Column(title="runs"),
        *(c for _, c in FIGURES_dots),
    ]
    title = f"Cost of one run, {model}, {budget}"
    return Grid(name=f"cost {model} {budget}", title=title, columns=columns, rows=rows)


def _mean(runs: Sequence[Mapping[str, Any]], figure: str) -> float | None:
    values = [run[figure] for run in runs if run[figure] is not None]
    return fmean(values) if values else None


def robustness_chart(
    study: Study_dots, model: str, budget: str, look: Mapping[str, Look]
) -> Chart | None:
    """Draw differences to dense on shifted, corrupted and attacked images."""
    shown = _of(study, model, budget)
    names = list(dict.fromkeys(name for one in shown for name in one["evaluations"]))
    if not names:
        return None
    titles = {
        name: found.get("title") or name
        for run in study["runs"]
        for name, found in (run["evaluations"] or {}).items()
    }

    def point(one: Comparison_dots, name: str) -> Point | None:
        found = one["evaluations"].get(name)
        if found is None:
            return None
        told = f"{one['method']} on {titles[name]}: {words.interval(found)}"
        return 100 * found["mean"], ends_of(found, 100), told

    name = f"robustness {model} {budget}"
    title = f"Accuracy on other images, {model}, {budget}"
    return Chart(
        name=name,
        title=title,
        caption=(
            "Difference to the dense network of the same seed, percentage points, with its "
            f"{100 * study['confidence']:g} % interval; right is better. A network that is less "
            "accurate on clean images is expected to be less accurate here too."
        ),
        x=Axis(title="accuracy, method minus dense, pp"),
        y=Axis(title="", ticks=[(i, titles[n]) for i, n in enumerate(names)], downwards=True),
        series=_dots(shown, names, look, point),
        guides=[Guide(at=0.0, axis="x", label="dense")],
        table=_robustness_grid(name, title, shown, titles),
        height=_height(len(names), len(shown)),
    )


def _robustness_grid(
    name: str, title: str, shown: Sequence[Comparison_dots], titles: Mapping[str, str]
) -> Grid:
    columns = [
        Column(title="method", words=True),
        Column(title="images", words=True),
        Column(title="seeds"),
        Column(
            title="difference to dense",
            show=lambda v: words.interval(dict(zip(("mean", "low", "high"), v, strict=True))),
            parts=("mean", "low", "high"),
        ),
    ]
    rows = [
        (one["method"], titles[key], found["n"], (found["mean"], found["low"], found["high"]))
        for one in shown
        for key, found in one["evaluations"].items()
    ]
    return Grid(name=name, title=title, columns=columns, rows=rows)


Study_collect = Mapping[str, Any]


def pairs_of(study: Study_collect) -> list[tuple[str, str]]:
    """List the pairs of network and budget a study has, in its order."""
    return list(dict.fromkeys((one["model"], one["budget"]) for one in study["comparisons"]))


def charts_of(study: Study_collect) -> dict[str, list[Chart | HeatMap]]:
    """Draw up every chart a study has figures for.

    Args:
        study: The object of ``study.json``.

    Returns:
        Section -> its charts, each with a name no other has; sections without charts are empty.
    """
    look, pairs = looks(study["comparisons"]), pairs_of(study)
    models = dict.fromkeys(model for model, _ in pairs)
    found: dict[str, Sequence[Chart | HeatMap | None]] = {
        "differences": [difference_chart(study, look)],
        "accuracy": [accuracy_chart(study, model, look) for model in models],
        "blocks": [strip_map(study, *pair) for pair in pairs],
        "curves": [curve_chart(study, *pair, figure, look) for pair in pairs for figure in FIGURES],
        "cost": [cost_chart(study, *pair, look) for pair in pairs],
        "robustness": [robustness_chart(study, *pair, look) for pair in pairs],
        "similarity": [similarity_map(study, *pair) for pair in pairs],
    }
    taken: set[str] = set()
    return {
        section: [_named(chart, taken) for chart in charts if chart is not None]
        for section, charts in found.items()
    }


def slug(text: str) -> str:
    """Spell a name so that every file system and every link takes it.

    Example:
        >>> slug("accuracy timm:resnet18, remove 5")
        'accuracy-timm-resnet18-remove-5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unnamed"


def _named(chart: Chart | HeatMap, taken: set[str]) -> Chart | HeatMap:
    """Give a chart and its table a name of their own."""
    base = name = slug(chart.name)[:80]
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name)
    return replace(chart, name=name, table=replace(chart.table, name=name))
