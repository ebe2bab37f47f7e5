"""Robustness of tickets beside dense networks over the finished runs of `layerticket demo`.

Enters: folders with ``summary.json``, names of evaluations. Leaves: JSON values, with the figures
of the paper's Table 5 where network, number of blocks and kind of shift are the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.study.evaluate import Conditions, Evaluation, evaluate_prepared, prepare
from layerticket.study.record import RUN, environment, load_result
from layerticket.study.tables.paired import SUMMARY
from layerticket.verdict.pairs import compare_shifted

__all__ = ["PAPER", "data_of", "table5"]

# source: arXiv:2301.10835, Table 5 (2023): pp to dense on CIFAR-C and CIFAR-10.2
PAPER = {
    ("resnet32", 1): (1.13, 0.00),
    ("resnet32", 3): (-0.05, -1.15),
    ("resnet32", 4): (1.61, -0.65),
    ("resnet56", 3): (0.59, 0.70),
    ("resnet56", 4): (3.73, 1.75),
    ("resnet56", 5): (-0.16, 0.70),
    ("resnet56", 12): (1.98, -1.95),
}
PAPER_COLUMNS = {"cifar10-c": 0, "corruptions": 0, "cifar10.2": 1}
DENSE = "dense"


def data_of(studies: Sequence[Path]) -> tuple[str, float]:
    """Return the data set, and the validation fraction, that all runs of some studies share.

    Args:
        studies: Folders `layerticket demo` wrote.

    Raises:
        LayerticketError: If a folder is no study, a run is missing, or the data differ.
    """
    found = set()
    for study in studies:
        for row in _rows(study):
            for run in row["runs"]:
                config = read_json(_folder(study, run) / RUN)["config"]
                found.add((config["data"], config["validation_fraction"]))
    if len(found) != 1:
        raise LayerticketError(
            f"the runs were made on {sorted(found)}; one table is about one data set. Give "
            "studies of the same data."
        )
    return found.pop()


def table5(
    studies: Sequence[Path],
    dataset: Dataset,
    on: Sequence[str],
    conditions: Conditions,
    *,
    device: str = "auto",
    command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate all runs of some studies and compare tickets with dense networks by seed.

    What a run was evaluated on before is taken from its folder, so a table that was cut off goes
    on where it was.

    Args:
        studies: Folders `layerticket demo` wrote.
        dataset: The data of the runs.
        on: Names as in `layerticket evaluate --on`, without "test".
        conditions: The same for all runs.
        device: "auto", "cpu", "cuda" or "cuda:N".
        command: Command line to be noted.
        tell: Called with one line of news before each evaluation.

    Returns:
        ``rows``, one for each ticket method of each study and each evaluation.

    Raises:
        LayerticketError: If a run is missing or not finished, or an evaluation does not fit;
            before anything is evaluated.
    """
    prepared = prepare(on, dataset, conditions)
    work = [(study, _rows(study)) for study in studies]
    for study, methods in work:
        for row in methods:
            for run in row["runs"]:
                load_result(_folder(study, run))
    rows = []
    for study, methods in work:
        figures = {
            row["method"]: {
                run["seed"]: evaluate_prepared(
                    _folder(study, run), dataset, prepared, conditions, device=device, tell=tell
                )["results"]
                for run in row["runs"]
            }
            for row in methods
        }
        model = read_json(study / SUMMARY)["model"]
        for row in methods:
            if row["method"] != DENSE:
                removed = {len(run["removed"]) for run in row["runs"]}
                head = {"study": str(study), "model": model, "method": row["method"]}
                head["removed"] = removed.pop() if len(removed) == 1 else sorted(removed)
                rows += [
                    head | _compared(evaluation, figures[DENSE], figures[row["method"]], head)
                    for evaluation in prepared
                ]
    return {
        "command": command,
        "data": dataset.title,
        "images": conditions.images,
        "environment": environment(device),
        "rows": rows,
    }


def _compared(
    evaluation: Evaluation,
    dense: dict[int, dict[str, Any]],
    ticket: dict[int, dict[str, Any]],
    head: dict[str, Any],
) -> dict[str, Any]:
    """Compare one method with dense on one evaluation."""
    name, seeds = evaluation.name, sorted(dense.keys() & ticket.keys())
    if not seeds:
        raise LayerticketError(f"{head['study']} has no seed with a dense and a ticket run.")
    pairs = [
        [(found[seed][name]["clean_accuracy"], found[seed][name]["accuracy"]) for seed in seeds]
        for found in (dense, ticket)
    ]
    one = dense[seeds[0]][name]
    column = PAPER_COLUMNS.get(name)
    paper = PAPER.get((head["model"], head["removed"])) if column is not None else None
    return {
        "evaluation": name,
        "title": evaluation.settings["title"],
        "images": one["images"],
        "epsilon_255": one.get("epsilon_255"),
        "seeds": seeds,
        "dense": _summed([shifted for _, shifted in pairs[0]]),
        "ticket": _summed([shifted for _, shifted in pairs[1]]),
        **asdict(compare_shifted(pairs[0], pairs[1], images=one["images"])),
        "paper_pp": None if paper is None or column is None else paper[column],
    }


def _summed(values: list[float]) -> dict[str, float | None]:
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}


def _rows(study: Path) -> list[dict[str, Any]]:
    """Read the methods of a study; dense must be among them."""
    rows = read_json(study / SUMMARY).get("rows")
    if not isinstance(rows, list) or DENSE not in [row.get("method") for row in rows]:
        raise LayerticketError(
            f"{study / SUMMARY} has no row 'dense'; give a folder `layerticket demo` wrote."
        )
    return rows


def _folder(study: Path, run: dict[str, Any]) -> Path:
    """Find a run of a study, also when the study was moved."""
    name = Path(run["run"])
    for folder in (study / "runs" / name.name, name):
        if (folder / RUN).exists():
            return folder
    raise LayerticketError(f"{study} names the run {name.name}, which is not there. Run it again.")
