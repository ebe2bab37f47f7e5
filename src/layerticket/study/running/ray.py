"""Run the jobs of a study as Ray tasks, on an existing cluster or one started on this machine."""

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
    """Runs as many parallel tasks as the cluster can, or as `workers` says."""

    def __init__(self, job: Job, root: Path, workers: Workers, threads: int) -> None:
        self._arguments = job.__module__, job.__name__, root, threads, sys.path, os.getcwd()
        with contextlib.ExitStack() as undoing:
            undoing.callback(_restore, dict(os.environ))
            # Ray prints when a worker dies, but stdout is reserved for the result of the command.
            undoing.enter_context(contextlib.redirect_stdout(sys.stderr))
            self._ray = need("ray", extra="ray")
            if not self._ray.is_initialized():
                undoing.callback(self._ray.shutdown)
                if workers.ray_address is None:
                    options: dict[str, Any] = {
                        "num_cpus": workers.count,
                        "num_gpus": len(workers.gpus()),
                    }
                    options |= {"include_dashboard": False}
                else:
                    options = {"address": workers.ray_address}
                with variables(QUIET):
                    self._ray.init(log_to_driver=False, **options)
            self._undoing = undoing.pop_all()
        there = self._ray.cluster_resources()
        on_gpu = workers.device != "cpu" and there.get("GPU", 0) >= 1
        slots = there["GPU"] * workers.jobs_per_gpu if on_gpu else there.get("CPU", 1)
        self._count = workers.workers or int(slots)
        # max_calls: one process per job. Retries are left to the runner, as for all executors.
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
        """Number of tasks that can be submitted now."""
        return self._count - len(self._running)

    def submit(self, job: str) -> None:
        """Submit a job to the cluster."""
        self._running[self._do.remote(job, *self._arguments)] = job

    def wait(self, seconds: float) -> list[Ended]:
        """Return the jobs that ended, after the first one or after so many seconds."""
        if not self._running:
            time.sleep(seconds)
            return []
        over, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [self._ended(task, self._running.pop(task)) for task in over]

    def _ended(self, task: Any, job: str) -> Ended:  # noqa: ANN401 - Ray's own
        """Return how a job ended, or that its process died."""
        try:
            return ended_with(job, self._ray.get(task))
        except self._ray.exceptions.RayError as err:
            message = " ".join(str(err).split())[:300]
            return Ended(job=job, fate="died", error=f"{type(err).__name__}: {message}")

    def close(self) -> None:
        """Stop the running tasks, and the cluster if we started it."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        self._undoing.close()


def _do(
    job: str, module: str, function: str, root: Path, threads: int, paths: list[str], folder: str
) -> int:
    """Run a job in a Ray worker, with the runner's import paths."""
    os.chdir(folder)
    sys.path.extend(path for path in paths if path not in sys.path)
    return attempt_alone(getattr(import_module(module), function), root, job, threads, None)


def _restore(before: Mapping[str, str]) -> None:
    """Restore the environment variables that Ray changed."""
    for name in [*os.environ]:
        if name.startswith("RAY_") or name == "PYTHONBREAKPOINT":
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
