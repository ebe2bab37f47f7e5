"""Jobs as tasks of a Ray cluster: one that is there, or one started on this machine.

All workers have to see the folder of the study and the images at the same paths. Retries are the
runner's own, so that a worker that dies is handled in the same way everywhere.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.study.job import Outcome, Task, perform
from layerticket.study.running.workers import (
    cores,
    environment_of,
    gpus,
    importable,
    set_threads,
    stand_in,
)

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayExecutor:
    """As many tasks at once as the cluster has GPUs or cores for, or as told."""

    def __init__(
        self, workers: int | None, threads: int, device: str = "auto", address: str | None = None
    ) -> None:
        with contextlib.ExitStack() as undoing:
            undoing.callback(_put_back, dict(os.environ))
            self._ray = _ray()
            if not self._ray.is_initialized():
                undoing.callback(self._ray.shutdown)
                cards = len(gpus(device))
                with stand_in(QUIET):
                    self._ray.init(**_wishes(address, workers or cards or cores(), cards))
            # Ray tells of workers that died by printing.
            undoing.enter_context(contextlib.redirect_stdout(sys.stderr))
            self._undoing = undoing.pop_all()
        there = self._ray.cluster_resources()
        wanted = 1 if device != "cpu" and there.get("GPU", 0) >= 1 else 0
        slots = int(there.get("GPU" if wanted else "CPU", 1))
        self._count = workers or slots
        self._threads = threads
        # A fresh worker for each task on a GPU: an error of a kernel stays with the process.
        often = {"max_calls": wanted}  # 0: no limit
        remote = self._ray.remote(num_cpus=1, num_gpus=wanted, max_retries=0, **often)
        self._do = remote(_do)
        self._running: dict[Any, Task] = {}

    @property
    def free(self) -> int:
        """Tasks that can be handed to the cluster now."""
        return self._count - len(self._running)

    def submit(self, task: Task) -> None:
        """Hand a task to the cluster."""
        reference = self._do.remote(task, self._threads, sys.path, os.getcwd())
        self._running[reference] = task

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what ended, after the first end or so many seconds."""
        if not self._running:
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [self._outcome(reference, self._running.pop(reference)) for reference in ended]

    def _outcome(self, reference: Any, task: Task) -> Outcome:  # noqa: ANN401 - Ray's own
        """Read what a task came to, or that its worker died."""
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as err:
            said = " ".join(str(err).split())[:300]
            return Outcome(name=task.job.name, ended="died", error=f"{type(err).__name__}: {said}")
        return outcome

    def close(self) -> None:
        """Call back what still runs; a cluster of our own is ended."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        self._undoing.close()


def _put_back(before: Mapping[str, str]) -> None:
    """Undo what Ray did to the environment of this process."""
    for name in [*os.environ]:
        if name.startswith("RAY_") or name == "PYTHONBREAKPOINT":
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _do(task: Task, threads: int, paths: list[str], folder: str) -> Outcome:
    """Do a task in a worker of Ray, as a worker of the local executor does."""
    importable(paths, Path(folder))
    os.environ.update(environment_of(threads, None))
    set_threads(threads)
    return perform(task)


def _wishes(address: str | None, workers: int, cards: int) -> dict[str, Any]:
    """Put together what Ray is started with."""
    if address is not None:
        return {"address": address, "log_to_driver": False}
    return {
        "num_cpus": workers,
        "num_gpus": cards,
        "include_dashboard": False,
        "log_to_driver": False,
    }


def _ray() -> Any:  # noqa: ANN401 - the module
    """Import Ray, or say how to install it."""
    try:
        import ray
    except ModuleNotFoundError as err:
        raise LayerticketError(
            'the executor ray needs Ray: pip install "layerticket[ray]"; or use local.'
        ) from err
    return ray
