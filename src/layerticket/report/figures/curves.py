"""How training went. Enters: the curves of runs. Leaves: a mean line and a band for each method."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from layerticket.report.figures.chart import Axis, Chart, Series
from layerticket.report.figures.style import Look
from layerticket.report.grid import Column, Grid

__all__ = ["curve_chart"]

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
