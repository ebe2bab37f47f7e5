"""Which blocks went? Enters: the runs of a study. Leaves: one strip along the network per run."""

from collections.abc import Mapping, Sequence
from typing import Any

from layerticket.report.figures.chart import HeatMap
from layerticket.report.grid import Column, Grid

__all__ = ["strip_map"]

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
        notes=[[_note(run, name) for name in columns] for run in runs],
        scale="rank of score",
        splits=[
            index - 0.5
            for index in range(1, len(runs))
            if runs[index]["method"] != runs[index - 1]["method"]
        ],
        table=_grid(f"blocks {model} {budget}", title, runs, columns),
        breaks=_breaks(known, columns),
    )


def _ranks(scores: Mapping[str, float], columns: Sequence[str]) -> list[float | None]:
    """Rank scores within a row, 0 for the lowest and 1 for the highest."""
    order = sorted(set(scores.values()))
    most = max(len(order) - 1, 1)
    return [order.index(scores[name]) / most if name in scores else None for name in columns]


def _note(run: Run, name: str) -> str:
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


def _grid(name: str, title: str, runs: Sequence[Run], columns: Sequence[str]) -> Grid:
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
