"""The charts of a study. Each is a function from points to a Vega-Lite specification.

To add one: write its table in tables.py and its function here, decorated with `chart`.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from layerticket.report import tables
from layerticket.report.draw import SHAPES, Spec
from layerticket.report.tables import Study, Table
from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison

Point = dict[str, Any]
Draw = Callable[[Study, list[Point]], Spec]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One kind of chart."""

    name: str
    """First part of its file names."""
    section: str
    """Section of the page."""
    title: str
    per: Literal["study", "model", "budget"]
    """Scope of one drawing: the whole study, each network, or each network and budget."""
    table: Callable[[Study], Table]
    """Its data; without rows it is not drawn."""
    function: Draw
    """Returns the chart of the points of its table; its "description" says how to read it."""
    figures: Callable[[Study], Table] | None = None
    """The table shown with it, if not the table of its points."""


CHARTS: list[Chart] = []
"""All charts, in their order on the page."""


def chart(
    name: str,
    *,
    section: str,
    title: str,
    table: Callable[[Study], Table],
    per: Literal["study", "model", "budget"] = "budget",
    figures: Callable[[Study], Table] | None = None,
) -> Callable[[Draw], Draw]:
    """Register a function as a chart of every report; for the arguments see `Chart`."""

    def add(function: Draw) -> Draw:
        CHARTS.append(
            Chart(
                name=name,
                section=section,
                title=title,
                per=per,
                table=table,
                function=function,
                figures=figures,
            )
        )
        return function

    return add


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A chart of one study, or of one part of it."""

    name: str
    """Unique name for its files and its anchor on the page."""
    section: str
    title: str
    caption: str
    spec: Spec
    table: Table


def drawings(study: Study) -> list[Drawing]:
    """Return every chart that a study has data for, in their order on the page."""
    taken: set[str] = set()
    return [
        Drawing(
            name=_unique(name, taken),
            section=chart.section,
            title=title,
            caption=(spec := _slim(chart.function(part, table.points)))["description"],
            spec=spec,
            table=chart.figures(part) if chart.figures else table,
        )
        for chart in CHARTS
        for name, title, part in _parts(study, chart)
        if (table := chart.table(part)).rows
    ]


def _parts(study: Study, chart: Chart) -> Iterator[tuple[str, str, Study]]:
    if chart.per == "study":
        yield chart.name, chart.title, study
        return
    for part in study.models if chart.per == "model" else study.budgets:
        of = [part.rows[0].model]
        of += [row.budget for row in part.rows if row.budget][:1] if chart.per == "budget" else []
        yield " ".join((chart.name, *of)), ", ".join((chart.title, *of)), part


def _slim(spec: Spec) -> Spec:
    """Remove values that the chart does not use, and round the others to 6 digits."""
    text = json.dumps({key: one for key, one in spec.items() if key != "data"})
    used = set(re.findall(r'(?:"field": "|datum\.)(\w+)', text)) | {"method"}

    def short(value: object) -> object:
        return float(f"{value:.6g}") if isinstance(value, float) else value

    points = [
        {key: short(one) for key, one in point.items() if key in used}
        for point in spec["data"]["values"]
    ]
    return spec | {"data": {"values": points}}


def slug(text: str) -> str:
    """Return a name in a form that is valid in every file system and link.

    Example:
        >>> slug("accuracy timm:resnet18, remove 5")
        'accuracy-timm-resnet18-remove-5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unnamed"


def _unique(name: str, taken: set[str]) -> str:
    base = name = slug(name)[:80]
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name)
    return name


# The charts.


@chart(
    "networks",
    section="overview",
    title="Every network and method",
    per="study",
    table=tables.networks_table,
)
def networks_chart(study: Study, points: list[Point]) -> Spec:
    """Draw accuracy over MACs of all networks."""
    for point in points:
        _percent(point, "accuracy")
        point["macs"] /= 1e6
    _side_by_side(points)
    x = _axis("macs", "million MACs per image")
    if max(p["macs"] for p in points) > 4 * min(p["macs"] for p in points) > 0:
        x["scale"] = {"type": "log", "nice": False, "padding": 20}
    accuracies = [point["accuracy"] for point in points]
    y = _axis("accuracy", "test accuracy, %", _span(accuracies, 0.0, 100.0))
    place = {"x": x, "y": y}
    name = {"type": "text", "dy": -14, "align": "right", "style": "dense"}
    return {
        "description": (
            "Test accuracy over multiply-accumulates per image, mean over seeds; up and to the "
            "left is better. The name of a network is next to its dense form. The intervals are "
            "below, network by network."
        ),
        **_SIZE,
        "height": 380,
        "data": {"values": points},
        "layer": _layers(
            [
                {
                    "transform": [{"filter": "datum.method == 'dense'"}],
                    "mark": name,
                    "encoding": place | {"text": {"field": "network"}},
                },
                _dots(place),
            ],
            _style(study, points),
        ),
    }


@chart(
    "comparisons",
    section="differences",
    title="Difference to the dense network",
    per="study",
    table=tables.differences_table,
    figures=tables.comparisons_table,
)
def comparisons_chart(study: Study, points: list[Point]) -> Spec:
    """Draw the difference of every method to dense with its intervals, and the margin."""
    known = [one for one in study.judged if one.difference.mean is not None]
    for one, point in zip(known, points, strict=True):
        _percent(point, "mean", "low", "high", "seeds_low", "seeds_high")
        _limit_difference(point, one)
        point["name"] = study.label(one)
    names = list(dict.fromkeys(point["name"] for point in points))
    margin = f"margin {words.points(-study.margin)}".replace("-", "\u2212")
    y = _names("name", names, axis=_ROWS)
    least = min(point["least"] for point in points)
    ends = [*_ends(points, "mean"), 0.0, -100 * study.margin]
    ends.append(0.12 * (max(ends) - min(ends)))  # room for the name of the line at 0
    x = _axis("mean", "method minus dense, pp", _span(ends, least, least + 100))
    shared = {"y": y, **_style(study, points, legend=False)}
    return {
        "description": (
            "Difference in test accuracy: mean over paired seeds with the "
            f"{words.interval_name(study.confidence)} that decides (thin bar) and, where it "
            "differs, the one over seeds alone (thick bar). A method wins "
            f"if its whole thin bar is right of the margin of {words.points(study.margin)} "
            "(percentage points), and loses if all of it is left; a point without a bar is one "
            "seed. An arrow marks a bar that is clipped where no difference is possible. "
            "Accuracies in the table are mean ± standard deviation (SD) over seeds."
        ),
        **_SIZE,
        "height": {"step": 34},
        "data": {"values": points},
        "layer": [
            _line("x", 0.0, "dense", style="dense"),
            _line("x", -100 * study.margin, margin, style="margin", side="right"),
            *_layers([*_interval("x", x, low="seeds_low", high="seeds_high", style="seeds"),
                              *_interval("x", x), _dots({"x": x})], shared),
        ],
    }  # fmt: skip


@chart("seeds", section="differences", title="Seed by seed", table=tables.seeds_table)
def seeds_chart(study: Study, points: list[Point]) -> Spec:
    """Draw the difference of every method to dense in each seed."""
    for point in points:
        _percent(point, "difference")
    seeds = sorted({point["seed"] for point in points})
    x = _names("seed", seeds, axis={"labelAngle": 0, "title": "seed", "grid": False})
    ends = [*_ends(points, "difference"), 0.0, -100 * study.margin]
    y = _axis("difference", "method minus dense, pp", _span(ends, -100.0, 100.0))
    margin = f"margin {words.points(-study.margin)}".replace("-", "\u2212")
    return {
        "description": (
            "Each line is one method, each point the difference to the dense network of that seed, "
            "random draws averaged. Lines that move together show seeds that are hard for all."
        ),
        **_SIZE,
        "height": 260,
        "data": {"values": points},
        "layer": [
            _line("y", 0.0, "dense", style="dense"),
            _line("y", -100 * study.margin, margin, style="margin"),
            *_layers(
                [
                    {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"x": x, "y": y}},
                    _dots({"x": x, "y": y}),
                ],
                _style(study, points),
            ),
        ],
    }


@chart(
    "accuracy",
    section="accuracy",
    title="Accuracy against cost",
    per="model",
    table=tables.accuracy_table,
)
def accuracy_chart(study: Study, points: list[Point]) -> Spec:
    """Draw accuracy over MACs of one network: dense, tickets, baselines."""
    for point in points:
        _percent(point, "accuracy", "low", "high")
        _cut(point, 0.0, 100.0)
        point["macs"] /= 1e6
    _side_by_side(points)
    x = _axis("macs", "million MACs per image")
    y = _axis("accuracy", "test accuracy, %", _span(_ends(points, "accuracy"), 0.0, 100.0))
    several = len({point["budget"] for point in points}) > 2
    line = [{"mark": {"type": "line", "strokeDash": [2, 3]}, "encoding": {"x": x, "y": y}}]
    return {
        "description": (
            "Test accuracy over multiply-accumulates per image; up and to the left is better. "
            f"Bars: the {words.interval_name(study.confidence)} of the paired difference to dense, "
            "drawn around each method; for dense one standard deviation over seeds. An arrow marks "
            "a bar that is clipped at 0 or 100 %. Methods of equal cost are side by side. Networks "
            "with masked weights are at the cost of dense: masks save no time."
        ),
        **_SIZE,
        "height": 360,
        "data": {"values": list(points)},
        "layer": _layers(
            [*line * several, *_interval("y", y, place={"x": x}), _dots({"x": x, "y": y})],
            _style(study, points),
        ),
    }


def _side_by_side(points: Sequence[Point]) -> None:
    """Move points of equal cost a little apart, so that all are visible."""
    step = 0.009 * max(point["macs"] for point in points)
    true = [point["macs"] for point in points]
    taken: dict[int, int] = {}
    for point, at in zip(points, true, strict=True):
        alike = sum(abs(at - other) < step for other in true)
        place = taken[round(at / step)] = taken.get(round(at / step), -1) + 1
        point["macs"] = at + step * (place - (alike - 1) / 2)


@chart(
    "blocks",
    section="blocks",
    title="Blocks removed",
    table=tables.removed_table,
    figures=tables.tickets_table,
)
def removed_chart(study: Study, points: list[Point]) -> Spec:
    """Draw which blocks each ticket removed, and the ranks of their scores."""
    rows: dict[str, list[Point]] = {}
    for point in points:
        draw = "" if point["draw"] is None else f" {point['draw']}"
        point["row"] = f"{point['method']}{draw} · seed {point['seed']}"
        rows.setdefault(point["row"], []).append(point)
    for of in rows.values():
        order = sorted({point["score"] for point in of if point["score"] is not None})
        for point in of:
            known = point["score"] is not None
            point["rank"] = order.index(point["score"]) / max(len(order) - 1, 1) if known else None
    blocks = [
        block for block in tables.block_order(study) if any(p["block"] == block for p in points)
    ]
    stages = {
        block["name"]: block["stage"]
        for known in study.networks.values()
        for block in known.get("blocks", ())
    }
    edges = [b for a, b in itertools.pairwise(blocks) if stages.get(a) != stages.get(b)]
    names = list(rows)
    splits = [
        name
        for before, name in itertools.pairwise(names)
        if rows[before][0]["method"] != rows[name][0]["method"]
    ]
    return _map(
        points,
        x=("block", blocks),
        y=("row", names),
        shade=("rank", "rank of score", 0.0),
        texts=("cross", "datum.removed == 'removed'", {"value": "×"}),
        edges=edges,
        splits=splits,
        description=(
            "Each row is one ticket, from the first block on the left to the last; × marks removed "
            "blocks. The darker a block, the higher its score within its row; rows without scores "
            "are not shaded. Lines separate the stages."
        ),
    )  # fmt: skip


@chart(
    "worth",
    section="worth",
    title="What each block is worth",
    per="model",
    table=tables.worth_table,
)
def worth_chart(study: Study, points: list[Point]) -> Spec:
    """Draw what each block is worth, and below it the ranks that each criterion gives."""
    lost = [point | {"of": "worth"} for point in points]
    for point in lost:
        _percent(point, "mean", "low", "high")
        _cut(point, -100.0, 100.0)
    blocks = [point["block"] for point in lost]
    ranks = [p | {"of": "rank"} for p in tables.rank_table(study).points if p["block"] in blocks]
    for point in ranks:
        point["rank"] = (point["place"] - 1) / max(point["blocks"] - 1, 1)
        point["text"] = f"{point['place']:.1f}".removesuffix(".0")
    across = _names("block", blocks, axis={"labels": not ranks, "labelAngle": -60, "ticks": False})
    y = _axis("mean", "accuracy lost, pp", _span([*_ends(lost, "mean"), 0.0], -100.0, 100.0))
    bars: Spec = {
        "height": 180,
        "transform": [{"filter": "datum.of == 'worth'"}],
        "layer": [
            _line("y", 0.0, "", style="dense"),
            *(
                layer | {"encoding": {"x": across} | layer["encoding"]}
                for layer in (*_interval("y", y), _dots({"y": y}))
            ),
        ],
    }
    methods = list(dict.fromkeys(point["method"] for point in ranks))
    below = _map(
        [],
        x=("block", blocks),
        y=("method", methods),
        shade=("rank", "rank of score", 0.0),
        texts=("number", "true", {"field": "text"}),
        description="",
    )
    for key in ("data", "description", "width"):
        del below[key]
    below["transform"] = [{"filter": "datum.of == 'rank'"}]
    return {
        "description": (
            "Above: accuracy of the dense network minus that of the network trained without this "
            "block alone, mean over paired seeds with the "
            f"{words.interval_name(study.confidence)}; higher: the block is worth more. Below: "
            "mean rank of the block's score in each criterion, 1 is removed first. A criterion "
            "that ranks by worth is dark where the points are high."
        ),
        "data": {"values": [*lost, *ranks]},
        "vconcat": [view | {"width": {"step": 40}} for view in (bars, *([below] if ranks else []))],
        "resolve": {"scale": {"x": "shared"}},
    }


@chart(
    "similarity",
    section="similarity",
    title="Similarity to dense",
    table=tables.similarity_table,
)
def similarity_chart(study: Study, points: list[Point]) -> Spec:
    """Draw the similarity of each method's layers to those of the dense network."""
    shown = {point["layer"] for point in points}
    measured = [row.similarity["layers"] for row in study.rows if row.similarity]
    layers = [name for name in _merged(measured) if name in shown]
    for point in points:
        point["shade"] = min(max(point["similarity"], 0.0), 1.0)
        point["text"] = f"{point['similarity']:.2f}".replace("0.", ".", 1)
    least = min(point["shade"] for point in points)
    return _map(
        points,
        x=("layer", layers),
        y=("method", list(dict.fromkeys(point["method"] for point in points))),
        # Start at the tenth below the smallest value, so that differences are visible.
        shade=("shade", "CKA", min(max(math.floor(10 * least) / 10, 0.0), 0.9)),
        texts=("number", "true" if len(layers) <= 32 else "false", {"field": "text"}),
        description=(
            "Centred kernel alignment (CKA) of each layer's outputs with those of the dense "
            "network of the same seed, mean over seeds: 1 means equal up to rotation and scale. "
            "Removed layers are empty."
        ),
    )


def _merged(orders: Sequence[Iterable[str]]) -> list[str]:
    """Merge orders of names: each name comes after its predecessor in the first list with it."""
    merged: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged


@chart(
    "cost",
    section="cost",
    title="Cost of training relative to dense",
    table=tables.need_table,
    figures=tables.cost_table,
)
def cost_chart(study: Study, points: list[Point]) -> Spec:
    """Draw the cost of each method relative to the dense network, one quantity per row."""
    for point in points:
        _percent(point, "need", "low", "high")
    most = 1.25 * max(100.0, *(point["need"] for point in points))
    for point in points:
        _cut(point, 0.0, most)
    beside = [row.jobs_beside for row in study.rows if row.jobs_beside is not None]
    shared = ""
    if any(row.train_seconds is not None for row in study.rows):
        shared = " " + words.shared_machine(
            study.environment.get("workers"),
            study.environment.get("threads"),
            max(beside, default=None),
        )
    return _rows_of_dots(
        study,
        points,
        figure=_axis("need", "percent of dense", (0.0, most)),
        row=("figure", list(tables.SAVINGS.values())),
        at=100.0,
        description=(
            "Percent of the cost of the dense network; left is cheaper. MACs and parameters are "
            "counted; the rest is measured, or not shown if it was not. "
            f"An arrow marks a bar that continues outside the chart.{shared}"
        ),
    )


@chart(
    "robustness",
    section="robustness",
    title="Accuracy on other images",
    table=tables.robustness_table,
    figures=tables.other_images_table,
)
def robustness_chart(study: Study, points: list[Point]) -> Spec:
    """Draw differences to dense on shifted, corrupted and attacked images."""
    for point in points:
        _percent(point, "mean", "low", "high")
        _cut(point, -100.0, 100.0)
    span = _span([*_ends(points, "mean"), 0.0], -100.0, 100.0)
    return _rows_of_dots(
        study,
        points,
        figure=_axis("mean", "method minus dense, pp", span),
        row=("images", list(dict.fromkeys(point["images"] for point in points))),
        at=0.0,
        description=(
            "Difference to the dense network of the same seed in percentage points, with its "
            f"{words.interval_name(study.confidence)}; right is better. A network that is less "
            "accurate on clean images is expected to be less accurate here too; where it is known, "
            "the table says what is left at equal clean accuracy, with an interval over seeds only."
        ),
    )


@chart(
    "validation accuracy",
    section="curves",
    title="Validation accuracy",
    table=partial(tables.curves_table, figure="validation_accuracy"),
    figures=partial(tables.by_epoch, figure="validation_accuracy", show=words.accuracy),
)
def validation_accuracy_chart(study: Study, points: list[Point]) -> Spec:
    """Draw validation accuracy over the epochs: mean over seeds, and every run."""
    runs = _run_points(study, "validation_accuracy", 100)
    for point in points:
        _percent(point, "mean")
    return _curves(study, points, runs, "validation accuracy, %", most=100.0)


@chart(
    "train loss",
    section="curves",
    title="Training loss",
    table=partial(tables.curves_table, figure="train_loss"),
    figures=partial(tables.by_epoch, figure="train_loss", show=words.figure),
)
def train_loss_chart(study: Study, points: list[Point]) -> Spec:
    """Draw training loss over the epochs."""
    return _curves(study, points, _run_points(study, "train_loss", 1), "training loss, nats")


def _run_points(study: Study, figure: str, factor: float) -> list[Point]:
    """Return every point of the curve of every run."""
    return [
        {
            "method": row.method,
            "run": f"{tables.row_name(row)}, seed {row.seed}",
            "epoch": point["epoch"],
            "value": factor * point[figure],
        }
        for row in study.done
        for point in row.curve
        if point.get(figure) is not None
    ]


_POINTS = 60
"""Maximum number of points per line; longer trainings show equally spaced epochs and the last."""


def _subsampled(points: Sequence[Point]) -> list[Point]:
    epochs = sorted({point["epoch"] for point in points}, reverse=True)
    kept = set(epochs[:: -(-len(epochs) // _POINTS)])
    return [point for point in points if point["epoch"] in kept]


def _curves(
    study: Study,
    means: Sequence[Point],
    runs: Sequence[Point],
    title: str,
    *,
    most: float = math.inf,
) -> Spec:
    means, runs = _subsampled(means), _subsampled(runs)
    points = [{k: v for k, v in one.items() if k not in ("low", "high")} for one in means]
    epochs = sorted({point["epoch"] for point in points})
    step = next(s for s in _STEPS if epochs[-1] <= 8 * s)
    ticks = [epoch for epoch in range(0, epochs[-1] + 1, step) if epoch >= epochs[0]]
    whole = {"values": ticks, "format": "d", "grid": False}
    x = _axis("epoch", "epoch", axis=whole)
    ends = [*_ends(points, "mean"), *_ends(runs, "value")]
    y = _axis("mean", title, _span(ends, 0.0, most))
    looks = _style(study, points, shapes=False)
    single = {"y": y | {"field": "value"}, "x": x, "detail": {"field": "run"}}
    mean = {"filter": "isValid(datum.mean)"}
    # An invisible wide line, so that a pointer near the line shows its point.
    few = len(epochs) < 4  # too few for a visible line
    near = {
        "type": "point",
        "fillOpacity": int(few),
        "strokeOpacity": 0,
        "size": 60 if few else 250,
    }
    return {
        "description": "Thick lines are means over seeds, thin lines single runs.",
        **_SIZE,
        "height": 300,
        "data": {"values": [*points, *runs]},
        "layer": _layers(
            [
                {
                    "transform": [{"filter": "isValid(datum.value)"}],
                    "mark": {"type": "line", "style": "single"},
                    "encoding": single,
                },
                {
                    "transform": [mean],
                    "mark": {"type": "line", "strokeWidth": 2.4},
                    "encoding": {"x": x, "y": y},
                },
                {**_dots({"x": x, "y": y}), "mark": near, "transform": [mean]},
            ],
            looks,
        ),
    }


# Parts of charts.

_SIZE: Spec = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
_STEPS = [one * 10**power for power in range(9) for one in (1, 2, 5)]
_ROWS = {"ticks": False, "domain": False, "labelPadding": 8}


def _percent(point: Point, *keys: str) -> None:
    for key in keys:
        if point[key] is not None:
            point[key] *= 100


def _cut(point: Point, least: float, most: float, low: str = "low", high: str = "high") -> None:
    """Clip an interval at the possible range, and mark the clipped ends."""
    for key, limit, side in ((low, least, -1), (high, most, 1)):
        beyond = point[key] is not None and side * (point[key] - limit) > 0
        point[f"{key}_cut"] = beyond
        if beyond:
            point[key] = limit


def _limit_difference(point: Point, one: Comparison) -> None:
    """Clip intervals at the differences that an accuracy of 0 or 100 % would give."""
    dense = 100 * (one.dense_accuracy.get("mean") or 0.0)
    _cut(point, -dense, 100 - dense)
    _cut(point, -dense, 100 - dense, "seeds_low", "seeds_high")
    point["least"] = -dense
    if (point["seeds_low"], point["seeds_high"]) == (point["low"], point["high"]):
        point["seeds_low"] = point["seeds_high"] = None


def _ends(points: Sequence[Point], key: str) -> list[float]:
    """Return the drawn values and ends of intervals."""
    keys = (key, "low", "high", "seeds_low", "seeds_high")
    return [value for point in points for one in keys if (value := point.get(one)) is not None]


def _span(values: Sequence[float], least: float, most: float) -> tuple[float, float]:
    """Return the range of an axis: a little beyond the values, within the possible range."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.01 * abs(high) or 1.0
    return max(low - room, least), min(high + room, most)


def _axis(
    field: str,
    title: str,
    span: tuple[float, float] | None = None,
    *,
    axis: Mapping[str, Any] | None = None,
) -> Spec:
    scale: Spec = {"domain": list(span), "nice": False} if span else {"zero": False}
    found: Spec = {"field": field, "type": "quantitative", "title": title, "scale": scale}
    return found | ({"axis": dict(axis)} if axis else {})


def _names(
    field: str,
    order: Sequence[object],
    *,
    axis: Mapping[str, Any] | None = None,
    scale: Mapping[str, Any] | None = None,
) -> Spec:
    """Return a nominal axis; the order is in the scale, since a sort could be read as code."""
    found: Spec = {"field": field, "type": "nominal", "title": None}
    found["scale"] = {"domain": list(order), **(scale or {})}
    return found | ({"axis": dict(axis)} if axis else {})


def _style(
    study: Study, points: Sequence[Point], *, legend: bool = True, shapes: bool = True
) -> Spec:
    """Return colours and shapes of the methods, the same in every chart of the study."""
    shown = {point["method"] for point in points}
    methods = list(study.methods)
    listed: Spec | None = (
        {"values": [name for name in methods if name in shown]} if legend else None
    )
    shape = [SHAPES.get(name, SHAPES.get(kind, "circle")) for name, kind in study.methods.items()]
    colour: Spec = {"field": "method", "type": "nominal", "legend": listed}
    found = {"color": colour | {"scale": {"domain": methods}}}
    if shapes:
        found["shape"] = colour | {"scale": {"domain": methods, "range": shape}}
    return found


def _layers(layers: Sequence[Spec], shared: Spec) -> list[Spec]:
    """Add shared settings to layers; only the last layer, the points, has shapes."""
    plain = {key: one for key, one in shared.items() if key != "shape"}
    return [
        layer | {"encoding": (shared if layer is layers[-1] else plain) | layer["encoding"]}
        for layer in layers
    ]


def _dots(place: Spec) -> Spec:
    return {"mark": {"type": "point"}, "encoding": place | {"tooltip": {"field": "hover"}}}


def _interval(
    axis: Literal["x", "y"],
    figure: Spec,
    *,
    place: Spec | None = None,
    low: str = "low",
    high: str = "high",
    style: str = "interval",
) -> list[Spec]:
    """Return the layers of an interval, with an arrow at each clipped end."""
    ends = {axis: figure | {"field": low}, f"{axis}2": {"field": high}} | (place or {})
    layers: list[Spec] = [
        {
            "transform": [{"filter": f"isValid(datum.{low}) && isValid(datum.{high})"}],
            "mark": {"type": "rule", "style": style},
            "encoding": ends,
        }
    ]
    arrows = {"x": ("triangle-left", "triangle-right"), "y": ("triangle-down", "triangle-up")}
    for end, shape in zip((low, high), arrows[axis], strict=True):
        layers.append(
            {
                "transform": [{"filter": f"datum.{end}_cut"}],
                "mark": {"type": "point", "shape": shape, "style": "cut"},
                "encoding": {axis: figure | {"field": end}} | (place or {}),
            }
        )
    return layers


def _line(axis: str, at: float, name: str, *, style: str, side: str = "left") -> Spec:
    """Return a line across the chart, with its name at the end."""
    text: Spec = {"type": "text", "text": name, "baseline": "bottom"}
    if axis == "x":
        text |= {"y": -4, "align": side}
    else:
        text |= {"x": "width", "align": "right", "dx": -4, "dy": -3}
    return {
        "data": {"values": [{"at": at}]},
        "encoding": {axis: {"field": "at", "type": "quantitative"}},
        "layer": [
            {"mark": {"type": "rule", "style": style}},
            {"mark": text | {"style": f"{style}-name" if style == "margin" else style}},
        ],
    }


def _rows_of_dots(
    study: Study,
    points: Sequence[Point],
    *,
    figure: Spec,
    row: tuple[str, Sequence[str]],
    at: float,
    description: str,
) -> Spec:
    """Return one row per quantity, with one point per method below each other."""
    field, order = row
    shown = {point["method"] for point in points}
    methods = [name for name in study.methods if name in shown]
    rows = [name for name in order if any(point[field] == name for point in points)]
    y = _names(field, rows, axis=_ROWS)
    offset = _names("method", methods)
    shared = {"y": y, "yOffset": offset, **_style(study, points)}
    return {
        "description": description,
        **_SIZE,
        "height": {"step": max(34, 13 * len(methods)), "for": "position"},
        "data": {"values": list(points)},
        "layer": [
            _line("x", at, "dense", style="dense"),
            *_layers([*_interval("x", figure), _dots({"x": figure})], shared),
        ],
    }


def _map(
    points: Sequence[Point],
    *,
    x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
    shade: tuple[str, str, float],
    texts: tuple[str, str, Spec],
    description: str,
    edges: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> Spec:
    """Return cells in rows and columns, shaded by a value, some with text."""
    field, title, least = shade
    style, marked, text = texts
    gaps = {"paddingInner": 0.06, "paddingOuter": 0}
    turned = {"labelAngle": -60, "labelOverlap": False, "ticks": False, "domain": False}
    across = _names(*x, axis=turned | {"labelFontSize": 11}, scale=gaps)
    down = _names(*y, axis=_ROWS, scale=gaps)
    colour = {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": [least, 1]},
        "legend": {"title": title, "orient": "right", "tickCount": 3, "gradientThickness": 10},
    }
    cell: Spec = {"x": across, "y": down, "tooltip": {"field": "hover"}}
    layers: list[Spec] = [
        {"mark": {"type": "rect", "style": "empty"}, "encoding": cell},
        {
            "transform": [{"filter": f"isValid(datum.{field})"}],
            "mark": "rect",
            "encoding": cell | {"color": colour},
        },
        {
            "transform": [{"filter": marked}],
            "mark": {"type": "text", "style": style},
            "encoding": cell | {"text": text},
        },
    ]
    for axis, own, starts, rule in (("x", across, edges, "edge"), ("y", down, splits, "split")):
        layers += [
            {
                "data": {"values": [{own["field"]: start} for start in starts]},
                "mark": {"type": "rule", "style": rule},
                "encoding": {axis: own | {"bandPosition": 0}},
            }
        ] * bool(starts)
    return {
        "description": description,
        "width": {"step": 26},
        "height": {"step": 24},
        "data": {"values": list(points)},
        "layer": layers,
    }
