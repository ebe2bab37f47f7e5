"""Run a study: plan it, forecast it, run its jobs in order, and collect the results."""

import functools
import heapq
import logging
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from layerticket.baselines.controls import shallower_names
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.robustness import Evaluation, prepare
from layerticket.files import canonical_json
from layerticket.models.load import stated_shape
from layerticket.models.names import check_model_name
from layerticket.study.folder import Context, StudyFolder
from layerticket.study.job import count_blocks, dataset_of, networks_of, run_job, scored_on
from layerticket.study.measured_budget import TimingSetup, measure_steps
from layerticket.study.methods import ShallowerMethod
from layerticket.study.plan import Plan, unfold
from layerticket.study.results import collect
from layerticket.study.running.executors import Ended, Executor, Workers, executor_of
from layerticket.study.spec import StudyFile, name_of
from layerticket.study.status import StudyStatus, status_of
from layerticket.study.toml import study_text
from layerticket.training.device import Metering, Where

log = logging.getLogger(__name__)
TICK = 1.0  # seconds between two checks of a job of another process, and two reports
COLLECTED = 20.0  # seconds between two versions of study.json while the study runs
PASSES = 4  # over the jobs: what was replaced in one pass makes work for the next
SHARE_OF_TIME = 0.02  # of the time that each may use, since trainings are being timed

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
    report: Callable[[StudyStatus], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a study, resume it, or run what was added to it.

    Call it under ``if __name__ == "__main__":`` in a script, since workers are started afresh and
    import the script.

    Args:
        study: The study.
        out: Folder of the study.
        workers: Where the jobs run, and how many in parallel.
        data_dir: Folder of the images.
        shift_dir: Folder of shifted images; `data_dir` is searched too.
        only: Ids of the rows to run, for example one to repeat; by default all.
        command: Command line, written to the records.
        report: Called with the status, at most once a second.

    Returns:
        The content of ``study.json``. If another version of the study was started in the folder
        in the meantime, the file keeps that version's results, and this version's are returned.

    Raises:
        LayerticketError: If data, evaluations, workers or an id are invalid; before any training.
            A row that fails later records its error and does not stop other rows.
    """
    tracked = study.tracking.track_dir
    context = Context(
        data_dir=None if data_dir is None else data_dir.expanduser().resolve(),
        shift_dirs=tuple(d.expanduser().resolve() for d in (shift_dir, data_dir) if d is not None),
        tracking_dir=None if tracked is None else tracked.expanduser().resolve(),
        device=workers.device_seen,
        modules=tuple(
            sorted({one.partition(":")[0] for one in study.own_criteria if isinstance(one, str)})
        ),
        command=command,
    )
    folder = StudyFolder(Path(out).resolve())
    if study.has_objects and workers.executor != "inline":
        raise LayerticketError(
            "Python functions and data objects exist only in this process. Use the executor "
            "inline, or give them by name: package.module:function; register a criterion in a "
            "module that is imported."
        )
    plan, context = _prepared(study, folder, context, workers)
    store = functools.partial(collect, study, folder, plan, context)
    wanted = plan.only(only) if only else plan
    _clear_failures(wanted, folder)
    queue = queue_of(wanted, folder, workers.retries)
    store()
    do = functools.partial(run_job, study=study) if study.has_objects else run_job
    try:
        if queue.left:
            _check_meter(study.energy, workers)
            reporter = _Reporter(report, store, plan, folder)
            with executor_of(workers, do, folder.root, context.threads) as executor:
                for left in reversed(range(PASSES)):
                    work(queue, executor, folder, reporter.update)
                    failed, undone = queue.failed, queue.undone
                    queue = queue_of(wanted, folder, workers.retries)
                    if queue.left <= failed:
                        break
                    for name in undone:
                        folder.clear_failure(name)
                    if left:
                        log.warning(
                            "What %d jobs had used was replaced in the meantime: they are done "
                            "again.",
                            len(queue.left - failed),
                        )
                        continue
                    for name in queue.left - failed:
                        folder.fail(
                            name,
                            f"what it uses was replaced {PASSES} times while the study ran. Run "
                            "the study again.",
                        )
    finally:
        record = store()
    return record


def forecast_study(
    study: StudyFile,
    *,
    workers: Workers = Workers(),  # noqa: B008 - frozen
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Forecast how long a study trains at most, from a few steps of its dense networks.

    Assumed: all trainings differ and take as long as that of the dense network; jobs on one GPU
    share it; jobs on a CPU do not slow each other. Searches, evaluations and start-up are not
    included.

    Args:
        study: The study; a study with an own training (`fit`) cannot be forecast.
        workers: Where the jobs would run.
        data_dir: Folder of the images.

    Returns:
        JSON values: `trainings`, `epochs`, `step_seconds` by network, `parallel` jobs that do not
        share a GPU, and `train_seconds`.

    Raises:
        LayerticketError: If the study, the data or the device is invalid.
    """
    if study.fit:
        raise LayerticketError(
            "the study trains with its own function (fit), whose time is not known. Run one row "
            "with --only."
        )
    dataset, recipe = dataset_of(study, data_dir), study.recipe
    plan = _plan(study, dataset)
    trainings = Counter(job.model for job in plan.jobs.values() if job.kind == "train")
    networks, where = networks_of(study, dataset), Where(device=workers.device, progress=False)
    before, steps = torch.get_num_threads(), {}
    torch.set_num_threads(workers.threads or workers.default_threads)
    try:
        for model in map(name_of, study.models):
            dense = {"dense": networks.build(model, study.seeds[0])}
            timed = measure_steps(dense, TimingSetup(dataset=dataset, recipe=recipe, where=where))
            steps[model] = timed.steps_per_epoch, statistics.median(timed.seconds["dense"])
    finally:
        torch.set_num_threads(before)
    gpus = {place for place in workers.places() if place is not None}
    parallel = 1 if workers.executor == "inline" else len(gpus) or workers.count or 1
    seconds = sum(trainings[model] * recipe.epochs * n * step for model, (n, step) in steps.items())
    return {
        "trainings": trainings.total(),
        "epochs": trainings.total() * recipe.epochs,
        "step_seconds": {model: step for model, (_, step) in steps.items()},
        "parallel": parallel,
        "train_seconds": seconds / parallel,
    }


def _plan(study: StudyFile, dataset: Dataset) -> Plan:
    count = functools.partial(count_blocks, study, dataset)
    return unfold(study, scored_on(study, dataset), count_blocks=count)


def _prepared(
    study: StudyFile, folder: StudyFolder, context: Context, workers: Workers
) -> tuple[Plan, Context]:
    """Load the data, check the settings, and write the plan and the context."""
    share = workers.default_threads  # raises if a GPU is missing
    for model in (*study.models, *study.shallower):
        if isinstance(model, str):
            check_model_name(model)
            stated_shape(model)  # raises for names that timm and torchvision do not have
    if any(isinstance(method, ShallowerMethod) and not method.model for method in study.methods):
        _check_shallower(study)
    dataset = dataset_of(study, context.data_dir)
    networks_of(study, dataset)  # raises for functions that cannot be called
    evaluations: tuple[Evaluation, ...] = ()
    if study.evaluate:
        folders = (*study.conditions.shift_dir, *context.shift_dirs)
        conditions = replace(study.conditions, shift_dir=folders)
        evaluations = prepare(study.evaluate, dataset, conditions)
    plan = _plan(study, dataset)
    with folder.held():
        _warn_of_changes(folder, plan)
        _check_evaluations(folder, plan, evaluations)
        context = folder.save_context(
            context, threads=workers.threads, share=share, workers=workers.count
        )
        folder.write_plan(plan, study_text(study))
    return plan, context


def _check_shallower(study: StudyFile) -> None:
    """Raise if no network of the study has a standard shallower one; where one lacks it, warn."""
    missing: list[LayerticketError] = []
    for model in study.models:
        try:
            shallower_names(name_of(model))
        except LayerticketError as err:
            missing.append(err)
    if len(missing) == len(study.models):
        raise missing[0]
    for reason in missing:
        log.warning("The rows of a shallower network will fail: %s", reason)


def _warn_of_changes(folder: StudyFolder, plan: Plan) -> None:
    """Warn of functions that changed since the study was started."""
    before = folder.read_plan().texts if folder.plan.exists() else {}
    for name, text in plan.texts.items():
        if before.get(name, text) != text:
            log.warning("The module of %r was changed: everything that uses it is run again.", name)


def _check_evaluations(folder: StudyFolder, plan: Plan, evaluations: Sequence[Evaluation]) -> None:
    """Raise if finished evaluations used other images, or other settings, than those of now."""
    for job in plan.jobs.values():
        record = folder.record(job.name) if job.kind == "evaluate" else None
        if record is None:
            continue
        for one in evaluations:
            known = record["results"].get(one.name, {}).get("settings") or one.settings
            if "clean_images" in one.settings:  # an earlier version did not record it
                known = {"clean_images": one.settings["clean_images"], **known}
            odd = [
                key
                for key in sorted((known.keys() | one.settings.keys()) - {"run_precision"})
                if canonical_json([known.get(key)]) != canonical_json([one.settings.get(key)])
            ]
            if odd:
                raise LayerticketError(
                    f"{one.name!r} was measured in {folder.root} with {odd[0]} "
                    f"{known.get(odd[0])!r}, and would be measured with "
                    f"{one.settings.get(odd[0])!r} now; the two are not comparable. Give the same "
                    "files (--shift-dir, --data-dir) and the same version of layerticket; or "
                    "delete jobs/evaluate-* in that folder, and every network is measured again."
                )


def _check_meter(metering: Metering, workers: Workers) -> None:
    """Raise if parallel jobs would be metered with counters of the whole processor or GPU."""
    if metering.wanted and metering.cpu_tdp is None and workers.count != 1:
        raise LayerticketError(
            "the energy counters of the processor cannot separate jobs that run at the same time. "
            "Use --workers 1, or give the power of the processor at full load: "
            "--set energy.cpu_tdp=W; it is divided by CPU time."
        )
    if metering.wanted and workers.share_gpus:
        raise LayerticketError(
            f"jobs_per_gpu is {workers.jobs_per_gpu}, but the energy counter of a GPU cannot "
            "separate jobs that share it: each would be charged for the whole GPU. Use "
            "--jobs-per-gpu 1, or leave out the energy settings."
        )


def _clear_failures(plan: Plan, folder: StudyFolder) -> None:
    """Delete the failures of an earlier run, so that these jobs are run again."""
    for name in plan.jobs:
        if not folder.is_done(name) and not folder.is_taken(name):
            folder.clear_failure(name)


def queue_of(plan: Plan, folder: StudyFolder, retries: int) -> "JobQueue":
    """Return the queue of the jobs of a plan."""

    def state(name: str) -> State:
        if folder.is_done(name):
            return "done"
        if folder.is_taken(name):
            return "running"
        return "open" if folder.failure(name) is None else "failed"

    needs = {name: tuple(job.needs.values()) for name, job in plan.jobs.items()}
    return JobQueue(needs, state, folder.fail, retries)


def work(
    queue: "JobQueue",
    executor: Executor,
    folder: StudyFolder,
    update: Callable[..., None],
) -> None:
    """Submit jobs to the executor until none is left."""
    while queue.left:
        begun: list[str] = []
        while executor.free > len(begun) and (name := queue.begin()) is not None:
            begun.append(name)
        for name, others in queue.parallel():  # a job reads it when it ends
            folder.record_parallel(name, others)
        for name in begun:
            executor.submit(name)
        update(len(queue.running))
        for end in executor.wait(TICK):
            queue.ended(end)
    update(1, now=True)


class JobQueue:
    """Jobs that are left, ready, running and failed.

    The state of a job is read when it is about to start, when it ended, and once a second while
    another process runs it; never because another job changed.
    """

    def __init__(
        self,
        needs: Mapping[str, Sequence[str]],
        state: Callable[[str], State],
        fail: Callable[[str, str], None],
        retries: int,
    ) -> None:
        """Queue the jobs whose needs are done.

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
        self._later: list[tuple[float, int]] = []  # time of the next check, and job
        self._elsewhere: set[str] = set()
        self._waits: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self.running: dict[str, int] = {}
        """Jobs started here, and the largest number of other jobs that ran at the same time."""
        self.failed: set[str] = set()
        self.undone: set[str] = set()
        """Jobs that ended after a job they need had become undone, and those after them."""
        self._needs = needs
        self.left = {name for name in needs if state(name) != "done"}
        """Jobs that are not done and have not failed."""
        for name in self._names:
            if name in self.left:
                for need in self.left.intersection(needs[name]):
                    self._missing[name] += 1
                    self._after[need].append(name)
                if not self._missing[name]:
                    self._ready.append(self._place[name])

    def begin(self) -> str | None:
        """Take the first job that can start now; None if there is none at the moment."""
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
            self._leave(name, state)
        return None

    def parallel(self) -> list[tuple[str, int]]:
        """Return the jobs with a new maximum of other parallel jobs, and that number."""
        others = len(self.running) + len(self._elsewhere) - 1
        grown = [name for name, most in self.running.items() if others > most]
        self.running.update(dict.fromkeys(grown, others))
        return [(name, others) for name in grown]

    def ended(self, end: Ended) -> None:
        """Update the queue after an attempt at a job ended."""
        name, state = end.job, self._state(end.job)
        del self.running[name]
        # What it had used was replaced, so its own record does not count either.
        if state in ("open", "failed") and any(
            self._state(need) != "done" for need in self._needs[name]
        ):
            self._drop(name, self.undone)
            return
        # A process may end with 0 before its job is done: the job called os._exit(0).
        died = state != "done" and end.fate in ("died", "done")
        self._deaths[name] += died
        if state == "done":
            self._leave(name, "done")
        elif state == "running":
            self._leave(name, "running")
        elif end.fate == "busy":  # another job holds its training: wait
            self._waits[name] += 1
            self._check_later(name, TICK * 2 ** min(self._waits[name], 5))
        elif died and self._deaths[name] <= self._retries:
            heapq.heappush(self._ready, self._place[name])
        else:
            if died:
                error = end.error or "its process ended before it was done"
                count = self._deaths[name]
                self._fail(name, f"{error}, in {count} of {count} attempts")
            elif state != "failed":
                self._fail(name, "it failed without a reason; see its log")
            self._leave(name, "failed")

    def _check_later(self, name: str, seconds: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, self._place[name]))

    def _leave(self, name: str, state: State) -> None:
        """Take a job out of the queue: it is done, has failed, or runs in another process."""
        if state == "running":
            self._elsewhere.add(name)
            self._check_later(name, TICK)
            return
        self.left.discard(name)
        if state == "done":
            for after in self._after[name]:
                self._missing[after] -= 1
                if not self._missing[after]:
                    heapq.heappush(self._ready, self._place[after])
            return
        self._drop(name, self.failed)

    def _drop(self, name: str, into: set[str]) -> None:
        """Take a job, and all that comes after it, out of the queue."""
        given_up = [name]
        while given_up:
            job = given_up.pop()
            if job not in into:
                into.add(job)
                self.left.discard(job)
                given_up += self._after[job]


class _Reporter:
    """Reports the status of the study every second, and rewrites study.json every 20 seconds."""

    def __init__(
        self,
        report: Callable[[StudyStatus], None],
        store: Callable[[], object],
        plan: Plan,
        folder: StudyFolder,
    ) -> None:
        self._report, self._store, self._plan, self._folder = report, store, plan, folder
        self._report_at = time.monotonic() + TICK
        self._store_at = time.monotonic() + COLLECTED

    def update(self, running: int, *, now: bool = False) -> None:
        """Report and store if it is time to; with `now`, report in any case."""
        clock = time.monotonic()
        if now or clock >= self._report_at:
            self._report(status_of(self._folder, self._plan, workers=running))
            self._report_at = _next(clock, TICK)
        clock = time.monotonic()
        if clock >= self._store_at:
            self._store()
            self._store_at = _next(clock, COLLECTED)


def _next(began: float, seconds: float) -> float:
    """Return when to repeat an action that began at a time and just ended; later if it was slow."""
    now = time.monotonic()
    return now + max(seconds, (now - began) / SHARE_OF_TIME)
