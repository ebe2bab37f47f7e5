"""The tables of the report that belong to no chart: rivals, runs, failures.

Enters: a study. Leaves: tables with raw figures.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from layerticket.report import words
from layerticket.report.grid import Column, Grid

__all__ = ["failures", "rivals_grid", "runs_grid"]

Study = Mapping[str, Any]


def rivals_grid(study: Study) -> Grid | None:
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


def _rival(one: Mapping[str, Any], study: Study) -> tuple[Any, ...]:
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
        >>> closeness({"by": "filters", "filters": {"reference": 1200, "rival": 1200},
        ...            "macs": {"reference": 1000, "rival": 1039}})
        'filters equal; MACs 3.9 % more'
        >>> closeness({"of": "macs", "asked": 1000, "reached": 980})
        'MACs 2.0 % less'
    """
    if "asked" in match:
        return _off(match["of"], match["asked"], match["reached"])
    figures = {name: v for name, v in match.items() if isinstance(v, Mapping) and "rival" in v}
    order = sorted(figures, key=lambda name: name != match["by"])
    return "; ".join(_off(n, figures[n]["reference"], figures[n]["rival"]) for n in order)


def _off(figure: str, wanted: float, reached: float) -> str:
    """Tell how far a figure is off what was wanted."""
    name = {"macs": "MACs", "params": "parameters"}.get(figure, figure)
    if wanted == reached:
        return f"{name} equal"
    share = 100 * abs(reached - wanted) / wanted
    size = f"{share:.1f} %" if share >= 0.05 else "under 0.1 %"
    return f"{name} {size} {'more' if reached > wanted else 'less'}"


def runs_grid(study: Study) -> Grid:
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


def failures(study: Study) -> list[Mapping[str, Any]]:
    """List the runs that failed, with their error.

    Args:
        study: The object of ``study.json``.

    Returns:
        Those runs.
    """
    return [run for run in study["runs"] if run["status"] == "failed"]
