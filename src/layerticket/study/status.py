"""How far a study is: one look at its folder, every file of it read at most once."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
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
    """How far a study is, and what is left."""

    total: int
    """Rows of the study."""
    done: int
    running: int
    failed: int
    waiting: int
    epochs_done: int
    epochs: int
    """Of all trainings; an upper bound as long as it is not known which rows share one."""
    train_seconds: float
    """Seconds of training so far, over all workers."""
    energy_kwh: float | None
    """Energy so far, each training and search once; None where a part was not metered."""
    co2_kg: float | None
    seconds_left: float | None
    """About how long the rest will take; None before the first epoch is done."""
    failures: Mapping[str, str]
    """Why rows failed, by id."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A study as it is at one moment."""

    plan: Plan
    folder: StudyFolder
    _causes: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: StudyFolder, plan: Plan) -> "Look":
        """Look at a folder now."""
        return cls(plan, folder.look())

    def cause(self, name: str) -> tuple[str, str] | None:
        """The job that this one failed at, itself or one before it, and why; None: it did not."""
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
        """The job that a row failed at, and why; None if it did not fail."""
        causes = (self.cause(name) for name in row.jobs.values())
        return next((found for found in causes if found is not None), None)

    def state(self, row: PlannedRow) -> State:
        """How a row stands."""
        names = row.jobs.values()
        if all(self.folder.is_done(name) for name in names):
            return "done"
        if self.cause_of(row) is not None:
            return "failed"
        open_ = (name for name in names if not self.folder.is_done(name))
        return "running" if any(self.folder.is_running(name) for name in open_) else "waiting"

    def result(self, row: PlannedRow) -> dict[str, Any] | None:
        """How the training of a row ended; None if it did not, or is not known yet."""
        record = self.folder.record(row.jobs["train"])
        return None if record is None else self.folder.result(record["training"])

    def bill(self, row: PlannedRow) -> Bill:
        """What a row needs to exist: its training, its search, and what that search looked at."""
        bill = Bill(items={})
        if "search" in row.jobs:
            found = self.folder.read(self.folder.search(row.jobs["search"]) / BILL)
            bill |= Bill.of(found or {})
        record, result = self.folder.record(row.jobs["train"]), self.result(row)
        if record is not None and result is not None:
            own = {f.name: result[f.name] for f in fields(Cost) if f.name in result}
            bill |= Bill(items={record["training"]: Cost(**own)})
        return bill

    def whole_bill(self) -> Bill:
        """What all rows need, each training and search once."""
        return Bill.together(self.bill(row) for row in self.plan.rows)


def status_of(folder: StudyFolder, plan: Plan, *, workers: int = 1) -> StudyStatus:
    """Look at the folder of a study.

    Args:
        folder: Where it lies.
        plan: What belongs to it.
        workers: Trainings at a time, for the time left.

    Returns:
        How it stands.
    """
    look = Look.at(folder, plan)
    states = {row.id: look.state(row) for row in plan.rows}
    counts = Counter(states.values())
    trainings: dict[str, dict[str, Any]] = {}
    for row in plan.rows:  # rows may share one
        name, found = _training(plan.jobs[row.jobs["train"]], look)
        trainings[name] = found | {"lost": states[row.id] == "failed"}
    for name, job in plan.jobs.items():  # rounds of iterative pruning have no row
        record = look.folder.record(name) if job.kind == "search" else None
        for run in (record or {}).get("runs", ()):
            result = look.folder.result(Path(run).name)
            if result is not None:
                trainings[Path(run).name] = _finished(result) | {"lost": False}
    live = [training for training in trainings.values() if not training["lost"]]
    paces = [t["seconds"] / t["done"] for t in live if t["done"]]
    left = sum((t["epochs"] - t["done"]) * _pace(t, paces) for t in live) if paces else None
    at_once = max(1, min(workers, sum(t["epochs"] > t["done"] for t in live)))
    cost = look.whole_bill().total if any(look.result(row) for row in plan.rows) else None
    causes = {row.id: look.cause_of(row) for row in plan.rows}
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
    """Seconds an epoch takes: as measured in this training, or in the others."""
    if training["done"]:
        return float(training["seconds"]) / int(training["done"])
    return fmean(paces)


def _finished(result: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs and seconds of a finished training."""
    epochs = result["epochs"] or 0
    return {"epochs": epochs, "done": epochs, "seconds": result["train_seconds"]}


def _training(job: Job, look: Look) -> tuple[str, dict[str, Any]]:
    """Look at one training: its name, or the job's; its epochs, those done, the seconds they took.

    A user's own training has no epochs that we know.
    """
    folder = look.folder
    record = folder.record(job.name)
    result = None if record is None else folder.result(record["training"])
    if record is not None and result is not None:
        return record["training"], _finished(result)
    if folder.is_running(job.name) and (begun := folder.begun(job.name)) is not None:
        curve = curve_of(folder.training(begun["training"]))
        known = [point["train_seconds"] for point in curve if point is not None]
        seconds = [0.0, *(value for value in known if value is not None)][-1]
        facts = {"epochs": begun.get("epochs", 0), "done": len(curve), "seconds": seconds}
        return begun["training"], facts
    search = folder.record(job.needs["search"]) if "search" in job.needs else None
    epochs = (search or {}).get("epochs", look.plan.epochs)
    origin = (search or {}).get("origin")
    return job.name, {
        "epochs": max(0, epochs - (origin["rewind_epoch"] if origin else 0)),
        "done": 0,
        "seconds": 0.0,
    }


def curve_of(run: Path) -> list[Any]:
    """Read the metrics of a training, one entry an epoch; a torn last line is left out."""
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
    """Tell how a study stands, also while another process is at it.

    Args:
        folder: Folder of the study.

    Returns:
        What `layerticket study status --json` prints.

    Raises:
        LayerticketError: If there is no study.
    """
    place = StudyFolder(existing(folder, "plan.json").parent)
    plan = place.read_plan()
    running = sum(map(place.is_running, _unfinished(place.look(), plan.jobs)))
    return {"study": str(folder), **asdict(status_of(place, plan, workers=max(1, running)))}


def existing(folder: Path, name: str) -> Path:
    """Return a file of a study.

    Raises:
        LayerticketError: If there is no study.
    """
    path = Path(folder) / name
    if not path.exists():
        raise LayerticketError(
            f"{folder} holds no study ({name} is missing). Run one: layerticket study run quick "
            f"--out {folder}"
        )
    return path


def _unfinished(folder: StudyFolder, names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if not folder.is_done(name))
