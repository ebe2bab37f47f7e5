"""Which jobs of a study are left, at work and over; knows nothing of processes."""

import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import Metering
from layerticket.evaluation.robustness import prepare
from layerticket.study.collect import collect, repeat_command
from layerticket.study.folder import StudyFolder
from layerticket.study.job import Outcome, Surroundings, Task, dataset_of
from layerticket.study.plan import Plan, unfold
from layerticket.study.running.crew import Crew
from layerticket.study.running.workers import Executor
from layerticket.study.spec import StudyFile
from layerticket.study.status import Standing, standing_of
from layerticket.study.toml import study_text
from layerticket.training.trackers import Tracking

PAUSE = 1.0  # seconds until a job that another process is at is looked at again


@dataclass(slots=True)
class Board:
    """Which jobs are left, at work and over."""

    plan: Plan
    folder: StudyFolder
    retries: int
    left: dict[str, None] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    deaths: Counter[str] = field(default_factory=Counter)
    again: dict[str, float] = field(default_factory=dict)
    """When a job that another process is at may be tried again."""

    def ready(self) -> str | None:
        """Return the first job that can be begun now; those that never can be are given up."""
        for name in list(self.left):
            needs = self.plan.jobs[name].needs.values()
            if self.failed.intersection(needs):
                self.failed.add(name)
                del self.left[name]
            elif self.again.get(name, 0.0) <= time.monotonic() and all(
                self.folder.finished(self.plan.jobs[need]) is not None for need in needs
            ):
                return name
        return None

    def ended(self, outcome: Outcome) -> None:
        """Take note of how a try ended."""
        name = outcome.name
        self.running.discard(name)
        if outcome.ended == "died":
            self.deaths[name] += 1
            if self.deaths[name] > self.retries:
                tries = self.deaths[name]
                self.folder.fail(name, f"{outcome.error}, {tries} times of {tries}")
                self.failed.add(name)
            else:
                self.left[name] = None
        elif outcome.ended == "busy":
            self.again[name] = time.monotonic() + PAUSE
            self.left[name] = None
        elif outcome.ended == "failed":
            self.failed.add(name)


TICK = 1.0  # seconds between two looks at what others do
COLLECTED = 20.0  # seconds between two versions of study.json while the study runs


def run_study(
    study: StudyFile,
    out: Path,
    *,
    crew: Crew = Crew(),  # noqa: B008 - frozen
    data_dir: Path | None = None,
    shift_dir: Path | None = None,
    only: tuple[str, ...] = (),
    command: str = "",
    tell: Callable[[Standing], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a study, go on with it, or do what was added to it.

    Call it under ``if __name__ == "__main__":`` in a script, since workers are started afresh and
    import the script.

    Args:
        study: What is to be done.
        out: Folder of the study.
        crew: Who does it.
        data_dir: Folder of the images.
        shift_dir: Folder of shifted images; `data_dir` is searched too.
        only: Ids of the rows to work on, for example one that is to be repeated; by default all.
        command: Command line to be noted.
        tell: Called with the standing, at most once a second.

    Returns:
        What is in ``study.json``. If another version of the study was begun in the folder
        meanwhile, that one's is left there, and this is what this version came to.

    Raises:
        LayerticketError: If data, evaluations, threads or an id do not fit; before any training.
            What fails later is told in the rows, and does not stop others.
    """
    around = Surroundings(
        root=Path(out).resolve(),
        data=study.data,
        validation_fraction=study.validation_fraction,
        data_dir=None if data_dir is None else data_dir.expanduser().resolve(),
        shift_dirs=tuple(d.expanduser().resolve() for d in (shift_dir, data_dir) if d is not None),
        device=crew.seen_device,
        metering=study.energy,
        tracking=_seen_from_anywhere(study.tracking),
        command=command,
    )
    plan, around = _prepared(study, around, crew)
    folder = StudyFolder(around.root)
    store = functools.partial(collect, study, folder, plan, around)
    wanted = plan.only(only) if only else plan
    board = Board(wanted, folder, crew.retries)
    board.left = {name: None for name, job in wanted.jobs.items() if folder.finished(job) is None}
    for name in board.left:  # these are tried again; other failures stay as they were told
        if not folder.is_running(name):
            folder.forget_failure(name)
    store()
    try:
        if board.left:
            _check_meter(study.energy, crew)
            with folder.held():
                folder.note_workers(crew.count)
            with crew.at_work(around.threads) as executor:
                _work(board, executor, around, _Teller(tell, store, plan, folder))
    finally:
        record = store()
    return record


def _seen_from_anywhere(tracking: Tracking) -> Tracking:
    """Name the folder of trackers in a way that holds wherever a worker stands."""
    folder = tracking.folder
    return tracking if folder is None else replace(tracking, folder=folder.expanduser().resolve())


def _prepared(study: StudyFile, around: Surroundings, crew: Crew) -> tuple[Plan, Surroundings]:
    """Load what all jobs share, check what can be checked, and write the plan down."""
    dataset = dataset_of(around)
    if study.evaluate:
        folders = (*study.conditions.shift_dir, *around.shift_dirs)
        prepare(study.evaluate, dataset, replace(study.conditions, shift_dir=folders))
    plan = unfold(study, dataset.fingerprint)
    folder = StudyFolder(around.root)
    with folder.held():
        threads = folder.threads(crew.threads, crew.share)
        folder.write_plan(plan, study_text(study))
    return plan, replace(around, threads=threads)


def _check_meter(metering: Metering, crew: Crew) -> None:
    """Refuse to meter several jobs at a time with counters of the whole processor."""
    if metering.wanted and metering.cpu_tdp is None and crew.count != 1:
        raise LayerticketError(
            "energy is to be metered by the counters of the processor, which cannot tell one job "
            "from the others that run at the same time. Use --workers 1, or state the power of the "
            "processor at full load: --set energy.cpu_tdp=W, which is shared out by CPU time."
        )


def _work(board: Board, executor: Executor, around: Surroundings, teller: "_Teller") -> None:
    """Hand out jobs until none is left."""
    while board.left or board.running:
        while executor.free and (name := board.ready()) is not None:
            del board.left[name]
            board.running.add(name)
            executor.submit(_task(board.plan, name, board.folder, around))
        teller.look(len(board.running))
        if board.running or board.left:
            for outcome in executor.wait(TICK):
                board.ended(outcome)
    teller.look(1, now=True)


class _Teller:
    """Tells how the study stands every second or so, and renews the store now and then."""

    def __init__(
        self,
        tell: Callable[[Standing], None],
        store: Callable[[], object],
        plan: Plan,
        folder: StudyFolder,
    ) -> None:
        self._tell, self._store, self._plan, self._folder = tell, store, plan, folder
        self._told = self._stored = time.monotonic()

    def look(self, workers: int, *, now: bool = False) -> None:
        """Tell, if it is time to, or if wanted now."""
        clock = time.monotonic()
        if now or clock - self._told >= TICK:
            self._tell(standing_of(self._folder, self._plan, workers=workers))
            self._told = clock
        if clock - self._stored >= COLLECTED:
            self._store()
            self._stored = time.monotonic()


def _task(plan: Plan, name: str, folder: StudyFolder, around: Surroundings) -> Task:
    """Put together what a worker has to know about a job."""
    job = plan.jobs[name]
    given = {role: folder.record_of(need) or {} for role, need in job.needs.items()}
    repeat = repeat_command(around, job.digest[:12]) if job.kind == "train" else ""
    return Task(job=job, given=given, around=around, repeat=repeat)
