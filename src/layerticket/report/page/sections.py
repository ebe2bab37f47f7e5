"""The report from top to bottom, as values. Enters: a study. Leaves: its sections."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerticket.report.figures.chart import Chart, HeatMap
from layerticket.report.figures.collect import charts_of
from layerticket.report.grid import Grid
from layerticket.report.page.listing import rivals_grid

__all__ = ["Section", "conditions", "sections"]

Study = Mapping[str, Any]

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


def sections(study: Study) -> list[Section]:
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


def _metered(study: Study) -> str:
    """Say how energy was measured, or that it was not."""
    ways = dict.fromkeys(run["energy_method"] for run in study["runs"] if run["energy_method"])
    if not ways:
        return (
            "Energy and carbon were not measured: the study states nothing to measure them by "
            "([energy] in its file). They are not shown as 0."
        )
    return f"Energy and carbon by: {'; '.join(str(way) for way in ways)}."


def _devices(study: Study) -> list[str]:
    return list(dict.fromkeys(str(run["device"]) for run in study["runs"] if run["device"]))


def conditions(study: Study) -> list[tuple[str, str]]:
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
