"""Jobs of a study as tasks of a Ray cluster: one that is there, or one started on this machine."""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from layerticket.errors import need
from layerticket.study.running.executors import (
    Ended,
    Job,
    Workers,
    attempt_alone,
    ended_with,
    variables,
)

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayExecutor:
    """As many tasks at a time as the cluster has room for, or as told."""

    def __init__(self, job: Job, root: Path, workers: Workers, threads: int) -> None:
        self._arguments = job.__module__, job.__name__, root, threads, sys.path, os.getcwd()
        with contextlib.ExitStack() as undoing:
            undoing.callback(_put_back, dict(os.environ))
            # Ray prints when a worker dies, until it is shut down, but stdout is for the answer of
            # the command.
            undoing.enter_context(contextlib.redirect_stdout(sys.stderr))
            self._ray = need("ray", extra="ray")
            if not self._ray.is_initialized():
                undoing.callback(self._ray.shutdown)
                if workers.ray_address is None:
                    wish: dict[str, Any] = {
                        "num_cpus": workers.count,
                        "num_gpus": len(workers.gpus()),
                    }
                    wish |= {"include_dashboard": False}
                else:
                    wish = {"address": workers.ray_address}
                with variables(QUIET):
                    self._ray.init(log_to_driver=False, **wish)
            self._undoing = undoing.pop_all()
        there = self._ray.cluster_resources()
        on_gpu = workers.device != "cpu" and there.get("GPU", 0) >= 1
        slots = there["GPU"] * workers.jobs_per_gpu if on_gpu else there.get("CPU", 1)
        self._count = workers.workers or int(slots)
        # max_calls: a process for each job. Retries are the runner's own, as everywhere.
        remote = self._ray.remote(
            num_cpus=1,
            num_gpus=1 / workers.jobs_per_gpu if on_gpu else 0,
            max_calls=1,
            max_retries=0,
        )
        self._do = remote(_do)
        self._running: dict[Any, str] = {}

    @property
    def free(self) -> int:
        """Tasks that the cluster can take on now."""
        return self._count - len(self._running)

    def submit(self, job: str) -> None:
        """Hand a job to the cluster."""
        self._running[self._do.remote(job, *self._arguments)] = job

    def wait(self, seconds: float) -> list[Ended]:
        """Return what ended, after the first end or so many seconds."""
        if not self._running:
            time.sleep(seconds)
            return []
        over, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [self._ended(task, self._running.pop(task)) for task in over]

    def _ended(self, task: Any, job: str) -> Ended:  # noqa: ANN401 - Ray's own
        """Read the fate of a job, or that its process died."""
        try:
            return ended_with(job, self._ray.get(task))
        except self._ray.exceptions.RayError as err:
            said = " ".join(str(err).split())[:300]
            return Ended(job=job, fate="died", error=f"{type(err).__name__}: {said}")

    def close(self) -> None:
        """End what is running; a cluster of our own ends too."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        self._undoing.close()


def _do(
    job: str, module: str, function: str, root: Path, threads: int, paths: list[str], folder: str
) -> int:
    """Do a job in a worker of Ray, importing from where the runner does."""
    os.chdir(folder)
    sys.path.extend(path for path in paths if path not in sys.path)
    return attempt_alone(getattr(import_module(module), function), root, job, threads, None)


def _put_back(before: Mapping[str, str]) -> None:
    """Undo what Ray did to the environment of this process."""
    for name in [*os.environ]:
        if name.startswith("RAY_") or name == "PYTHONBREAKPOINT":
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
