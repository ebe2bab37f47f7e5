"""Jobs of a study as jobs of SLURM, through submitit; they outlive the runner.

A job that runs out of time or is preempted goes back into the queue and on from its checkpoint.
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

CLUSTER = "slurm"  # "local" in tests: submitit's processes of this machine
QUEUED = 100  # jobs in the queue at one time, where nobody said
MINUTES = 240  # time limit of a job, where nobody said; it may go on so often:
TIMEOUTS = 100
POLL = 5.0  # seconds between two looks at the files of the jobs, which may lie on a shared disk


class SlurmExecutor:
    """A job of SLURM for each job of the study; with one GPU if the device is cuda."""

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
        self._looked = 0.0

    @property
    def free(self) -> int:
        """Jobs that may still be put into the queue."""
        return self._count - len(self._running)

    def submit(self, job: str) -> None:
        """Put a job into the queue, unless it is there: an earlier runner may have done so."""
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
        """Return what ended, after so many seconds at most."""
        time.sleep(min(seconds, POLL))
        if time.monotonic() - self._looked < POLL:
            return []
        self._looked = time.monotonic()
        over = [job for job, queued in self._running.items() if queued.done()]
        return [self._ended(job, self._running.pop(job)) for job in over]

    def _ended(self, job: str, queued: Any) -> Ended:  # noqa: ANN401 - a job of submitit
        """Read what a job left, or how SLURM says that it ended."""
        # submitit carries jobs and results as pickles: under SLURM, whoever may write to the
        # study's folder may run code. No other executor reads a pickle from it.
        if queued.paths.result_pickle.exists() and queued.exception() is None:
            ended: Ended = queued.result()
            return ended
        return Ended(job=job, fate="died", error=f"SLURM's job {queued.job_id} is {queued.state}")

    def close(self) -> None:
        """Take back what is in the queue or running."""
        for queued in self._running.values():
            queued.cancel(check=False)
        self._running = {}


@dataclass(frozen=True, slots=True)
class OnNode:
    """A job as submitit carries it to a node: there it is a process below submitit's own."""

    job: Job
    root: Path
    name: str
    threads: int
    paths: tuple[str, ...]
    folder: str

    def __call__(self) -> Ended:
        """Do the job; the time limit interrupts the wait for it by an exception."""
        os.chdir(self.folder)
        sys.path.extend(path for path in self.paths if path not in sys.path)
        # SLURM signals every process of a job. Submitit's knows what to do; the job's must not die
        # of it, or the end of its time would look like its own end.
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

    def checkpoint(self) -> Any:  # noqa: ANN401 - what submitit is to put into the queue again
        """Ask for the same job again: it resumes from its own checkpoint."""
        return need("submitit", extra="slurm").helpers.DelayedSubmission(self)
