"""The paper's Table 1 with paired seeds: criteria on a trained network x epochs to rewind to.

For each seed the dense network is trained once, keeping the epochs to rewind to; then every
criterion scores theta_n, and its ticket is trained from each of them. Finished runs are kept, so
the same call goes on where it was cut off; two processes may work on other seeds in one folder.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from layerticket.criteria.registry import get_criterion
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.selection import Budget
from layerticket.study.record import environment, train_run, write_record
from layerticket.study.search import find_in_run
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import epoch_at
from layerticket.training.recipe import Recipe
from layerticket.verdict.judge import sentence, verdict

__all__ = ["PAPER_POINTS", "PAPER_TABLE_1", "Table1", "lottery_table", "sum_up"]

PAPER_POINTS = ("0", "25%", "50%", "75%")
# source: https://arxiv.org/abs/2301.10835 (2023), Table 1: ResNet-32, CIFAR-10, difference to the
# dense network in percentage points when rewinding to 0, 25, 50 and 75 % of training.
PAPER_TABLE_1: Mapping[str, tuple[float, ...]] = {
    "hrank": (-0.01, 0.21, 0.10, 0.12),
    "expect_abs": (0.33, 0.13, -0.48, -0.62),
    "pls": (0.06, 0.31, 0.10, 0.10),
    "random": (0.38, 0.15, 0.26, -0.07),
    "kl": (0.74, 0.46, -0.03, -0.17),
}
PLAN, TABLE = "plan.json", "table1.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table1:
    """What a table is about; seeds and criteria may be added to its folder later."""

    model: str
    """Name of the dense network."""
    recipe: Recipe
    """How every network is trained; n is its epochs."""
    budget: Budget
    """How much every ticket removes."""
    points: tuple[str, ...] = PAPER_POINTS
    """Epochs to rewind to, or shares of n."""
    margin: float = 0.01
    """The xi of the paper's eq. 1, as a fraction."""
    validation_fraction: float = 0.1
    """Share the data set was loaded with."""

    def __post_init__(self) -> None:
        epochs = [epoch_at(point, self.recipe.epochs) for point in self.points]
        if not epochs or len(set(epochs)) < len(epochs) or max(epochs) >= self.recipe.epochs:
            raise LayerticketError(
                f"the points {', '.join(self.points)} are the epochs {epochs} of "
                f"{self.recipe.epochs}; they must be different ones before the last. Train for "
                "more epochs (4 suffice for the default), or give other points."
            )


def lottery_table(
    what: Table1,
    dataset: Dataset,
    *,
    criteria: tuple[str, ...],
    seeds: tuple[int, ...],
    out: Path,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train dense networks and the tickets of every criterion and rewinding point; sum up.

    Args:
        what: The table.
        dataset: What to score, train, validate and test on.
        criteria: Names of the criteria, the rows.
        seeds: Seeds to work on now.
        out: Folder of tickets, runs, ``seeds/`` and ``table1.json``.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether progress bars are drawn on stderr.
        command: Command line to be noted.
        tell: Called with one line of news before each training.

    Returns:
        As `sum_up`, over all seeds finished in the folder.

    Raises:
        LayerticketError: If the folder holds another table, or anything does not fit.
    """
    for name, values in (("seeds", seeds), ("criteria", criteria)):
        if not values or len(set(values)) != len(values):
            raise LayerticketError(f"{name} are {values}; give at least one, and none twice.")
    for name in criteria:
        get_criterion(name)  # a wrong name is told before the training, not after
    plan = json.loads(json.dumps({**asdict(what), "data_fingerprint": dataset.fingerprint}))
    if (out / PLAN).exists() and read_json(out / PLAN) != plan:
        raise LayerticketError(f"{out} holds a table of other settings; choose an empty folder.")
    write_record(out / PLAN, plan)
    how: dict[str, Any] = {"device": device, "progress": progress, "command": command}
    for seed in seeds:
        _do_seed(what, dataset, criteria, seed, out, how, tell)
    head = {"command": command, "data": dataset.title, "environment": environment(device)}
    summary = {**head, **sum_up(out, test_images=len(dataset.test))}
    write_record(out / TABLE, summary)
    return summary


def _do_seed(
    what: Table1,
    dataset: Dataset,
    criteria: tuple[str, ...],
    seed: int,
    out: Path,
    how: dict[str, Any],
    tell: Callable[[str], None],
) -> None:
    """Train the dense network of a seed and all of its tickets, and write their figures down."""
    how = {"seed": seed, "out": out / "runs", **how}
    how["validation_fraction"] = what.validation_fraction
    tell(f"seed {seed}: dense")
    dense = train_run(what.model, dataset, what.recipe, keep=what.points, **how)
    path = out / "seeds" / f"seed-{seed}.json"
    cells = dict(read_json(path)["cells"]) if path.exists() else {}
    for criterion in criteria:
        for point in what.points:
            tell(f"seed {seed}: {criterion}, back to {point}")
            ticket = _ticket(what, dataset, Path(dense["run"]), criterion, point, seed, out)
            run = train_run(what.model, dataset, what.recipe, ticket=ticket, **how)
            found = Ticket.load(ticket)
            extra = {"removed": list(found.removed), "score_seconds": found.score_seconds}
            cells[f"{criterion} {point}"] = run | extra
            write_record(path, {"seed": seed, "dense": dense, "cells": cells})


def _ticket(
    what: Table1, dataset: Dataset, dense: Path, criterion: str, point: str, seed: int, out: Path
) -> Path:
    """Find a ticket, or take the one that was found before the work was cut off."""
    epoch = epoch_at(point, what.recipe.epochs)
    folder = out / "tickets" / f"{criterion}-epoch{epoch}-seed{seed}"
    if not (folder / "ticket.json").exists():
        find_in_run(
            dense, dataset, budget=what.budget, out=folder, criterion=criterion, rewind_to=point
        )
    return folder


def sum_up(out: Path, *, test_images: int) -> dict[str, Any]:
    """Sum up what is finished in a folder, whichever processes did it.

    Args:
        out: Folder of `lottery_table`.
        test_images: Number of test images: an accuracy is known no finer.

    Returns:
        The plan, the dense network, and for each criterion and point the difference to dense over
        the seeds that have both (fractions), the verdict, and the paper's figure in pp (None
        where it has none).

    Raises:
        LayerticketError: If nothing is finished yet, or a file is damaged.
    """
    plan = read_json(out / PLAN)
    seeds = sorted((read_json(p) for p in (out / "seeds").glob("seed-*.json")), key=_seed_of)
    if not seeds:
        raise LayerticketError(f"{out} holds no finished ticket yet; train to the end.")
    names = list(dict.fromkeys(name for seed in seeds for name in seed["cells"]))
    cells = [_cell(name, seeds, plan, test_images) for name in names]
    accuracies = [seed["dense"]["test_accuracy"] for seed in seeds]
    return {
        "plan": plan,
        "test_images": test_images,
        "seeds": [seed["seed"] for seed in seeds],
        "precision": sorted({seed["dense"]["precision"] for seed in seeds}),
        "dense": {
            "test_accuracy": accuracies,
            "mean": fmean(accuracies),
            "std": stdev(accuracies) if len(accuracies) > 1 else None,
        },
        "cells": cells,
        "verdicts": dict(Counter(cell["outcome"] for cell in cells)),
    }


def _seed_of(record: Mapping[str, Any]) -> int:
    return int(record["seed"])


def _cell(
    name: str, seeds: list[dict[str, Any]], plan: Mapping[str, Any], test_images: int
) -> dict[str, Any]:
    """Judge one criterion at one rewinding point."""
    criterion, point = name.rsplit(" ", 1)
    having = [seed for seed in seeds if name in seed["cells"]]
    runs = [seed["cells"][name] for seed in having]
    judged = verdict(
        [seed["dense"]["test_accuracy"] for seed in having],
        [run["test_accuracy"] for run in runs],
        margin=plan["margin"],
        resolution=1 / test_images,
    )
    paper = dict(zip(PAPER_POINTS, PAPER_TABLE_1.get(criterion, ()), strict=False))
    return {
        "criterion": criterion,
        "rewind": point,
        "epoch": epoch_at(point, plan["recipe"]["epochs"]),
        "epochs_trained": runs[0]["epochs"],
        "seeds": [seed["seed"] for seed in having],
        "test_accuracy": [run["test_accuracy"] for run in runs],
        "removed": [run["removed"] for run in runs],
        "score_seconds": [run["score_seconds"] for run in runs],
        **asdict(judged),
        "sentence": sentence(judged),
        "paper_pp": paper.get(point),
    }
