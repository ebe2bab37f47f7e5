"""What an executor offers to the runner of a study, and what a worker sets up before it works."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from layerticket.study.jobs.task import Outcome, Task

__all__ = ["Executor", "cores", "environment_of", "gpus", "set_threads", "stand_in"]


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
