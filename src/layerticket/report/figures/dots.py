"""Several figures of several methods, one row of points for each figure.

Enters: a study. Leaves: the charts of cost and of robustness, and their tables.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from layerticket.report import words
from layerticket.report.figures.chart import Axis, Chart, Guide, Series
from layerticket.report.figures.outcomes import ends_of
from layerticket.report.figures.style import Look
from layerticket.report.grid import Column, Grid

__all__ = ["cost_chart", "cost_grid", "robustness_chart"]

Study = Mapping[str, Any]
Comparison = Mapping[str, Any]
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
    shown: Sequence[Comparison],
    rows: Sequence[str],
    look: Mapping[str, Look],
    point: Callable[[Comparison, str], Point | None],
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


def _of(study: Study, model: str, budget: str) -> list[Comparison]:
    return [
        one
        for one in study["comparisons"]
        if (one["model"], one["budget"]) == (model, budget) and one["n"]
    ]


def cost_chart(study: Study, model: str, budget: str, look: Mapping[str, Look]) -> Chart | None:
    """Draw what each method needs of what the dense network needs, figure by figure."""
    shown = _of(study, model, budget)
    rows = [row for row in SAVINGS if any(_need(one, row) is not None for one in shown)]
    if not rows:
        return None

    def point(one: Comparison, row: str) -> Point | None:
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


def _at_once(study: Study) -> str:
    """Say how many trainings shared the machine, on which times depend."""
    workers, threads = (study["environment"].get(key) for key in ("workers", "threads"))
    if workers is None:
        return "How many trainings ran side by side was not recorded; times depend on it."
    each = f" of {threads} thread{'s' * (threads > 1)} each" if threads else ""
    if workers == 1:
        return f"One training at a time{each}."
    return f"Times are those of {workers} workers{each}, side by side on one machine."


def _need(one: Comparison, row: str) -> tuple[float, tuple[float, float] | None] | None:
    """Percent of dense a method needs, with an interval for the time."""
    if row != "speedup":
        return None if one[row] is None else (100 * (1 - one[row]), None)
    mean, low, high = (one[row][end] for end in ("mean", "low", "high"))
    if mean is None:
        return None
    return 100 / mean, None if low is None else (100 / high, 100 / low)


FIGURES = (
    ("macs", Column(title="MACs", show=words.millions)),
    ("params", Column(title="parameters", show=words.count)),
    ("train_seconds", Column(title="training", show=words.duration)),
    ("search_seconds", Column(title="search", show=words.duration)),
    ("images_per_second", Column(title="images/s", show=words.count)),
    ("peak_memory_bytes", Column(title="peak memory", show=words.memory)),
    ("energy_kwh", Column(title="energy", show=words.energy)),
    ("co2_kg", Column(title="CO2e", show=words.carbon)),
)  # fmt: skip


def cost_grid(study: Study, model: str, budget: str) -> Grid:
    """List the cost of one run of each method, mean over its finished runs."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for run in study["runs"]:
        beside = run["kind"] == "dense" or run["budget"] == budget
        if run["model"] == model and beside and run["status"] == "done":
            runs.setdefault(run["label"], []).append(run)
    rows = [
        (method, len(many), *(_mean(many, figure) for figure, _ in FIGURES))
        for method, many in runs.items()
    ]
    columns = [Column(title="method", words=True), Column(title="runs"), *(c for _, c in FIGURES)]
    title = f"Cost of one run, {model}, {budget}"
    return Grid(name=f"cost {model} {budget}", title=title, columns=columns, rows=rows)


def _mean(runs: Sequence[Mapping[str, Any]], figure: str) -> float | None:
    values = [run[figure] for run in runs if run[figure] is not None]
    return fmean(values) if values else None


def robustness_chart(
    study: Study, model: str, budget: str, look: Mapping[str, Look]
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

    def point(one: Comparison, name: str) -> Point | None:
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
    name: str, title: str, shown: Sequence[Comparison], titles: Mapping[str, str]
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
