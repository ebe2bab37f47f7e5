"""The folder of a study: where each thing in it lies, and what its jobs have left.

``study.toml`` the study as it was run; ``plan.json`` its jobs and rows; ``jobs/`` a folder for each
job with what it was and how it ended; ``tickets/``, ``runs/`` and ``logs/``; ``study.json``,
``runs.csv`` everything together.
"""

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import (
    FolderInUse,
    canonical_json,
    exclusive,
    holder_of,
    in_use,
    read_json,
    write_atomically,
)
from layerticket.study.plan import KEEP, Job, Plan, PlannedRun
from layerticket.training.checkpoint import kept_path

JOB, RECORD, FAILURE = "job.json", "record.json", "failure.json"
THREADS = "threads.json"
_log = logging.getLogger(__name__)
SAID_AFTER = 1.0  # seconds of waiting until it is said what is waited for
PAUSE = 0.05  # seconds until a folder that another runner writes is tried again


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths in the folder of a study; reads and writes what stands in them."""

    root: Path

    @property
    def study(self) -> Path:
        """The study file as it was run."""
        return self.root / "study.toml"

    @property
    def plan(self) -> Path:
        """Jobs and rows."""
        return self.root / "plan.json"

    @property
    def runs(self) -> Path:
        """Folder of all trainings."""
        return self.root / "runs"

    def job(self, name: str) -> Path:
        """Folder of a job."""
        return self.root / "jobs" / name

    def found(self, name: str) -> Path:
        """Folder of what a search found."""
        return self.root / "tickets" / name

    def log(self, name: str) -> Path:
        """Log of a job."""
        return self.root / "logs" / f"{name}.log"

    def record_of(self, name: str) -> dict[str, Any] | None:
        """What a job ended with; None if it never did."""
        path = self.job(name) / RECORD
        return _read_once(path, path.stat().st_mtime_ns) if path.exists() else None

    def finished(self, job: Job) -> dict[str, Any] | None:
        """Return what a job ended with, if nothing is left to do; else None.

        A training that did not keep an epoch which is wanted by now is left to do.
        """
        record, keep = self.record_of(job.name), job.spec.get(KEEP, ())
        if record is None or not keep:
            return record
        run = self.root / record["run"]
        return record if all(kept_path(run, epoch).exists() for epoch in keep) else None

    def failure_of(self, name: str) -> str | None:
        """Why a job failed when it was tried last; None if it did not."""
        path = self.job(name) / FAILURE
        return str(read_json(path)["error"]) if path.exists() else None

    def is_running(self, name: str) -> bool:
        """Whether a process is at work on a job."""
        return in_use(self.job(name))

    def run_held_with(self, name: str) -> Path | None:
        """Return the run that the process at work on a job is training; None if there is none."""
        holder = holder_of(self.job(name))
        if holder is None:
            return None
        runs = self.root.glob("runs*/*/")
        return next((run for run in runs if holder_of(run) == holder and in_use(run)), None)

    def begin(self, job: Job) -> None:
        """Write down what a job is; an old failure is forgotten."""
        _write(self.job(job.name) / JOB, asdict(job))
        self.forget_failure(job.name)

    def forget_failure(self, name: str) -> None:
        """Let a job that failed count as not yet tried."""
        (self.job(name) / FAILURE).unlink(missing_ok=True)

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Write down how a job ended well."""
        _write(self.job(name) / RECORD, record)

    def fail(self, name: str, error: str) -> None:
        """Write down why a job failed."""
        _write(self.job(name) / FAILURE, {"error": error})

    def threads(self, asked: int | None, share: int) -> int:
        """Return the threads of each worker: those the study was begun with, or as asked, or else.

        A study keeps them, so that it ends with the same bits when it goes on with other workers.

        Args:
            asked: As the user wishes; None: no wish.
            share: What else they are in a new folder.

        Raises:
            LayerticketError: If the study was begun with other threads than asked.
        """
        path = self.root / THREADS
        if not path.exists():
            _write(path, {"threads": asked or share, "workers": 0})
        known = int(read_json(path)["threads"])
        if asked not in (None, known):
            raise LayerticketError(
                f"the study in {self.root} was begun with {known} threads for each worker; with "
                f"{asked} its runs would differ in their last bits. Leave out --threads, or take "
                "another folder."
            )
        return known

    def note_beside(self, name: str, count: int) -> None:
        """Note how many jobs ran beside one at some moment; the most stays."""
        path = self.job(name) / "beside.json"
        before = read_json(path)["jobs_beside"] if path.exists() else 0
        _write(path, {"jobs_beside": max(count, before)})

    @property
    def workers(self) -> int | None:
        """Most jobs at a time that the study was ever done with; None if that is not known."""
        path = self.root / THREADS
        found = read_json(path).get("workers") if path.exists() else None
        return found or None

    def note_workers(self, count: int | None) -> None:
        """Note how many jobs are going to be done at a time; what was not known stays unknown."""
        record = read_json(self.root / THREADS)
        before = record.get("workers")
        most = None if count is None or before is None else max(count, int(before))
        if most != before:
            _write(self.root / THREADS, record | {"workers": most})

    @contextmanager
    def held(self, say: Callable[[str], None] = _log.warning) -> Iterator[None]:
        """Write what belongs to the whole study alone; another runner is waited for.

        Jobs have locks of their own, so this one is held for moments only. A longer wait is said.
        """
        with ExitStack() as stack:
            begun, said = time.monotonic(), False
            while True:
                try:
                    stack.enter_context(exclusive(self.root))
                    break
                except FolderInUse as err:
                    if not said and time.monotonic() - begun > SAID_AFTER:
                        say(f"waiting: {err}")
                        said = True
                time.sleep(PAUSE)
            yield

    def write_plan(self, plan: Plan, text: str) -> None:
        """Write jobs, rows and the study file down, unless they stand there already."""
        if not self.holds(plan, text):
            write_atomically(self.study, text)
            _write(self.plan, _spelled(plan))

    def holds(self, plan: Plan, text: str) -> bool:
        """Whether the folder is about this plan of this study file, and not of another version."""
        if not self.plan.exists() or not self.study.exists():
            return False
        same_text = self.study.read_text(encoding="utf-8") == text
        return same_text and canonical_json(read_json(self.plan)) == canonical_json(_spelled(plan))

    def read_plan(self) -> Plan:
        """Read jobs and rows back.

        Raises:
            LayerticketError: If there is no plan.
        """
        record = read_json(self.plan)
        jobs = [Job(**job) for job in record["jobs"]]
        return Plan(
            jobs={job.name: job for job in jobs},
            runs=tuple(PlannedRun(**run) for run in record["runs"]),
        )


def _spelled(plan: Plan) -> dict[str, Any]:
    """Spell a plan as JSON values."""
    return {
        "jobs": [asdict(job) for job in plan.jobs.values()],
        "runs": [asdict(run) for run in plan.runs],
    }


@functools.lru_cache(maxsize=100_000)
def _read_once(path: Path, when: int) -> dict[str, Any]:
    """Read a file once, as long as it stays as it is."""
    return read_json(path)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
