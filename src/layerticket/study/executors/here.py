"""One job after another in this process: for debuggers, and for a study in a test.

The process cannot be replaced, so an error of a CUDA kernel fails all jobs after it too.
"""

import time

import torch

from layerticket.study.executors.executor import set_threads
from layerticket.study.jobs.perform import perform
from layerticket.study.jobs.task import Outcome, Task

__all__ = ["HereExecutor"]


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
