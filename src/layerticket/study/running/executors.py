"""Who does the jobs of a study: the settings, and the executors of this machine.

Every job is a function of the study's folder and the job's name, done in a process of its own.
"""

import contextlib
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
"""Does a job of the study in a folder, given its name; importable by `module:name`."""

Fate = Literal["done", "failed", "busy", "died"]
"""busy: another process is doing it; died: its process ended without a word."""

BUSY = 75  # exit code of a job that another process is doing: EX_TEMPFAIL of sysexits.h
FATES: Mapping[int | None, Fate] = {0: "done", 1: "failed", BUSY: "busy"}
GRACE = 5.0  # seconds that a killed process has to disappear


@settings
class Workers:
    """Who does the jobs of a study; the results are the same."""

    executor: Literal["local", "ray", "slurm", "inline"] = "local"
    """local: processes of this machine; ray, slurm: a cluster; inline: this process."""
    workers: Annotated[int, Strict(), Field(ge=1, le=10_000)] | None = None
    """Jobs at a time; by default as many as there are GPUs or cores, and 100 under SLURM."""
    device: DeviceName = "auto"
    """auto, cpu, cuda or cuda:N; each worker sees one GPU."""
    jobs_per_gpu: Few = 1
    """Jobs that share a GPU."""
    threads: Few | None = None
    """Threads of each worker; by default as the study was begun with, or else 1 on a CPU."""
    retries: Annotated[int, Strict(), Field(ge=0, le=1000)] = 2
    """Times a job is repeated if its process dies."""
    ray_address: Text | None = None
    """Address of a Ray cluster, or auto; by default one is started on this machine."""
    slurm: tuple[Text, ...] = ()
    """Options of sbatch: partition=gpu, account=ours, time=240 (minutes)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, wherever the jobs will run."""
        if ":" in self.device and self.executor in ("ray", "slurm"):
            raise LayerticketError(
                f"device {self.device!r} names a GPU of this machine, but {self.executor} gives "
                "each job one of the cluster. Use cuda, or the executor local."
            )
        for option in self.slurm:
            if "=" not in option:
                raise LayerticketError(
                    f"slurm option {option!r} has no value. Write it as partition=gpu."
                )

    @property
    def device_seen(self) -> str:
        """The device as jobs name it: of the GPUs, a process of its own sees only one."""
        return self.device if self.executor == "inline" else self.device.partition(":")[0]

    def gpus(self) -> list[str]:
        """GPUs of this machine that jobs may use, as CUDA_VISIBLE_DEVICES names them.

        Raises:
            LayerticketError: If a GPU is asked for that is not here.
        """
        if self.device == "cpu" or self.executor == "slurm" or self.ray_address is not None:
            return []
        import torch

        count = torch.cuda.device_count()  # asks the driver; makes no context on a GPU
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
        """The GPU of each job that can run here at one time; None is a place on the CPU.

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
    def count(self) -> int | None:
        """Jobs at a time; None: as many as a cluster has room for."""
        if self.executor == "inline":
            return 1
        if self.executor == "slurm" or self.ray_address is not None:
            return self.workers
        return len(self.places())

    @property
    def default_threads(self) -> int:
        """Threads of each worker, by default: 1 on a CPU, its share of the cores beside a GPU.

        The last bits of a sum on a CPU depend on the number, and one is what every machine has.
        """
        if self.executor == "slurm" or not self.gpus():
            return 1
        return max(1, cores() // (self.count or 1))


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a try at a job ended."""

    job: str
    fate: Fate
    error: str = ""
    """What is known of a death; a failure stands in the folder of the job."""


class Executor(Protocol):
    """Does jobs, several at a time; results do not depend on which executor does them."""

    @property
    def free(self) -> int:
        """Jobs that can be taken on now."""

    def submit(self, job: str) -> None:
        """Take a job on."""

    def wait(self, seconds: float) -> list[Ended]:
        """Return what ended, after the first end or so many seconds."""

    def close(self) -> None:
        """End what is running; it can be resumed."""


@contextlib.contextmanager
def executor_of(workers: Workers, job: Job, root: Path, threads: int) -> Iterator[Executor]:
    """Lend the executor that the settings ask for."""
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
        workers.gpus()  # refuses a GPU that is not here
        made = InlineExecutor(job, root, threads)
    try:
        yield made
    finally:
        made.close()


class LocalExecutor:
    """A process for each job, at most one at a time for each place."""

    def __init__(self, job: Job, root: Path, places: list[str | None], threads: int) -> None:
        self._job, self._root, self._threads = job, root, threads
        self._places = list(places)
        self._running: dict[Any, tuple[str, BaseProcess, str | None]] = {}
        self._context = _context(job)

    @property
    def free(self) -> int:
        """Places without a job."""
        return len(self._places)

    def submit(self, job: str) -> None:
        """Start the process of a job."""
        gpu = self._places.pop(0)
        process = start(self._context, self._job, self._root, job, self._threads, gpu)
        self._running[process.sentinel] = job, process, gpu

    def wait(self, seconds: float) -> list[Ended]:
        """Return what ended, after the first end or so many seconds."""
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
        """Kill what is running; it loses the epoch it is in."""
        for _, process, _ in self._running.values():
            process.kill()
        for _, process, _ in self._running.values():
            process.join(GRACE)
        self._running.clear()


def _context(job: Job) -> Any:  # noqa: ANN401 - a context of multiprocessing
    """Start processes as copies of one that has the large libraries loaded, where that can be."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "sklearn.datasets", job.__module__])
    return context


def start(
    context: Any,  # noqa: ANN401
    job: Job,
    root: Path,
    name: str,
    threads: int,
    gpu: str | None,
) -> BaseProcess:
    """Start the process of a job; it ends with this process."""
    process: BaseProcess = context.Process(
        target=_in_process,
        args=(job, root, name, threads, gpu, dict(os.environ)),
        name=name,
    )
    with variables(environment_of(threads, gpu)):
        process.start()
    return process


def ended_with(job: str, code: int | None) -> Ended:
    """Read the fate of a job from the exit code of its process."""
    if code in FATES:
        return Ended(job=job, fate=FATES[code])
    how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return Ended(job=job, fate="died", error=f"its process ended with {how}")


def _in_process(
    job: Job, root: Path, name: str, threads: int, gpu: str | None, environment: Mapping[str, str]
) -> None:
    """Do a job in this process, which is there for nothing else."""
    os.environ.clear()  # a fork server that was started earlier knows the environment of then
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which ends us
    threading.Thread(target=_end_with_runner, daemon=True).start()
    sys.exit(attempt_alone(job, root, name, threads, gpu))


def _end_with_runner() -> None:
    """End this process when its runner is gone, however that ended.

    The operating system's parent of this process is the fork server, which outlives a killed
    runner. The sentinel is a pipe whose other end only the runner holds.
    """
    runner = multiprocessing.parent_process()
    assert runner is not None
    wait([runner.sentinel])
    os._exit(1)


def attempt_alone(job: Job, root: Path, name: str, threads: int, gpu: str | None) -> int:
    """Do a job in a process that ends with it: all that it prints goes to the job's log."""
    os.environ.update(environment_of(threads, gpu))
    with open_to_append(_log(root, name)) as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so nothing is lost
    import torch

    torch.set_num_threads(threads)
    return attempt(job, root, name)


def attempt(job: Job, root: Path, name: str) -> int:
    """Do a job and return its fate as an exit code."""
    try:
        job(root, name)
    except FolderInUse:
        return BUSY
    except (Exception, SystemExit):  # whatever a model or a file does, the other jobs go on
        with open_to_append(_log(root, name)) as log:
            log.write(traceback.format_exc().encode())
        return 1
    return 0


def _log(root: Path, name: str) -> Path:
    path = root / "jobs" / name / "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def environment_of(threads: int, gpu: str | None) -> dict[str, str]:
    """Variables that a job's libraries read when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **dict.fromkeys(names, str(threads)),
        **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
    }


@contextlib.contextmanager
def variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for what is started inside, then bring the old ones back."""
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
    """Does each job at once in this process: for debuggers and tests."""

    def __init__(self, job: Job, root: Path, threads: int) -> None:
        import torch

        self._job, self._root = job, root
        self._ended: list[Ended] = []
        self._set_threads, self._before = torch.set_num_threads, torch.get_num_threads()
        self._set_threads(threads)

    @property
    def free(self) -> int:
        """One job at a time."""
        return 0 if self._ended else 1

    def submit(self, job: str) -> None:
        """Do a job."""
        self._ended.append(ended_with(job, attempt(self._job, self._root, job)))

    def wait(self, seconds: float) -> list[Ended]:
        """Return what ended; with nothing begun, wait for what other processes do."""
        if not self._ended:
            time.sleep(seconds)
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Give this process its threads back."""
        self._set_threads(self._before)
