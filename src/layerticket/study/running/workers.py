"""One job after another in this process: for debuggers, and for a study in a test.

The process cannot be replaced, so an error of a CUDA kernel fails all jobs after it too.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

import torch

from layerticket.study.job import Outcome, Task, perform


class Executor(Protocol):
    """Does tasks, several at a time; results do not depend on which executor does them."""

    @property
    def free(self) -> int:
        """Tasks that can be taken on now."""

    def submit(self, task: Task) -> None:
        """Take a task on."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what ended, after the first end or so many seconds."""

    def close(self) -> None:
        """Let go of all workers; what they were at can be resumed."""


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus(device: str) -> list[str]:
    """Names of the GPUs that workers may share, one each; none when the CPU is asked for.

    They are what CUDA_VISIBLE_DEVICES takes. A device named with its number is one GPU.
    """
    if device == "cpu" or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    seen = named.split(",")[:count] if named else [str(number) for number in range(count)]
    index = device.partition(":")[2]
    return [seen[int(index)]] if index else seen


def environment_of(threads: int, gpu: str | None) -> dict[str, str]:
    """Variables that have to stand before a worker's libraries are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **dict.fromkeys(names, str(threads)),
        **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
    }


def set_threads(threads: int) -> None:
    """Let torch use so many threads in this process."""
    torch.set_num_threads(threads)


@contextlib.contextmanager
def stand_in(variables: Mapping[str, str]) -> Iterator[None]:
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


def importable(paths: list[str], folder: Path) -> None:
    """Work in a folder, and import from where the runner does."""
    os.chdir(folder)
    sys.path.extend(path for path in paths if path not in sys.path)


CONTEXT = multiprocessing.get_context("spawn")
GRACE = 5.0  # seconds a worker has to end by itself


@dataclass(slots=True)
class _Worker:
    """A process, the line to it, and what it is at."""

    process: SpawnProcess
    line: Connection
    task: Task | None = None


class LocalExecutor:
    """As many processes as there are GPUs or cores, or as told."""

    def __init__(self, workers: int | None, threads: int, device: str = "auto") -> None:
        cards = gpus(device)
        count = workers or len(cards) or cores()
        self._threads = threads
        self._places: list[Mapping[str, str]] = [
            environment_of(threads, cards[number % len(cards)] if cards else None)
            for number in range(count)
        ]
        self._workers: list[_Worker | None] = [None] * count

    @property
    def free(self) -> int:
        """Workers that are at nothing, or not yet there."""
        return sum(worker is None or worker.task is None for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Hand a task to a worker that has none; it is started if need be."""
        idle = [n for n, w in enumerate(self._workers) if w is not None and w.task is None]
        number = idle[0] if idle else self._workers.index(None)
        worker = self._workers[number] or self._start(self._places[number])
        self._workers[number], worker.task = worker, task
        with contextlib.suppress(OSError):  # it died just now, which `wait` tells
            worker.line.send(task)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what ended, after the first end or so many seconds."""
        busy = {w.line: n for n, w in enumerate(self._workers) if w is not None and w.task}
        if not busy:
            time.sleep(seconds)
            return []
        return [self._outcome(busy[line]) for line in wait(list(busy), seconds)]  # type: ignore[index]

    def _outcome(self, number: int) -> Outcome:
        """Read what a worker sends, or find it dead."""
        worker = self._workers[number]
        assert worker is not None
        assert worker.task is not None
        name, worker.task = worker.task.job.name, None
        try:
            outcome: Outcome = worker.line.recv()
        except (EOFError, OSError):
            self._workers[number] = None
            worker.process.join(GRACE)
            worker.line.close()
            code = worker.process.exitcode
            return Outcome(name=name, ended="died", error=f"its worker ended with {_told(code)}")
        if outcome.spoiled:
            self._workers[number] = None
            _end(worker)
        return outcome

    def _start(self, variables: Mapping[str, str]) -> _Worker:
        """Start a worker with its own environment."""
        ours, theirs = CONTEXT.Pipe()
        with stand_in(variables):
            process = CONTEXT.Process(target=_serve, args=(theirs, self._threads))
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def close(self) -> None:
        """End all workers; one in the middle of a job loses the epoch it is in."""
        for worker in self._workers:
            if worker is not None:
                _end(worker)
        self._workers = [None] * len(self._workers)


def _end(worker: _Worker) -> None:
    """End a worker, whatever it is at."""
    worker.process.kill()
    worker.process.join(GRACE)
    worker.line.close()


def _told(code: int | None) -> str:
    """Put an exit code in words."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(line: Connection, threads: int) -> None:
    """Do tasks as they come, until the runner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, which ends us
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    set_threads(threads)
    while True:
        try:
            task: Task = line.recv()
        except EOFError:
            return
        line.send(_judged(perform(task)))


def _judged(outcome: Outcome) -> Outcome:
    """Tell whether this process can be used after a job that ended so.

    An error of a CUDA kernel stays with the process: every later call fails by it. Which errors are
    of that kind is not told, so none is trusted once CUDA is in use.
    """
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own
    spoiled = outcome.ended == "failed" and in_use
    return replace(outcome, spoiled=spoiled)


def _end_with_the_runner() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class HereExecutor:
    """Does each task at once, in the process that asks."""

    def __init__(self, threads: int) -> None:
        self._ended: list[Outcome] = []
        self._before = torch.get_num_threads()
        set_threads(threads)

    @property
    def free(self) -> int:
        """One task at a time."""
        return 0 if self._ended else 1

    def submit(self, task: Task) -> None:
        """Do a task."""
        self._ended.append(perform(task, redirect=False))

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what ended; with nothing begun, wait for what other processes do."""
        if not self._ended:
            time.sleep(seconds)
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Give this process its threads back."""
        set_threads(self._before)
