"""Did it win? Enters: a study. Leaves: the chart of differences to dense, and its table."""

from collections.abc import Mapping, Sequence
from typing import Any

from layerticket.report import words
from layerticket.report.figures.chart import Axis, Chart, Guide, Series
from layerticket.report.figures.style import Look
from layerticket.report.grid import Column, Grid

__all__ = ["difference_chart", "differences_grid", "ends_of", "full_label"]

Study = Mapping[str, Any]
Comparison = Mapping[str, Any]


def full_label(one: Comparison, study: Study) -> str:
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


def differences_grid(study: Study) -> Grid:
    """List every comparison with dense: difference, verdict, what was saved."""
    ends = ("mean", "low", "high")
    columns = [
        Column(title="network", words=True, context=True),
        Column(title="budget", words=True, absent="", context=True),
        Column(title="method", words=True),
        Column(title="seeds"),
        Column(title="accuracy", show=words.accuracy),
        Column(title="difference to dense", show=_interval, parts=ends),
        Column(title="bootstrap interval", show=_ends, parts=("low", "high"), absent="—"),
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


def _bootstrap(figure: Mapping[str, Any]) -> tuple[float, float] | None:
    if figure["bootstrap_low"] is None:
        return None
    return figure["bootstrap_low"], figure["bootstrap_high"]


def _ends(value: Sequence[float]) -> str:
    return " to ".join(words.difference(end).removesuffix(" pp") for end in value) + " pp"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _triple(figure: Mapping[str, Any]) -> tuple[Any, ...] | None:
    return None if figure["mean"] is None else (figure["mean"], figure["low"], figure["high"])


def _difference_row(one: Comparison) -> tuple[Any, ...]:
    return (
        one["model"],
        one["budget"],
        one["method"],
        one["n"],
        one["accuracy"]["mean"],
        _triple(one["difference"]),
        _bootstrap(one["difference"]),
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


def difference_chart(study: Study, look: Mapping[str, Look]) -> Chart | None:
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
