"""What a study has paid so far, in energy or carbon: every job once.

The bill of a run holds all it takes to get there: its search, and the dense training that search
looks at. Those are shared by many runs, so the bills of the runs cannot be added up.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from layerticket.study.folder import StudyFolder
from layerticket.study.plan import Job, Plan, PlannedRun
from layerticket.training.checkpoint import METRICS

Figure = Literal["energy_kwh", "co2_kg"]


def paid_so_far(folder: StudyFolder, plan: Plan, figure: Figure) -> float | None:
    """Add up what the finished trainings and searches of a study took, each its own part.

    Args:
        folder: Where the study lies.
        plan: What belongs to it.
        figure: Which figure of their records.

    Returns:
        The sum; None before the first training ends, and where a part was not metered.
    """
    records = {name: folder.record_of(name) for name in plan.jobs}
    parts = [
        _own(job, records, figure)
        for name, job in plan.jobs.items()
        if job.kind in ("train", "search") and records[name] is not None
    ]
    if not any(records[name] for name, job in plan.jobs.items() if job.kind == "train"):
        return None
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _own(job: Job, records: Mapping[str, dict[str, Any] | None], figure: Figure) -> float | None:
    """Return what a job took itself: its bill without that of the job it carries on."""
    bill = records[job.name] or {}
    if job.kind == "train":
        search = records[job.needs["search"]] or {} if "search" in job.needs else {}
        # What another network or more epochs take is not searched, and is on no bill.
        before = search.get(f"search_{figure}") if "ticket" in search else 0.0
        return _less(bill[figure], before)
    if "ticket" not in bill:
        return 0.0
    dense = records[job.needs["dense"]] or {} if "dense" in job.needs else None
    return _less(bill[f"search_{figure}"], 0.0 if dense is None else dense.get(figure))


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


Status = Literal["done", "failed", "running", "waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A study at one moment."""

    total: int
    """Rows of the study."""
    done: int
    running: int
    failed: int
    waiting: int
    epochs_done: int
    """Epochs trained for the rows so far."""
    epochs: int
    """Epochs of all rows, as far as they are known."""
    train_seconds: float
    """Seconds of training so far, all runs added up."""
    energy_kwh: float | None
    """Energy of what is finished; None when it is not metered."""
    co2_kg: float | None
    seconds_left: float | None
    """Estimate from the epochs finished so far; None before the first."""
    failures: Mapping[str, str]
    """Why each failed row failed, by its id."""


def status_of(run: PlannedRun, folder: StudyFolder, plan: Plan) -> Status:
    """Tell how a row stands."""
    names = list(run.jobs.values())
    if all(folder.finished(plan.jobs[name]) is not None for name in names):
        return "done"
    if cause_of(run, folder, plan) is not None:
        return "failed"
    return "running" if any(folder.is_running(name) for name in names) else "waiting"


def cause_of(run: PlannedRun, folder: StudyFolder, plan: Plan) -> tuple[str, str] | None:
    """Return the job that a row failed at, its own or one before it, and why; None if none."""
    for name in run.jobs.values():
        found = _cause(name, folder, plan)
        if found is not None:
            return found
    return None


def _cause(name: str, folder: StudyFolder, plan: Plan) -> tuple[str, str] | None:
    if folder.finished(plan.jobs[name]) is not None:
        return None
    error = folder.failure_of(name)
    if error is not None:
        return (name, error)
    needs = plan.jobs[name].needs.values()
    return next((found for need in needs if (found := _cause(need, folder, plan))), None)


def standing_of(folder: StudyFolder, plan: Plan, *, workers: int = 1) -> Standing:
    """Look at the folder of a study.

    Args:
        folder: Where it lies.
        plan: What belongs to it.
        workers: Trainings at a time, for the time left.

    Returns:
        How it stands.
    """
    statuses = {run.id: status_of(run, folder, plan) for run in plan.runs}
    counts = Counter(statuses.values())
    looked = {run.jobs["train"]: statuses[run.id] for run in plan.runs}  # rows may share one
    trainings = {name: _training(plan.jobs[name], folder, plan) for name in looked}
    live = [training for name, training in trainings.items() if looked[name] != "failed"]
    seconds = sum(t["seconds"] for t in trainings.values())
    done = sum(t["done"] for t in trainings.values())
    paces = [t["seconds"] / t["done"] for t in live if t["done"]]
    left = sum((t["epochs"] - t["done"]) * _pace(t, paces) for t in live) if paces else None
    at_once = max(1, min(workers, sum(t["epochs"] > t["done"] for t in live)))
    causes = {run.id: cause_of(run, folder, plan) for run in plan.runs}
    return Standing(
        total=len(plan.runs),
        done=counts["done"],
        running=counts["running"],
        failed=counts["failed"],
        waiting=counts["waiting"],
        epochs_done=done,
        epochs=sum(t["epochs"] for t in trainings.values()),
        train_seconds=seconds,
        energy_kwh=paid_so_far(folder, plan, "energy_kwh"),
        co2_kg=paid_so_far(folder, plan, "co2_kg"),
        seconds_left=None if left is None else left / at_once,
        failures={key: cause[1] for key, cause in causes.items() if cause is not None},
    )


def _pace(training: Mapping[str, Any], paces: list[float]) -> float:
    """Seconds an epoch takes: as measured in this training, or in the others."""
    if training["done"]:
        return float(training["seconds"]) / int(training["done"])
    return fmean(paces)


def _training(job: Job, folder: StudyFolder, plan: Plan) -> dict[str, Any]:
    """Look at one training: its epochs, those done, the seconds they took."""
    record = folder.finished(job)
    if record is not None:
        facts = {"epochs": record["epochs"], "done": record["epochs"]}
        return {**facts, "seconds": record["train_seconds"]}
    search = folder.record_of(job.needs["search"]) if "search" in job.needs else None
    epochs = job.spec["recipe"]["epochs"] if search is None else _epochs(job, search)
    lines = _begun(job, folder) if folder.is_running(job.name) else []
    seconds = lines[-1]["train_seconds"] if lines else 0.0
    return {"epochs": epochs, "done": len(lines), "seconds": seconds}


def _epochs(job: Job, search: Mapping[str, Any]) -> int:
    """Epochs of a training whose search is done."""
    epochs = int(search.get("epochs", job.spec["recipe"]["epochs"]))
    origin = search.get("origin") if job.spec["initialization"] == "ticket" else None
    return epochs - (origin["rewind_epoch"] if origin else 0)


def _begun(job: Job, folder: StudyFolder) -> list[dict[str, Any]]:
    """Metrics of a training that is running: the run that the same process holds."""
    run = folder.run_held_with(job.name)
    return [] if run is None else curve_of(run)


def curve_of(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, one entry an epoch; a torn last line is left out."""
    path = run / METRICS
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
