"""Who does the work of a study, as a value: which executor, how many workers, with what."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from layerticket.errors import LayerticketError, unknown_name
from layerticket.study.running.ray import RayExecutor
from layerticket.study.running.workers import Executor, HereExecutor, LocalExecutor, cores, gpus

EXECUTORS = ("local", "ray", "here")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who does the work; the results are the same."""

    executor: str = "local"
    """local: processes of this machine; ray: a Ray cluster; here: this process."""
    workers: int | None = None
    """Jobs at a time; None: as many as there are GPUs or cores."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; each worker has one GPU."""
    address: str | None = None
    """Address of a Ray cluster; None: one is started here."""
    threads: int | None = None
    """Threads of each worker; None: as many as the study was begun with, or else 1 on a CPU and its
    share of the cores beside a GPU. On a CPU the last bits of a sum depend on it, so the default is
    the one number that every machine and every executor can keep to."""
    retries: int = 2
    """Times a job is tried again whose worker died."""

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise unknown_name("executor", self.executor, EXECUTORS)
        if min(self.workers or 1, self.threads or 1) < 1 or 0 in (self.workers, self.threads):
            raise LayerticketError(
                f"workers {self.workers}, threads {self.threads}: they must be at least 1."
            )
        if self.retries < 0:
            raise LayerticketError(f"retries is {self.retries}; it must be at least 0.")

    @property
    def seen_device(self) -> str:
        """The device as workers see it: of the GPUs, each sees only its own."""
        numbered = self.device.startswith("cuda:") and self.executor != "here"
        return "cuda" if numbered else self.device

    @property
    def count(self) -> int | None:
        """Jobs at a time; None: as many as a cluster has room for, which it tells later."""
        if self.executor == "here":
            return 1
        return self.workers or (None if self.address else len(gpus(self.device)) or cores())

    @property
    def share(self) -> int:
        """Threads for each worker where nothing else is said."""
        if not gpus(self.device) or self.count is None:
            return 1
        return max(1, cores() // self.count)

    @contextmanager
    def at_work(self, threads: int) -> Iterator[Executor]:
        """Lend an executor whose workers use so many threads."""
        made: Executor
        if self.executor == "ray":
            made = RayExecutor(self.workers, threads, self.device, self.address)
        elif self.executor == "local":
            made = LocalExecutor(self.workers, threads, self.device)
        else:
            made = HereExecutor(threads)
        try:
            yield made
        finally:
            made.close()
