"""All charts of a study, in the order they are read. Enters: a study. Leaves: named lists."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from layerticket.report.figures.accuracy import accuracy_chart
from layerticket.report.figures.chart import Chart, HeatMap
from layerticket.report.figures.curves import FIGURES, curve_chart
from layerticket.report.figures.dots import cost_chart, robustness_chart
from layerticket.report.figures.outcomes import difference_chart
from layerticket.report.figures.similarity import similarity_map
from layerticket.report.figures.strips import strip_map
from layerticket.report.figures.style import looks

__all__ = ["charts_of", "pairs_of", "slug"]

Study = Mapping[str, Any]


def pairs_of(study: Study) -> list[tuple[str, str]]:
    """List the pairs of network and budget a study has, in its order."""
    return list(dict.fromkeys((one["model"], one["budget"]) for one in study["comparisons"]))


def charts_of(study: Study) -> dict[str, list[Chart | HeatMap]]:
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
