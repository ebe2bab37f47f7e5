"""Executors that run the jobs of a study on this machine, and their settings.

Every job is a function of the study's folder and the job's name, run in its own process.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, Strict

from layerticket.errors import LayerticketError
from layerticket.files import FolderInUse, open_to_append
from layerticket.settings import DeviceName, Few, Text, settings

Job = Callable[[Path, str], None]
"""Runs the job of a name for the study in a folder; importable by `module:name`."""

Fate = Literal["done", "failed", "busy", "died"]
"""busy: another process runs it; died: its process ended without a result."""

BUSY = 75  # exit code of a job that another process runs: EX_TEMPFAIL of sysexits.h
FATES: Mapping[int | None, Fate] = {0: "done", 1: "failed", BUSY: "busy"}
GRACE = 5.0  # seconds to wait for a killed process to end
PRELOADED = (
    "layerticket.study.job",
    "layerticket.criteria.grasp",
    "torch._dynamo",  # torch imports it, and 800 other modules, in the first step of an optimizer
    "filelock",
)
"""Modules that all jobs need: the fork server imports them once, by preload.py."""


@settings
class Workers:
    """Where the jobs of a study run, and how many in parallel; the results are the same."""

    executor: Literal["local", "ray", "slurm", "inline"] = "local"
    """local: processes on this machine; ray, slurm: a cluster; inline: this process."""
    workers: Annotated[int, Strict(), Field(ge=1, le=10_000)] | None = None
    """Number of parallel jobs; by default as many as there are GPUs or cores, 100 under SLURM."""
    device: DeviceName = "auto"
    """auto, cpu, cuda or cuda:N; each worker sees one GPU."""
    jobs_per_gpu: Few = 1
    """Jobs that share a GPU."""
    threads: Few | None = None
    """Threads of each worker; by default as the study was started with, otherwise 1 on a CPU."""
    retries: Annotated[int, Strict(), Field(ge=0, le=1000)] = 2
    """Times a job is repeated if its process dies."""
    ray_address: Text | None = None
    """Address of a Ray cluster, or auto; by default one is started on this machine."""
    slurm: tuple[Text, ...] = ()
    """Options of sbatch: partition=gpu, account=ours, time=240 (minutes)."""

    def __post_init__(self) -> None:
        """Raise for settings that are invalid on every machine."""
        if ":" in self.device and self.executor in ("ray", "slurm"):
            raise LayerticketError(
                f"device {self.device!r} names a GPU of this machine, but {self.executor} chooses "
                "a GPU of the cluster for each job. Use cuda, or the executor local."
            )
        if self.ray_address is not None and self.executor != "ray":
            raise LayerticketError(
                f"ray_address is for the executor ray, but the executor is {self.executor}. Use "
                "executor ray, or leave ray_address out."
            )
        if self.slurm and self.executor != "slurm":
            raise LayerticketError(
                f"slurm options are for the executor slurm, but the executor is {self.executor}. "
                "Use executor slurm, or leave the options out."
            )
        for option in self.slurm:
            if "=" not in option:
                raise LayerticketError(
                    f"slurm option {option!r} has no value. Write it as partition=gpu."
                )

    @property
    def device_seen(self) -> str:
        """The device as a job sees it: a separate process sees only one GPU."""
        return self.device if self.executor == "inline" else self.device.partition(":")[0]

    def gpus(self) -> list[str]:
        """Return the GPUs of this machine that jobs may use, as in CUDA_VISIBLE_DEVICES.

        Raises:
            LayerticketError: If the GPU asked for does not exist.
        """
        if self.device == "cpu" or self.executor == "slurm" or self.ray_address is not None:
            return []
        import torch

        count = torch.cuda.device_count()  # asks the driver; creates no context on a GPU
        index = self.device.partition(":")[2]
        if self.device.startswith("cuda") and int(index or 0) >= count:
            raise LayerticketError(
                f"device {self.device!r} is not on this machine; GPUs found: {count}. "
                "Use device auto."
            )
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = named.split(",")[:count] if named else [str(number) for number in range(count)]
        return [seen[int(index)]] if index else seen

    def places(self) -> list[str | None]:
        """Return the GPU of each job that can run here in parallel; None means the CPU.

        Raises:
            LayerticketError: If there are more workers than places on the GPUs.
        """
        gpus = self.gpus()
        if not gpus:
            return [None] * (self.workers or cores())
        room = [gpu for _ in range(self.jobs_per_gpu) for gpu in gpus]
        if self.workers is not None and self.workers > len(room):
            raise LayerticketError(
                f"{self.workers} workers do not fit on {len(gpus)} GPUs with {self.jobs_per_gpu} "
                f"jobs each. Use --jobs-per-gpu {-(-self.workers // len(gpus))}."
            )
        return [*room[: self.workers]]

    @property
    def share_gpus(self) -> bool:
        """Whether two jobs may run on one GPU at the same time."""
        if self.executor in ("inline", "slurm"):
            return False
        if self.ray_address is not None:
            return self.jobs_per_gpu > 1 and self.device != "cpu"
        gpus = [place for place in self.places() if place is not None]
        return len(gpus) > len({*gpus})

    @property
    def count(self) -> int | None:
        """Number of parallel jobs; None: as many as the cluster can run."""
        if self.executor == "inline":
            return 1
        if self.executor == "slurm" or self.ray_address is not None:
            return self.workers
        return len(self.places())

    @property
    def default_threads(self) -> int:
        """Default threads of each worker: 1 on a CPU; with GPUs, its share of the cores.

        The last bits of a sum on a CPU depend on this number, and every machine has one thread.
        """
        if not self.gpus():
            return 1
        return max(1, cores() // (self.count or 1))


def cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How an attempt at a job ended."""

    job: str
    fate: Fate
    error: str = ""
    """Why the process died, if it did; a failure is written to the folder of the job."""


class Executor(Protocol):
    """Runs jobs in parallel; results do not depend on the executor."""

    @property
    def free(self) -> int:
        """Number of jobs that can be submitted now."""

    def submit(self, job: str) -> None:
        """Start a job."""

    def wait(self, seconds: float) -> list[Ended]:
        """Return the jobs that ended, after the first one or after so many seconds."""

    def close(self) -> None:
        """Stop the running jobs; they can be resumed."""


@contextlib.contextmanager
def executor_of(workers: Workers, job: Job, root: Path, threads: int) -> Iterator[Executor]:
    """Open the executor that the settings ask for; it is closed at the end."""
    made: Executor
    if workers.executor == "ray":
        from layerticket.study.running.ray import RayExecutor

        made = RayExecutor(job, root, workers, threads)
    elif workers.executor == "slurm":
        from layerticket.study.running.slurm import SlurmExecutor

        made = SlurmExecutor(job, root, workers, threads)
    elif workers.executor == "local":
        made = LocalExecutor(job, root, workers.places(), threads)
    else:
        workers.gpus()  # raises if a GPU is missing
        made = InlineExecutor(job, root, threads)
    try:
        yield made
    finally:
        made.close()


class LocalExecutor:
    """Runs each job in its own process, at most one at a time per place."""

    def __init__(self, job: Job, root: Path, places: list[str | None], threads: int) -> None:
        self._job, self._root, self._threads = job, root, threads
        self._places = list(places)
        self._running: dict[Any, tuple[str, BaseProcess, str | None]] = {}
        self._context = _context()
        start_fork_server(threads)

    @property
    def free(self) -> int:
        """Number of places without a job."""
        return len(self._places)

    def submit(self, job: str) -> None:
        """Start the process of a job."""
        gpu = self._places.pop(0)
        process = start(self._context, self._job, self._root, job, self._threads, gpu)
        self._running[process.sentinel] = job, process, gpu

    def wait(self, seconds: float) -> list[Ended]:
        """Return the jobs that ended, after the first one or after so many seconds."""
        if not self._running:
            time.sleep(seconds)
        ended = []
        for sentinel in wait(list(self._running), seconds):
            job, process, gpu = self._running.pop(sentinel)
            process.join()
            self._places.insert(0, gpu)
            ended.append(ended_with(job, process.exitcode))
            process.close()
        return ended

    def close(self) -> None:
        """Kill the running jobs; each loses what came after its last checkpoint."""
        for _, process, _ in self._running.values():
            process.kill()
        for _, process, _ in self._running.values():
            process.join(GRACE)
        self._running.clear()


def _context() -> Any:  # noqa: ANN401 - a context of multiprocessing
    """Return a context that forks jobs from a process with torch loaded, where possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    loaded = ["layerticket.study.running.preload"]
    # Every job imports the main script again, unless it was run with `python -m`.
    if "layerticket.cli.app" in sys.modules and sys.modules["__main__"].__spec__ is None:
        loaded.append("layerticket.cli.app")
    context.set_forkserver_preload(loaded)
    return context


def start_fork_server(threads: int) -> None:
    """Start the process that jobs are forked from, unless it runs: its imports take seconds.

    Args:
        threads: Threads of each job.
    """
    if _context().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        # Some versions of Python let it ignore sys.path, and it would silently import nothing.
        paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p and isinstance(p, str))}
        with variables(paths | environment_of(threads, None)):
            forkserver.ensure_running()


def start(
    context: Any,  # noqa: ANN401
    job: Job,
    root: Path,
    name: str,
    threads: int,
    gpu: str | None,
) -> BaseProcess:
    """Start the process of a job; it ends when this process ends."""
    loaded = PRELOADED if context.get_start_method() == "forkserver" else ()
    process: BaseProcess = context.Process(
        target=_in_process,
        args=(job, root, name, threads, gpu, dict(os.environ), loaded),
        name=name,
    )
    with variables(environment_of(threads, gpu)):
        process.start()
    return process


def ended_with(job: str, code: int | None) -> Ended:
    """Return how a job ended, from the exit code of its process."""
    if code in FATES:
        return Ended(job=job, fate=FATES[code])
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return Ended(job=job, fate="died", error=f"its process ended with {how}")


def _in_process(
    job: Job,
    root: Path,
    name: str,
    threads: int,
    gpu: str | None,
    environment: Mapping[str, str],
    loaded: tuple[str, ...],
) -> None:
    """Run a job in this process, which was started for it."""
    if loaded:
        gc.freeze()  # modules of the fork server are never garbage
    gc.enable()
    if os.environ.get("OMP_NUM_THREADS") != str(threads):
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)  # the fork server has loaded the libraries with another number
    if missing := [module for module in loaded if module not in sys.modules]:
        with open_to_append(_log(root, name)) as log:
            log.write(f"the fork server lacks {missing[0]}, so every job imports it\n".encode())
    os.environ.clear()  # the fork server may have been started with an older environment
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the runner, which stops us
    threading.Thread(target=_end_with_runner, daemon=True).start()
    sys.exit(attempt_alone(job, root, name, threads, gpu))


def _end_with_runner() -> None:
    """End this process when its runner has ended, for whatever reason.

    The parent of this process is the fork server, which survives a killed runner. The sentinel is
    a pipe whose other end only the runner holds.
    """
    runner = multiprocessing.parent_process()
    assert runner is not None
    wait([runner.sentinel])
    os._exit(1)


def attempt_alone(job: Job, root: Path, name: str, threads: int, gpu: str | None) -> int:
    """Run a job in a process started for it; all its output goes to the job's log."""
    os.environ.update(environment_of(threads, gpu))
    with open_to_append(_log(root, name)) as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # no line is lost
    import torch

    torch.set_num_threads(threads)
    return attempt(job, root, name)


def attempt(job: Job, root: Path, name: str) -> int:
    """Run a job and return an exit code that says how it ended."""
    try:
        job(root, name)
    except FolderInUse:
        return BUSY
    except (Exception, SystemExit):  # whatever a model raises, the other jobs continue
        with open_to_append(_log(root, name)) as log:
            log.write(traceback.format_exc().encode())
        return 1
    return 0


def _log(root: Path, name: str) -> Path:
    path = root / "jobs" / name / "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def environment_of(threads: int, gpu: str | None) -> dict[str, str]:
    """Return the environment variables of a job, which libraries read when imported."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **dict.fromkeys(names, str(threads)),
        **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
    }


@contextlib.contextmanager
def variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, then restore the old ones."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class InlineExecutor:
    """Runs each job immediately in this process; for debuggers and tests."""

    def __init__(self, job: Job, root: Path, threads: int) -> None:
        import torch

        self._job, self._root = job, root
        self._ended: list[Ended] = []
        self._set_threads, self._before = torch.set_num_threads, torch.get_num_threads()
        self._set_threads(threads)

    @property
    def free(self) -> int:
        """1 if no job waits to be collected, else 0."""
        return 0 if self._ended else 1

    def submit(self, job: str) -> None:
        """Run a job."""
        self._ended.append(ended_with(job, attempt(self._job, self._root, job)))

    def wait(self, seconds: float) -> list[Ended]:
        """Return the jobs that ended; if none was submitted, sleep for so many seconds."""
        if not self._ended:
            time.sleep(seconds)
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Restore the number of threads of this process."""
        self._set_threads(self._before)
