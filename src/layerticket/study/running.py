"""Runs a study: plans it, hands its jobs to an executor, and keeps the store up to date.

Enters: a `StudyFile` and a folder. Leaves: ``study.json`` and ``runs.csv`` in it. What is finished
there is not done again; what was cut off goes on.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError, unknown_name
from layerticket.files import write_atomically
from layerticket.study.evaluating.evaluations import prepare
from layerticket.study.executors.cluster import RayExecutor
from layerticket.study.executors.executor import Executor
from layerticket.study.executors.here import HereExecutor
from layerticket.study.executors.local import LocalExecutor
from layerticket.study.files.reading import study_text
from layerticket.study.files.study import StudyFile
from layerticket.study.jobs.doing import dataset_of
from layerticket.study.jobs.folder import StudyFolder
from layerticket.study.jobs.task import Outcome, Surroundings, Task
from layerticket.study.plan.unfold import Plan, unfold
from layerticket.study.store.collecting import collect, repeat_command
from layerticket.study.store.standing import Standing, standing_of

__all__ = ["EXECUTORS", "Crew", "run_study"]

EXECUTORS = ("local", "ray", "here")
TICK = 1.0  # seconds between two looks at what others do
COLLECTED = 20.0  # seconds between two versions of study.json while the study runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who does the work; the results are the same."""

    executor: str = "local"
    """local: processes of this machine; ray: a Ray cluster; here: this process."""
    workers: int | None = None
    """Jobs at a time; None: as many as there are GPUs or cores."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; each worker has one GPU."""
    address: str | None = None
    """Address of a Ray cluster; None: one is started here."""
    retries: int = 2
    """Times a job is tried again whose worker died."""

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise unknown_name("executor", self.executor, EXECUTORS)
        if (self.workers is not None and self.workers < 1) or self.retries < 0:
            raise LayerticketError(
                f"workers {self.workers}, retries {self.retries}: they must be at least 1 and 0."
            )

    @property
    def seen_device(self) -> str:
        """The device as workers see it: of the GPUs, each sees only its own."""
        numbered = self.device.startswith("cuda:") and self.executor != "here"
        return "cuda" if numbered else self.device

    @contextmanager
    def at_work(self) -> Iterator[Executor]:
        """Lend an executor."""
        made: Executor
        if self.executor == "ray":
            made = RayExecutor(self.workers, self.device, self.address)
        elif self.executor == "local":
            made = LocalExecutor(self.workers, self.device)
        else:
            made = HereExecutor()
        try:
            yield made
        finally:
            made.close()


@dataclass(slots=True)
class _Board:
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
                self.folder.record_of(need) is not None for need in needs
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
            self.again[name] = time.monotonic() + TICK
            self.left[name] = None
        elif outcome.ended == "failed":
            self.failed.add(name)


def run_study(
    study: StudyFile,
    out: Path,
    *,
    crew: Crew = Crew(),
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
        What is in ``study.json``.

    Raises:
        LayerticketError: If data, evaluations or an id do not fit; before anything is trained.
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
        command=command,
    )
    plan = _prepared(study, around)
    folder = StudyFolder(around.root)
    store = functools.partial(collect, study, folder, plan, around)
    store()
    wanted = plan.only(only) if only else plan
    board = _Board(wanted, folder, crew.retries)
    board.left = {name: None for name in wanted.jobs if folder.record_of(name) is None}
    try:
        if board.left:
            with crew.at_work() as executor:
                _work(board, executor, around, _Teller(tell, store, plan, folder))
    finally:
        record = store()
    return record


def _prepared(study: StudyFile, around: Surroundings) -> Plan:
    """Load what all jobs share, check what can be checked, and write the plan down."""
    dataset = dataset_of(around)
    if study.evaluate:
        folders = (*study.conditions.folders, *around.shift_dirs)
        prepare(study.evaluate, dataset, replace(study.conditions, folders=folders))
    plan = unfold(study, dataset.fingerprint)
    folder = StudyFolder(around.root)
    write_atomically(folder.study, study_text(study))
    folder.write_plan(plan)
    for name in plan.jobs:
        folder.forget_failure(name)
    return plan


def _work(board: _Board, executor: Executor, around: Surroundings, teller: "_Teller") -> None:
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
