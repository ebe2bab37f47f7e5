"""The folder of a study: its paths, and the records that its jobs wrote.

``study.toml`` is the study as it was run; ``plan.json`` its rows and jobs; ``context.json`` its
device, threads and data folders; ``searches/`` and ``trainings/`` have a folder for each; ``rows/``
the training of each row; ``jobs/`` logs and failures; ``study.json``, ``runs.csv`` all results.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import (
    FolderInUse,
    canonical_json,
    exclusive,
    in_use,
    is_held,
    read_json,
    write_atomically,
    write_json,
)
from layerticket.settings import (
    Count,
    DeviceName,
    Digest,
    Inside,
    Many,
    Name,
    NotNegative,
    Text,
    Whole,
    checked_json,
    from_table,
    settings,
    to_table,
)
from layerticket.study.plan import Plan

RECORD, FAILURE, RESULT, PARALLEL = "record.json", "failure.json", "result.json", "beside.json"
CONTEXT = "context.json"
logger = logging.getLogger(__name__)
TRAINING = "training.json"  # in the folder of a job: the training that it runs
AGAIN = "Delete the file and run the study again; finished trainings are kept."
PAUSE = 0.05  # seconds between two tries to lock a folder that another runner writes
LOG_AFTER = 1.0  # seconds of waiting before the reason is logged


@settings
class Context:
    """Where and with what a study runs; only the number of threads can change results."""

    data_dir: Path | None = None
    """Folder of the images."""
    shift_dirs: tuple[Path, ...] = ()
    """Folders of shifted images, in addition to those of the study file."""
    tracking_dir: Path | None = None
    """Folder of the trackers of the study file, as an absolute path."""
    device: DeviceName = "auto"
    threads: Count = 1
    """Threads of each worker."""
    workers: Count | None = None
    """Largest number of parallel jobs that the study was ever run with; None: not known."""
    modules: tuple[Text, ...] = ()
    """Modules that register criteria of the user's own."""
    command: Text = ""
    """Command that ran the study."""


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths in the folder of a study, and methods that read and write its records."""

    root: Path
    cached: dict[Path, Any] | None = field(default=None, compare=False)
    """What this view has read so far; None: files are read again each time."""

    def view(self) -> "StudyFolder":
        """Return a view of the folder in which every file is read at most once."""
        return StudyFolder(self.root, {})

    @property
    def study(self) -> Path:
        """The study file as it was run."""
        return self.root / "study.toml"

    @property
    def plan(self) -> Path:
        """File of the jobs and rows."""
        return self.root / "plan.json"

    @property
    def trainings(self) -> Path:
        """Folder of all trainings."""
        return self.root / "trainings"

    def training(self, name: str) -> Path:
        """Folder of a training."""
        return self.trainings / name

    def search(self, name: str) -> Path:
        """Folder of the result of a search."""
        return self.root / "searches" / name

    def job(self, name: str) -> Path:
        """Folder of a job: its lock, log and failure."""
        return self.root / "jobs" / name

    def log(self, name: str) -> Path:
        """File with everything a job printed."""
        return self.job(name) / "log.txt"

    def record_path(self, name: str) -> Path:
        """Path of the record that a finished job writes."""
        if name.startswith("search-"):
            return self.search(name) / RECORD
        if name.startswith("train-"):
            return self.root / "rows" / f"{name.removeprefix('train-')}.json"
        return self.job(name) / RECORD

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the record of a finished job; None if it has not finished."""
        path = self.record_path(name)
        found = self.read(path)
        return None if found is None else self._once_checked(path, found, _check_record)

    def result(self, training: str) -> dict[str, Any] | None:
        """Return the result of a training; None if it has not finished."""
        path = self.training(training) / RESULT
        found = self.read(path)
        return None if found is None else self._once_checked(path, found, _check_result)

    def is_done(self, name: str) -> bool:
        """Whether a job is done: it has a record, and the inputs of that record are unchanged.

        Inputs are the weights that it read and the results of the jobs before it.
        """
        record = self.record(name)
        if record is None:
            return False
        if name.startswith("train-") and self.result(record["training"]) is None:
            return False
        if any(
            not self.is_done(need) or self.outcome(need) != outcome
            for need, outcome in record.get("made_of", {}).items()
        ):
            return False
        return all(
            (result := self.result(training)) is not None
            and all(_digest_in(result, part) == digest for part, digest in parts.items())
            for training, parts in record.get("inputs", {}).items()
        )

    def outcome(self, name: str) -> str | None:
        """Return what a search found, or the training of a row; None if it is not known."""
        record = self.record(name) or {}
        return record.get("found", record.get("training"))

    def begun(self, name: str) -> dict[str, Any] | None:
        """Return the training that a job runs, and its epochs; None before it starts."""
        path = self.job(name) / TRAINING
        found = self.read(path)
        return None if found is None else self._once_checked(path, found, _check_begun)

    def begin_training(self, name: str, begun: Mapping[str, Any]) -> None:
        """Write which training a job runs."""
        write_json(self.job(name) / TRAINING, begun)

    def failure(self, name: str) -> str | None:
        """Return why the last attempt at a job failed; None if it did not fail."""
        found = self.read(self.job(name) / FAILURE)
        return None if found is None else str(found.get("error"))

    def is_running(self, name: str) -> bool:
        """Whether a process is running a job, as of this view."""
        return bool(self._once(self.job(name), in_use))

    def is_taken(self, name: str) -> bool:
        """Whether a process is running a job right now; ask before starting it."""
        return is_held(self.job(name))

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Write the record of a finished job and delete an earlier failure."""
        write_json(self.record_path(name), record)
        self.clear_failure(name)

    def fail(self, name: str, error: str) -> None:
        """Write why a job failed."""
        write_json(self.job(name) / FAILURE, {"error": error})

    def clear_failure(self, name: str) -> None:
        """Delete the failure of a job, so that it is run again."""
        (self.job(name) / FAILURE).unlink(missing_ok=True)

    def record_parallel(self, name: str, count: int) -> None:
        """Write how many other jobs run at the same time; the largest number is kept."""
        write_json(
            self.job(name) / PARALLEL, {"jobs_beside": max(count, self.jobs_beside(name) or 0)}
        )

    def jobs_beside(self, name: str) -> int | None:
        """Return the largest number of other jobs that ran at the same time; None: not counted."""
        path = self.job(name) / PARALLEL
        found = self.read(path)
        if found is None:
            return None
        count: int = checked_json(f"{path}: jobs_beside", Whole, found.get("jobs_beside"))
        return count

    @contextmanager
    def held(self, log: Callable[[str], None] = logger.warning) -> Iterator[None]:
        """Lock the files of the whole study; wait while another runner holds them.

        Jobs have their own locks, so this one is held only briefly. A longer wait is logged.
        """
        with ExitStack() as stack:
            begun, logged = time.monotonic(), False
            while True:
                try:
                    stack.enter_context(exclusive(self.root))
                    break
                except FolderInUse as err:
                    if not logged and time.monotonic() - begun > LOG_AFTER:
                        log(f"waiting: {err}")
                        logged = True
                time.sleep(PAUSE)
            yield

    def write_plan(self, plan: Plan, text: str) -> None:
        """Write the rows, the jobs and the study file, unless they are there already."""
        if not self.matches(plan, text):
            write_atomically(self.study, text)
            write_json(self.plan, plan.as_record())

    def matches(self, plan: Plan, text: str) -> bool:
        """Whether the folder holds this plan and this study file, not another version."""
        if not self.plan.exists() or not self.study.exists():
            return False
        same_text = self.study.read_text(encoding="utf-8") == text
        return same_text and canonical_json(read_json(self.plan)) == canonical_json(
            plan.as_record()
        )

    def read_plan(self) -> Plan:
        """Read the rows and jobs.

        Raises:
            LayerticketError: If there is no plan.
        """
        return Plan.from_record(read_json(self.plan), str(self.plan))

    def read_context(self) -> Context:
        """Read the context of the study; the defaults if there is none yet."""
        found = self.read(self.root / CONTEXT)
        return Context() if found is None else from_table(Context, found, CONTEXT)

    def save_context(
        self, context: Context, *, threads: int | None, share: int, workers: int | None
    ) -> Context:
        """Write the context of the study; its threads stay as they were at the start.

        A study keeps its threads, so that it gives the same bits when resumed with other workers.
        It keeps the largest number of workers; once unknown, that number stays unknown.

        Args:
            context: The context of this run.
            threads: Threads of each worker that the user asked for; None: not given.
            share: Default number of threads for a new folder.
            workers: Number of parallel jobs from now on; None: not known.

        Raises:
            LayerticketError: If the study was started with another number of threads.
        """
        begun = (self.root / CONTEXT).exists()
        known = self.read_context()
        if begun and threads not in (None, known.threads):
            raise LayerticketError(
                f"the study in {self.root} was started with {known.threads} threads for each "
                f"worker; with {threads}, its runs would differ in the last bits. Leave out "
                "--threads, or use another folder."
            )
        most = None if workers is None else max(workers, known.workers or 0)
        settled = replace(
            context,
            threads=known.threads if begun else threads or share,
            workers=None if begun and known.workers is None else most,
        )
        write_json(self.root / CONTEXT, to_table(settled))
        return settled

    def read(self, path: Path) -> dict[str, Any] | None:
        """Read a JSON file, again only if it changed; None if it does not exist."""
        found: dict[str, Any] | None = self._once(path, _read_if_there)
        return found

    def _once_checked(
        self,
        path: Path,
        found: dict[str, Any],
        check: Callable[[str, Mapping[str, Any]], None],
    ) -> dict[str, Any]:
        """Check a record once; the same object is not checked again."""
        if _checked_records.get(path) is not found:
            check(str(path), found)
            _checked_records[path] = found
        return found

    def _once(self, path: Path, read: Callable[[Path], Any]) -> Any:  # noqa: ANN401
        """Read something at most once in a view of the folder."""
        if self.cached is None:
            return read(path)
        if path not in self.cached:
            self.cached[path] = read(path)
        return self.cached[path]


_checked_records: dict[Path, dict[str, Any]] = {}

RECORDED: Mapping[str, Any] = {
    "training": Name,
    "search": Name | None,
    "found": str,
    "ticket": Inside,
    "runs": tuple[Inside, ...],
    "model": str,
    "epochs": Many,
    "inputs": dict[Name, dict[str, Digest]],
    "made_of": dict[Name, str | None],
    "origin": dict[str, Any] | None,
    "macs": Any,
    "params": Any,
    "blocks": tuple[dict[str, Any], ...],
    "results": dict[str, dict[str, Any]],
    "similarity": dict[str, Any] | None,
    "search_seconds": NotNegative | None,
    "search_energy_kwh": NotNegative | None,
    "search_co2_kg": NotNegative | None,
}
"""Types of the records that jobs write. Names are those of folders; paths stay inside."""
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "rows": ("training",),
    "evaluate": ("training", "results"),
}


def _check_record(where: str, record: Mapping[str, Any]) -> None:
    """Raise if the record of a job lacks a field, or a field has the wrong type."""
    place = Path(where)
    kind = "rows" if place.parent.name == "rows" else place.parent.name.partition("-")[0]
    for name in REQUIRED.get(kind, ()):
        if name not in record:
            raise LayerticketError(f"{where}: key {name!r} is missing. {AGAIN}")
    for name, hint in RECORDED.items():
        if name in record:
            try:
                checked_json(f"{where}: {name}", hint, record[name])
            except LayerticketError as err:
                raise LayerticketError(f"{err} {AGAIN}") from err


def _check_result(where: str, record: Mapping[str, Any]) -> None:
    from layerticket.study.record import Result

    Result.check(record, where)


def _check_begun(where: str, record: Mapping[str, Any]) -> None:
    for name, hint in (("training", Name), ("epochs", Whole)):
        checked_json(f"{where}: {name}", hint, record.get(name))


def _read_if_there(path: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        now = path.stat()
        return _read_once(path, (now.st_mtime_ns, now.st_ino, now.st_size))
    return None


@functools.lru_cache(maxsize=100_000)
def _read_once(path: Path, version: tuple[int, int, int]) -> dict[str, Any]:
    """Read a file once per version; a time alone is too coarse to identify a version."""
    return read_json(path)


def _digest_in(result: Mapping[str, Any], part: str) -> str | None:
    """Return the digest of the final weights of a training, or of one of its snapshots."""
    found = result["weights"] if part == "end" else result["snapshots"].get(part)
    return None if found is None else str(found)
