"""How alike are the networks inside? Enters: similarities of runs. Leaves: a map of them."""

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from layerticket.report.figures.chart import HeatMap
from layerticket.report.grid import Column, Grid

__all__ = ["similarity_map"]


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
