"""The status of a study: rows done, running and failed, and the time left."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from layerticket.errors import LayerticketError
from layerticket.study.folder import StudyFolder
from layerticket.study.plan import Job, Plan, PlannedRow
from layerticket.study.record import BILL, Bill, Cost
from layerticket.training.checkpoint import METRICS

State = Literal["done", "running", "failed", "waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatus:
    """Progress of a study, and what is left."""

    total: int
    """Number of rows."""
    done: int
    running: int
    failed: int
    waiting: int
    epochs_done: int
    epochs: int
    """Epochs of all trainings; an upper bound until it is known which rows share a training."""
    train_seconds: float
    """Seconds of training so far, over all workers."""
    energy_kwh: float | None
    """Energy so far, each training and search once; None if a part was not metered."""
    co2_kg: float | None
    seconds_left: float | None
    """Estimated time left; None before the first epoch is done."""
    failures: Mapping[str, str]
    """Errors of failed rows, by id."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyView:
    """The state of a study at one moment; every file is read at most once."""

    plan: Plan
    folder: StudyFolder
    _causes: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: StudyFolder, plan: Plan) -> "StudyView":
        """Return a view of a folder as it is now."""
        return cls(plan, folder.view())

    def cause(self, name: str) -> tuple[str, str] | None:
        """Return the failed job, this one or one before it, and its error; None: no failure."""
        if name not in self._causes:
            self._causes[name] = self._cause(name)
        return self._causes[name]

    def _cause(self, name: str) -> tuple[str, str] | None:
        if self.folder.is_done(name):
            return None
        error = self.folder.failure(name)
        if error is not None:
            return (name, error)
        needs = self.plan.jobs[name].needs.values()
        return next((found for need in needs if (found := self.cause(need))), None)

    def cause_of(self, row: PlannedRow) -> tuple[str, str] | None:
        """Return the job that made a row fail, and its error; None if the row did not fail."""
        causes = (self.cause(name) for name in row.jobs.values())
        return next((found for found in causes if found is not None), None)

    def state(self, row: PlannedRow) -> State:
        """Return the state of a row."""
        names = row.jobs.values()
        if all(self.folder.is_done(name) for name in names):
            return "done"
        if self.cause_of(row) is not None:
            return "failed"
        open_ = (name for name in names if not self.folder.is_done(name))
        return "running" if any(self.folder.is_running(name) for name in open_) else "waiting"

    def result(self, row: PlannedRow) -> dict[str, Any] | None:
        """Return the result of the training of a row; None before it has finished."""
        record = self.folder.record(row.jobs["train"])
        return None if record is None else self.folder.result(record["training"])

    def bill(self, row: PlannedRow) -> Bill:
        """Return the full cost of a row: its training, its search, and trainings scored there."""
        bill = Bill(items={})
        if "search" in row.jobs:
            found = self.folder.read(self.folder.search(row.jobs["search"]) / BILL)
            bill |= Bill.of(found or {})
        record, result = self.folder.record(row.jobs["train"]), self.result(row)
        if record is not None and result is not None:
            own = {f.name: result[f.name] for f in fields(Cost) if f.name in result}
            bill |= Bill(items={record["training"]: Cost(**own)})
        return bill

    def total_bill(self) -> Bill:
        """Return the cost of all rows, each training and search once."""
        return Bill.together(self.bill(row) for row in self.plan.rows)


def status_of(folder: StudyFolder, plan: Plan, *, workers: int = 1) -> StudyStatus:
    """Return the status of a study.

    Args:
        folder: Folder of the study.
        plan: Its rows and jobs.
        workers: Number of parallel trainings, to estimate the time left.

    Returns:
        The status.
    """
    view = StudyView.of(folder, plan)
    states = {row.id: view.state(row) for row in plan.rows}
    counts = Counter(states.values())
    trainings: dict[str, dict[str, Any]] = {}
    for row in plan.rows:  # rows may share a training
        name, found = _training(plan.jobs[row.jobs["train"]], view)
        trainings[name] = found | {"lost": states[row.id] == "failed"}
    for name, job in plan.jobs.items():  # rounds of iterative pruning have no row
        record = view.folder.record(name) if job.kind == "search" else None
        for run in (record or {}).get("runs", ()):
            result = view.folder.result(Path(run).name)
            if result is not None:
                trainings[Path(run).name] = _finished(result) | {"lost": False}
    live = [training for training in trainings.values() if not training["lost"]]
    paces = [t["seconds"] / t["done"] for t in live if t["done"]]
    left = sum((t["epochs"] - t["done"]) * _pace(t, paces) for t in live) if paces else None
    at_once = max(1, min(workers, sum(t["epochs"] > t["done"] for t in live)))
    cost = view.total_bill().total if any(view.result(row) for row in plan.rows) else None
    causes = {row.id: view.cause_of(row) for row in plan.rows}
    return StudyStatus(
        total=len(plan.rows),
        done=counts["done"],
        running=counts["running"],
        failed=counts["failed"],
        waiting=counts["waiting"],
        epochs_done=sum(t["done"] for t in trainings.values()),
        epochs=sum(t["epochs"] for t in trainings.values()),
        train_seconds=sum(t["seconds"] for t in trainings.values()),
        energy_kwh=None if cost is None else cost.energy_kwh,
        co2_kg=None if cost is None else cost.co2_kg,
        seconds_left=None if left is None else left / at_once,
        failures={key: cause[1] for key, cause in causes.items() if cause is not None},
    )


def _pace(training: Mapping[str, Any], paces: list[float]) -> float:
    """Return the seconds per epoch, measured in this training or else in the others."""
    if training["done"]:
        return float(training["seconds"]) / int(training["done"])
    return fmean(paces)


def _finished(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the epochs and seconds of a finished training."""
    epochs = result["epochs"] or 0
    return {"epochs": epochs, "done": epochs, "seconds": result["train_seconds"]}


def _training(job: Job, view: StudyView) -> tuple[str, dict[str, Any]]:
    """Return the name of a training (or of its job), its epochs, those done, and their seconds.

    The epochs of a user's own training are not known.
    """
    folder = view.folder
    record = folder.record(job.name)
    result = None if record is None else folder.result(record["training"])
    if record is not None and result is not None:
        return record["training"], _finished(result)
    if folder.is_running(job.name) and (begun := folder.begun(job.name)) is not None:
        curve = curve_of(folder.training(begun["training"]))
        known = [point["train_seconds"] for point in curve if point is not None]
        seconds = [0.0, *(value for value in known if value is not None)][-1]
        facts = {"epochs": begun["epochs"], "done": len(curve), "seconds": seconds}
        return begun["training"], facts
    search = folder.record(job.needs["search"]) if "search" in job.needs else None
    epochs = (search or {}).get("epochs", view.plan.epochs)
    origin = (search or {}).get("origin")
    return job.name, {
        "epochs": max(0, epochs - (origin["rewind_epoch"] if origin else 0)),
        "done": 0,
        "seconds": 0.0,
    }


def curve_of(run: Path) -> list[Any]:
    """Read the metrics of a training, one entry per epoch; an incomplete last line is skipped."""
    path = run / METRICS
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.is_file() else []
    return [_point(line) for line in lines]


def _point(line: str) -> dict[str, Any] | None:
    """Read one line of metrics; None where it is damaged."""
    try:
        found = json.loads(line)
        seconds = found["train_seconds"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    fine = seconds is None or (isinstance(seconds, (int, float)) and seconds >= 0)
    return found if fine else None


def study_status(folder: Path) -> dict[str, Any]:
    """Return the status of a study, also while another process runs it.

    Args:
        folder: Folder of the study.

    Returns:
        What `layerticket study status --json` prints.

    Raises:
        LayerticketError: If there is no study.
    """
    place = StudyFolder(existing(folder, "plan.json").parent)
    plan = place.read_plan()
    view = place.view()
    running = sum(place.is_running(name) for name in plan.jobs if not view.is_done(name))
    return {"study": str(folder), **asdict(status_of(place, plan, workers=running))}


def existing(folder: Path, name: str) -> Path:
    """Return a file of a study.

    Raises:
        LayerticketError: If there is no study.
    """
    path = Path(folder) / name
    if not path.exists():
        raise LayerticketError(
            f"{folder} has no study ({name} is missing). Run one: layerticket study run quick "
            f"--out {folder}"
        )
    return path
