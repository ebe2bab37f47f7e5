"""Workers of this machine: one that may have been spoiled by its job is replaced."""

import contextlib
import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest

from layerticket.study.job import Outcome, Surroundings, Task
from layerticket.study.plan import Job
from layerticket.study.running import workers as local


def task(tmp_path, name):
    job = Job(kind="network", model=name, seed=None, spec={})
    around = Surroundings(root=tmp_path, data="digits", validation_fraction=0.1)
    return Task(job=job, given={}, around=around)


class Worker:
    """A worker on whose GPU a kernel failed: nothing goes well in it after that."""

    exitcode = None

    def __init__(self, target, args):
        self.line = args[0]

    def start(self):
        self.line = Connection(os.dup(self.line.fileno()))  # the executor closes its own
        threading.Thread(target=self.serve).start()

    def serve(self):
        spoiled = False
        with contextlib.suppress(EOFError), self.line:
            while True:
                name = self.line.recv().job.name
                spoiled = spoiled or "wrong" in name
                ended = "failed" if spoiled else "done"
                self.line.send(Outcome(name=name, ended=ended, spoiled=spoiled))

    def kill(self):
        pass  # it ends when its line is closed

    def join(self, seconds):
        pass


@pytest.mark.parametrize(
    ("ended", "cuda", "spoiled"),
    [("failed", True, True), ("failed", False, False), ("done", True, False)],
)
def test_only_a_failure_beside_cuda_spoils_a_worker(monkeypatch, ended, cuda, spoiled):
    monkeypatch.setattr(local.torch.cuda, "is_initialized", lambda: cuda)
    assert local._judged(Outcome(name="job", ended=ended)).spoiled is spoiled


def test_a_spoiled_worker_gets_no_more_jobs(tmp_path, monkeypatch):
    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Worker)
    monkeypatch.setattr(local, "CONTEXT", context)
    crew = local.LocalExecutor(1, 1, "cpu")
    told = []
    for name in ("right", "wrong", "right-again"):
        crew.submit(task(tmp_path, name))
        while not (ended := crew.wait(1.0)):
            pass
        told += [outcome.ended for outcome in ended]
    crew.close()
    assert told == ["done", "failed", "done"]
