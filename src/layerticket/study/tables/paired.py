"""Dense against tickets over paired seeds: the same theta_0, the same data order, one verdict.

For each seed the dense network is drawn, every criterion finds its ticket in it, and all of them
are trained with one recipe. Only differences within a seed are compared.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.study.record import environment, train_run, write_record
from layerticket.study.search import find_in
from layerticket.training.recipe import Recipe
from layerticket.verdict.judge import sentence, verdict

__all__ = ["Comparison", "compare_paired"]

SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is compared: one network, the tickets of several criteria, one recipe."""

    model: str
    """Name of the dense network."""
    recipe: Recipe
    """How every network is trained."""
    criteria: tuple[str, ...]
    """Names of the criteria, e.g. ("grasp", "random")."""
    budget: Budget
    """How much every ticket removes."""
    seeds: tuple[int, ...]
    """One pair of runs each."""
    margin: float = 0.01
    """The xi of the paper's eq. 1, as a fraction."""
    validation_fraction: float = 0.1
    """Share the data set was loaded with."""

    def __post_init__(self) -> None:
        for name in ("seeds", "criteria"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise LayerticketError(f"{name} are {values}; give at least one, and none twice.")


def compare_paired(
    what: Comparison,
    dataset: Dataset,
    *,
    out: Path,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Find and train the tickets of several criteria beside the dense network.

    Finished runs in `out` are kept, so a comparison that was cut off goes on where it was, and
    seeds or criteria can be added later.

    Args:
        what: The comparison.
        dataset: What to score, train, validate and test on.
        out: Folder for tickets, runs and ``summary.json``.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether progress bars are drawn on stderr.
        command: Command line to be noted.
        tell: Called with one line of news before each training.

    Returns:
        The summary: one row for the dense network and one for each criterion, with the figures of
        every seed, means and standard deviations, and the verdict.

    Raises:
        LayerticketError: If anything does not fit.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("dense", *what.criteria)}
    for seed in what.seeds:
        for method, runs in rows.items():
            tell(f"seed {seed}: {method}")
            found = {} if method == "dense" else _find(what, dataset, method, seed, out)
            trained = train_run(
                what.model,
                dataset,
                what.recipe,
                seed=seed,
                out=out / "runs",
                ticket=Path(found["ticket"]) if found else None,
                validation_fraction=what.validation_fraction,
                device=device,
                progress=progress,
                command=command,
            )
            runs.append({"seed": seed} | trained | _of_ticket(found))
    _complete(rows)
    summary = {
        "command": command,
        **asdict(what),
        "data": dataset.title,
        "test_images": len(dataset.test),
        "environment": environment(device),
        "rows": [_row(n, runs, rows["dense"], dataset, what.margin) for n, runs in rows.items()],
    }
    write_record(out / SUMMARY, summary)
    return summary


def _find(
    what: Comparison, dataset: Dataset, criterion: str, seed: int, out: Path
) -> dict[str, Any]:
    """Find one ticket."""
    folder = out / "tickets" / f"{criterion}-seed{seed}"
    return find_in(
        what.model, dataset, budget=what.budget, seed=seed, out=folder, criterion=criterion
    )


def _of_ticket(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's record takes over from the ticket it trained."""
    if not found:
        return {"removed": [], "score_seconds": 0.0}
    return {
        "macs": found["macs"]["ticket"],
        "dense_macs": found["macs"]["dense"],
        "removed": found["removed"],
        "score_seconds": found["score_seconds"],
    }


def _complete(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Give the dense runs the MACs that finding a ticket of the same seed counted."""
    tickets = next(runs for method, runs in rows.items() if method != "dense")
    for dense, ticket in zip(rows["dense"], tickets, strict=True):
        dense["macs"] = ticket["dense_macs"]


def _row(
    name: str,
    runs: list[dict[str, Any]],
    dense: list[dict[str, Any]],
    dataset: Dataset,
    margin: float,
) -> dict[str, Any]:
    """Sum up the runs of one method."""
    row: dict[str, Any] = {"method": name, "n": len(runs), "runs": runs}
    for key in ("test_accuracy", "macs", "params", "train_seconds", "images_per_second"):
        values = [run[key] for run in runs]
        row[key] = {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}
    if name != "dense":
        judged = verdict(
            [run["test_accuracy"] for run in dense],
            [run["test_accuracy"] for run in runs],
            margin=margin,
            resolution=1 / len(dataset.test),
        )
        row["verdict"] = asdict(judged) | {"sentence": sentence(judged)}
        times = [d["train_seconds"] / r["train_seconds"] for d, r in zip(dense, runs, strict=True)]
        row["training_speedup"] = {"mean": fmean(times), "of_each_seed": times}
    return row
