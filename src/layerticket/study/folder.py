"""The folder of a study: where each thing in it lies, and what its jobs have left.

``study.toml`` the study as it was run; ``plan.json`` its rows and jobs; ``context.json`` where and
with what it is run; ``searches/`` and ``trainings/`` a folder for each; ``rows/`` which training a
row has come to; ``jobs/`` logs and failures; ``study.json``, ``runs.csv`` everything together.
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

RECORD, FAILURE, RESULT, BESIDE = "record.json", "failure.json", "result.json", "beside.json"
CONTEXT = "context.json"
logger = logging.getLogger(__name__)
BEGUN = "training.json"  # in the folder of a job: the training that it is at
AGAIN = "Delete the file and run the study again; finished trainings are kept."
PAUSE = 0.05  # seconds until a folder that another runner writes is tried again
SAID_AFTER = 1.0  # seconds of waiting until it is said what is waited for


@settings
class Context:
    """Where and with what a study is run; decides nothing about how jobs end but their threads."""

    data_dir: Path | None = None
    """Folder of the images."""
    shift_dirs: tuple[Path, ...] = ()
    """Folders of shifted images, beside those of the study file."""
    tracking_dir: Path | None = None
    """Folder of the trackers of the study file, as seen from anywhere."""
    device: DeviceName = "auto"
    threads: Count = 1
    """Of each worker."""
    workers: Count | None = None
    """Most jobs that the study was ever done with at a time; None: not known."""
    command: Text = ""
    """Command that the study was run with."""


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths in the folder of a study; reads and writes what stands in them."""

    root: Path
    looks: dict[Path, Any] | None = field(default=None, compare=False)
    """What was read in this look at the folder; None: files are read as they are now."""

    def look(self) -> "StudyFolder":
        """The same folder as it is now, every file of it read at most once."""
        return StudyFolder(self.root, {})

    @property
    def study(self) -> Path:
        """The study file as it was run."""
        return self.root / "study.toml"

    @property
    def plan(self) -> Path:
        """Jobs and rows."""
        return self.root / "plan.json"

    @property
    def trainings(self) -> Path:
        """Folder of all trainings."""
        return self.root / "trainings"

    def training(self, name: str) -> Path:
        """Folder of a training."""
        return self.trainings / name

    def search(self, name: str) -> Path:
        """Folder of what a search found."""
        return self.root / "searches" / name

    def job(self, name: str) -> Path:
        """Folder of a job: its lock, log and failure."""
        return self.root / "jobs" / name

    def log(self, name: str) -> Path:
        """Everything a job printed."""
        return self.job(name) / "log.txt"

    def record_path(self, name: str) -> Path:
        """Where a job writes down what it ended with."""
        if name.startswith("search-"):
            return self.search(name) / RECORD
        if name.startswith("train-"):
            return self.root / "rows" / f"{name.removeprefix('train-')}.json"
        return self.job(name) / RECORD

    def record(self, name: str) -> dict[str, Any] | None:
        """What a job ended with; None if it never did."""
        path = self.record_path(name)
        found = self.read(path)
        return None if found is None else self._once_checked(path, found, _check_record)

    def result(self, training: str) -> dict[str, Any] | None:
        """What a training ended with; None if it did not end."""
        path = self.training(training) / RESULT
        found = self.read(path)
        return None if found is None else self._once_checked(path, found, _check_result)

    def is_done(self, name: str) -> bool:
        """Whether nothing is left to do: a record stands, and all it was made of is still so.

        That is the weights it read, and what the jobs before it came to.
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
        """What a search found, or which training a row came to; None if it is not known."""
        record = self.record(name) or {}
        return record.get("found", record.get("training"))

    def begun(self, name: str) -> dict[str, Any] | None:
        """The training that a job is at, and its epochs; None if it has not got there."""
        path = self.job(name) / BEGUN
        found = self.read(path)
        return None if found is None else self._once_checked(path, found, _check_begun)

    def begin_training(self, name: str, begun: Mapping[str, Any]) -> None:
        """Write down which training a job is at."""
        write_json(self.job(name) / BEGUN, begun)

    def failure(self, name: str) -> str | None:
        """Why a job failed when it was tried last; None if it did not."""
        found = self.read(self.job(name) / FAILURE)
        return None if found is None else str(found.get("error"))

    def is_running(self, name: str) -> bool:
        """Whether a process is at work on a job."""
        return bool(self._once(self.job(name), in_use))

    def is_taken(self, name: str) -> bool:
        """Whether a process is at work on a job, for one that would begin it otherwise."""
        return is_held(self.job(name))

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Write down how a job ended well; an old failure is forgotten."""
        write_json(self.record_path(name), record)
        self.forget_failure(name)

    def fail(self, name: str, error: str) -> None:
        """Write down why a job failed."""
        write_json(self.job(name) / FAILURE, {"error": error})

    def forget_failure(self, name: str) -> None:
        """Let a job that failed count as not yet tried."""
        (self.job(name) / FAILURE).unlink(missing_ok=True)

    def note_beside(self, name: str, count: int) -> None:
        """Note how many jobs ran beside one at some moment; the most stays."""
        write_json(
            self.job(name) / BESIDE, {"jobs_beside": max(count, self.jobs_beside(name) or 0)}
        )

    def jobs_beside(self, name: str) -> int | None:
        """The most jobs that ran beside one at any moment; None: nobody counted them."""
        path = self.job(name) / BESIDE
        found = self.read(path)
        if found is None:
            return None
        count: int = checked_json(f"{path}: jobs_beside", Whole, found.get("jobs_beside"))
        return count

    @contextmanager
    def held(self, say: Callable[[str], None] = logger.warning) -> Iterator[None]:
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
        """Write rows, jobs and the study file down, unless they stand there already."""
        if not self.holds(plan, text):
            write_atomically(self.study, text)
            write_json(self.plan, plan.as_record())

    def holds(self, plan: Plan, text: str) -> bool:
        """Whether the folder is about this plan of this study file, and not of another version."""
        if not self.plan.exists() or not self.study.exists():
            return False
        same_text = self.study.read_text(encoding="utf-8") == text
        return same_text and canonical_json(read_json(self.plan)) == canonical_json(
            plan.as_record()
        )

    def read_plan(self) -> Plan:
        """Read rows and jobs back.

        Raises:
            LayerticketError: If there is no plan.
        """
        return Plan.from_record(read_json(self.plan), str(self.plan))

    def read_context(self) -> Context:
        """Read where and with what the study is run; by default as `Context` says."""
        found = self.read(self.root / CONTEXT)
        return Context() if found is None else from_table(Context, found, CONTEXT)

    def settle(
        self, context: Context, *, threads: int | None, share: int, workers: int | None
    ) -> Context:
        """Write down where and with what the study is run, with the threads it was begun with.

        A study keeps its threads, so that it ends with the same bits when it goes on with other
        workers. Of the workers it keeps the most; what was not known once stays unknown.

        Args:
            context: As it is run now.
            threads: Of each worker, as the user wishes; None: no wish.
            share: What they are in a new folder, without a wish.
            workers: Jobs at a time from now on; None: not known.

        Raises:
            LayerticketError: If the study was begun with other threads than asked.
        """
        begun = (self.root / CONTEXT).exists()
        known = self.read_context()
        if begun and threads not in (None, known.threads):
            raise LayerticketError(
                f"the study in {self.root} was begun with {known.threads} threads for each "
                f"worker; with {threads} its runs would differ in their last bits. Leave out "
                "--threads, or take another folder."
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
        """Read a file as long as it changes; None if it is not there."""
        found: dict[str, Any] | None = self._once(path, _read_if_there)
        return found

    def _once_checked(
        self,
        path: Path,
        found: dict[str, Any],
        check: Callable[[str, Mapping[str, Any]], None],
    ) -> dict[str, Any]:
        """Check a record the first time it is seen; the same object is not checked again."""
        if _checked_records.get(path) is not found:
            check(str(path), found)
            _checked_records[path] = found
        return found

    def _once(self, path: Path, read: Callable[[Path], Any]) -> Any:  # noqa: ANN401
        """Read something once in a look at the folder."""
        if self.looks is None:
            return read(path)
        if path not in self.looks:
            self.looks[path] = read(path)
        return self.looks[path]


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
"""What jobs write down and others read. Names are those of folders here; paths stay inside."""
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "rows": ("training",),
    "evaluate": ("training", "results"),
}


def _check_record(where: str, record: Mapping[str, Any]) -> None:
    """Refuse the record of a job that lacks something, or holds it in another form."""
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
    """Read a file once, as long as it stays as it is; times alone are as coarse as the kernel's."""
    return read_json(path)


def _digest_in(result: Mapping[str, Any], part: str) -> str | None:
    """Digest of the end weights of a training, or of a snapshot of it."""
    found = result["weights"] if part == "end" else result["snapshots"].get(part)
    return None if found is None else str(found)
