"""At what cost? Enters: a study. Leaves: the charts of accuracy over multiply-accumulates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from layerticket.report import words
from layerticket.report.figures.chart import Axis, Chart, Series
from layerticket.report.figures.outcomes import ends_of
from layerticket.report.figures.style import Look
from layerticket.report.grid import Column, Grid

__all__ = ["accuracy_chart"]

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
