"""Run a study: plan it, hand its jobs out in order until none is left, collect what came of it."""

import functools
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from layerticket.errors import LayerticketError
from layerticket.evaluation.robustness import prepare
from layerticket.models.load import check_model
from layerticket.study.folder import Context, StudyFolder
from layerticket.study.job import count_blocks, dataset_of, networks_of, run_job, scored_on
from layerticket.study.plan import Plan, unfold
from layerticket.study.results import collect
from layerticket.study.running.executors import Ended, Executor, Workers, executor_of
from layerticket.study.spec import StudyFile
from layerticket.study.status import StudyStatus, status_of
from layerticket.study.toml import study_text
from layerticket.training.device import Metering

log = logging.getLogger(__name__)
TICK = 1.0  # seconds between two looks at a job that another process does, and two reports
COLLECTED = 20.0  # seconds between two versions of study.json while the study runs
SHARE_OF_TIME = 0.02  # that either may take: trainings are timed meanwhile

State = Literal["done", "failed", "running", "open"]


def run_study(
    study: StudyFile,
    out: Path,
    *,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    data_dir: Path | None = None,
    shift_dir: Path | None = None,
    only: tuple[str, ...] = (),
    command: str = "",
    tell: Callable[[StudyStatus], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a study, resume it, or run what was added to it.

    Call it under ``if __name__ == "__main__":`` in a script, since workers are started afresh and
    import the script.

    Args:
        study: What is to be done.
        out: Folder of the study.
        workers: Who does it.
        data_dir: Folder of the images.
        shift_dir: Folder of shifted images; `data_dir` is searched too.
        only: Ids of the rows to work on, for example one that is to be repeated; by default all.
        command: Command line to be noted.
        tell: Called with the standing, at most once a second.

    Returns:
        What is in ``study.json``. If another version of the study was begun in the folder
        meanwhile, that one's is left there, and this is what this version came to.

    Raises:
        LayerticketError: If data, evaluations, workers or an id do not fit; before any training.
            What fails later stands in the rows, and does not stop others.
    """
    tracked = study.tracking.track_dir
    context = Context(
        data_dir=None if data_dir is None else data_dir.expanduser().resolve(),
        shift_dirs=tuple(d.expanduser().resolve() for d in (shift_dir, data_dir) if d is not None),
        tracking_dir=None if tracked is None else tracked.expanduser().resolve(),
        device=workers.device_seen,
        command=command,
    )
    folder = StudyFolder(Path(out).resolve())
    if study.has_objects and workers.executor != "inline":
        raise LayerticketError(
            "Python functions and data that are given as such are known to this process alone. Use "
            "the executor inline, or name them: package.module:function."
        )
    plan, context = _prepared(study, folder, context, workers)
    store = functools.partial(collect, study, folder, plan, context)
    wanted = plan.only(only) if only else plan
    queue = queue_of(wanted, folder, workers.retries)
    store()
    do = functools.partial(run_job, study=study) if study.has_objects else run_job
    try:
        if queue.left:
            _check_meter(study.energy, workers)
            teller = _Teller(tell, store, plan, folder)
            with executor_of(workers, do, folder.root, context.threads) as executor:
                work(queue, executor, folder, teller.look)
    finally:
        record = store()
    return record


def _prepared(
    study: StudyFile, folder: StudyFolder, context: Context, workers: Workers
) -> tuple[Plan, Context]:
    """Load what all jobs share, check what can be checked, and write the plan down."""
    share = workers.default_threads  # refuses a GPU that is not here
    for model in study.models:
        if isinstance(model, str):
            check_model(model)
    dataset = dataset_of(study, context.data_dir)
    networks_of(study, dataset)  # refuses functions that cannot be called
    if study.evaluate:
        folders = (*study.conditions.shift_dir, *context.shift_dirs)
        prepare(study.evaluate, dataset, replace(study.conditions, shift_dir=folders))
    plan = unfold(
        study,
        scored_on(study, dataset),
        count_blocks=functools.partial(count_blocks, study, dataset),
    )
    with folder.held():
        _tell_what_changed(folder, plan)
        context = folder.settle(
            context, threads=workers.threads, share=share, workers=workers.count
        )
        folder.write_plan(plan, study_text(study))
    return plan, context


def _tell_what_changed(folder: StudyFolder, plan: Plan) -> None:
    """Say which functions are not what they were when the study was begun."""
    before = folder.read_plan().texts if folder.plan.exists() else {}
    for name, text in plan.texts.items():
        if before.get(name, text) != text:
            log.warning("The module of %r was changed: what used it is done again.", name)


def _check_meter(metering: Metering, workers: Workers) -> None:
    """Refuse to meter several jobs at a time with counters of the whole processor."""
    if metering.wanted and metering.cpu_tdp is None and workers.count != 1:
        raise LayerticketError(
            "energy is to be metered by the counters of the processor, which cannot tell one job "
            "from the others that run at the same time. Use --workers 1, or state the power of the "
            "processor at full load: --set energy.cpu_tdp=W, which is shared out by CPU time."
        )


def queue_of(plan: Plan, folder: StudyFolder, retries: int) -> "JobQueue":
    """Line up the jobs of a plan; those that failed earlier are tried again."""

    def state(name: str) -> State:
        if folder.is_done(name):
            return "done"
        if folder.is_taken(name):
            return "running"
        return "open" if folder.failure(name) is None else "failed"

    for name in plan.jobs:
        if not folder.is_done(name) and not folder.is_taken(name):
            folder.forget_failure(name)
    needs = {name: tuple(job.needs.values()) for name, job in plan.jobs.items()}
    return JobQueue(needs, state, folder.fail, retries)


def work(
    queue: "JobQueue",
    executor: Executor,
    folder: StudyFolder,
    look: Callable[..., None],
) -> None:
    """Hand out jobs until none is left."""
    while queue.left:
        begun: list[str] = []
        while executor.free > len(begun) and (name := queue.begin()) is not None:
            begun.append(name)
        for name, beside in queue.beside():  # a job reads it when it ends
            folder.note_beside(name, beside)
        for name in begun:
            executor.submit(name)
        look(len(queue.running))
        for end in executor.wait(TICK):
            queue.ended(end)
    look(1, now=True)


class JobQueue:
    """Jobs that are left, ready, running and failed.

    A job is looked at when it is about to begin, when it ended, and once a second while another
    process does it; never because another job changed.
    """

    def __init__(
        self,
        needs: Mapping[str, Sequence[str]],
        state: Callable[[str], State],
        fail: Callable[[str, str], None],
        retries: int,
    ) -> None:
        """Line jobs up.

        Args:
            needs: For each job those that come before it; earlier jobs stand first.
            state: Looks at a job.
            fail: Writes down why a job was given up.
            retries: Times a job is repeated if its process dies.
        """
        self._state, self._fail, self._retries = state, fail, retries
        self._names = list(needs)
        self._place = {name: place for place, name in enumerate(self._names)}
        self._missing = dict.fromkeys(needs, 0)
        self._after: dict[str, list[str]] = {name: [] for name in needs}
        self._ready: list[int] = []
        self._later: list[tuple[float, int]] = []  # when to look at a job again
        self._elsewhere: set[str] = set()
        self._waits: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self.running: dict[str, int] = {}
        """Jobs that were begun here, and the most others that ran at one time with each."""
        self.failed: set[str] = set()
        self.left = {name for name in needs if state(name) != "done"}
        """Jobs that have neither ended well nor failed."""
        for name in self._names:
            if name in self.left:
                for need in self.left.intersection(needs[name]):
                    self._missing[name] += 1
                    self._after[need].append(name)
                if not self._missing[name]:
                    self._ready.append(self._place[name])

    def begin(self) -> str | None:
        """Take the first job that can begin now; None if there is none at the moment."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._later)[1])
        while self._ready:
            name = self._names[heapq.heappop(self._ready)]
            state = self._state(name)
            self._elsewhere.discard(name)
            if state == "open":
                self.running[name] = -1
                return name
            self._over(name, state)
        return None

    def beside(self) -> list[tuple[str, int]]:
        """Jobs beside which more run now than ever before, and how many."""
        beside = len(self.running) + len(self._elsewhere) - 1
        grown = [name for name, most in self.running.items() if beside > most]
        self.running.update(dict.fromkeys(grown, beside))
        return [(name, beside) for name in grown]

    def ended(self, end: Ended) -> None:
        """Take note of how a try at a job ended."""
        name, state = end.job, self._state(end.job)
        del self.running[name]
        # A process may end with 0 before its job is done: the job called os._exit(0).
        died = state != "done" and end.fate in ("died", "done")
        self._deaths[name] += died
        if state == "done":
            self._over(name, "done")
        elif state == "running":
            self._over(name, "running")
        elif end.fate == "busy":  # by what it shares with another job: each try takes a process
            self._waits[name] += 1
            self._look_again(name, TICK * 2 ** min(self._waits[name], 5))
        elif died and self._deaths[name] <= self._retries:
            heapq.heappush(self._ready, self._place[name])
        else:
            if died:
                error = end.error or "its process ended before it was done"
                self._fail(name, f"{error}, {self._deaths[name]} times of {self._deaths[name]}")
            elif state != "failed":
                self._fail(name, "it failed without saying why; see its log")
            self._over(name, "failed")

    def _look_again(self, name: str, seconds: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, self._place[name]))

    def _over(self, name: str, state: State) -> None:
        """Put a job where it belongs that is not to begin now."""
        if state == "running":
            self._elsewhere.add(name)
            self._look_again(name, TICK)
            return
        self.left.discard(name)
        if state == "done":
            for after in self._after[name]:
                self._missing[after] -= 1
                if not self._missing[after]:
                    heapq.heappush(self._ready, self._place[after])
            return
        given_up = [name]
        while given_up:  # and all that comes after it
            job = given_up.pop()
            if job not in self.failed:
                self.failed.add(job)
                self.left.discard(job)
                given_up += self._after[job]


class _Teller:
    """Tells how the study stands every second or so, and renews study.json now and then."""

    def __init__(
        self,
        tell: Callable[[StudyStatus], None],
        store: Callable[[], object],
        plan: Plan,
        folder: StudyFolder,
    ) -> None:
        self._tell, self._store, self._plan, self._folder = tell, store, plan, folder
        self._tell_at = time.monotonic() + TICK
        self._store_at = time.monotonic() + COLLECTED

    def look(self, running: int, *, now: bool = False) -> None:
        """Tell, if it is time to, or if wanted now."""
        clock = time.monotonic()
        if now or clock >= self._tell_at:
            self._tell(status_of(self._folder, self._plan, workers=running))
            self._tell_at = _next(clock, TICK)
        clock = time.monotonic()
        if clock >= self._store_at:
            self._store()
            self._store_at = _next(clock, COLLECTED)


def _next(began: float, seconds: float) -> float:
    """When to do something again that took since it began; later, if it takes long."""
    now = time.monotonic()
    return now + max(seconds, (now - began) / SHARE_OF_TIME)
