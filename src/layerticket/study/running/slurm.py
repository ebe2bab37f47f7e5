"""Run the jobs of a study as SLURM jobs through submitit; they continue when the runner ends.

A job that reaches its time limit or is preempted is queued again and resumes from its checkpoint.
"""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError, need
from layerticket.files import read_json, write_atomically
from layerticket.study.running.executors import Ended, Job, Workers, ended_with, start

CLUSTER = "slurm"  # "local" in tests: submitit's local processes
QUEUED = 100  # default number of jobs in the queue
MINUTES = 240  # default time limit of a job
TIMEOUTS = 100  # number of times that a job may be resumed after its time limit
POLL = 5.0  # seconds between two reads of the job files, which may be on a shared disk


class SlurmExecutor:
    """Submits one SLURM job per job of the study; with one GPU if the device is cuda."""

    def __init__(self, job: Job, root: Path, workers: Workers, threads: int) -> None:
        submitit = need("submitit", extra="slurm")
        self._job, self._root, self._threads = job, root, threads
        self._count = workers.workers or QUEUED
        options = dict(option.split("=", 1) for option in workers.slurm)
        options = {name.replace("-", "_"): value for name, value in options.items()}
        minutes = options.pop("time", str(MINUTES))
        if not minutes.isdecimal():
            raise LayerticketError(f"slurm option time={minutes} must be a number of minutes.")
        try:
            self._queue = submitit.AutoExecutor(
                root / "slurm", cluster=CLUSTER, slurm_max_num_timeout=TIMEOUTS
            )
        except RuntimeError as err:
            raise LayerticketError(
                "the executor slurm needs sbatch and srun: run the study on a login node of the "
                "cluster, or use --executor local."
            ) from err
        self._queue.update_parameters(
            timeout_min=int(minutes),
            cpus_per_task=threads,
            gpus_per_node=1 if workers.device == "cuda" else None,
            slurm_additional_parameters=options,
        )
        self._running: dict[str, Any] = {}
        self._checked = 0.0

    @property
    def free(self) -> int:
        """Number of jobs that can be queued now."""
        return self._count - len(self._running)

    def submit(self, job: str) -> None:
        """Queue a job, unless an earlier runner already did."""
        note = self._root / "jobs" / job / "slurm.json"
        if note.exists():
            kind = self._queue._executor.job_class
            earlier = kind(self._queue.folder, read_json(note)["id"])
            if not earlier.done(force_check=True):
                self._running[job] = earlier
                return
        self._queue.update_parameters(name=job)
        work = OnNode(self._job, self._root, job, self._threads, tuple(sys.path), os.getcwd())
        self._running[job] = self._queue.submit(work)
        write_atomically(note, f'{{"id": "{self._running[job].job_id}"}}\n')

    def wait(self, seconds: float) -> list[Ended]:
        """Return the jobs that ended, after so many seconds at most."""
        time.sleep(min(seconds, POLL))
        if time.monotonic() - self._checked < POLL:
            return []
        self._checked = time.monotonic()
        over = [job for job, queued in self._running.items() if queued.done()]
        return [self._ended(job, self._running.pop(job)) for job in over]

    def _ended(self, job: str, queued: Any) -> Ended:  # noqa: ANN401 - a job of submitit
        """Return how a job ended: from its result, or from its state in SLURM."""
        # submitit stores jobs and results as pickles: under SLURM, anyone who can write to the
        # study's folder can run code. No other executor reads pickles.
        if queued.paths.result_pickle.exists() and queued.exception() is None:
            ended: Ended = queued.result()
            return ended
        return Ended(job=job, fate="died", error=f"SLURM job {queued.job_id} is {queued.state}")

    def close(self) -> None:
        """Cancel the queued and running jobs."""
        for queued in self._running.values():
            queued.cancel(check=False)
        self._running = {}


@dataclass(frozen=True, slots=True)
class OnNode:
    """A job as submitit sends it to a node; it runs as a child of submitit's process."""

    job: Job
    root: Path
    name: str
    threads: int
    paths: tuple[str, ...]
    folder: str

    def __call__(self) -> Ended:
        """Run the job; at the time limit, an exception interrupts the wait for it."""
        os.chdir(self.folder)
        sys.path.extend(path for path in self.paths if path not in sys.path)
        # SLURM signals every process of a job. Submitit handles the signal; the job itself must
        # ignore it, or the time limit would look like a crash.
        handlers = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGUSR2)}
        context = multiprocessing.get_context("spawn")
        process = start(context, self.job, self.root, self.name, self.threads, None)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        try:
            process.join()
        finally:
            process.kill()
            process.join()
        return ended_with(self.name, process.exitcode)

    def checkpoint(self) -> Any:  # noqa: ANN401 - a submission of submitit
        """Queue the same job again: it resumes from its own checkpoint."""
        return need("submitit", extra="slurm").helpers.DelayedSubmission(self)
