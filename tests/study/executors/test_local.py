"""Workers of this machine: one that may have been spoiled by its job is replaced."""

import multiprocessing

import pytest

from layerticket.study.executors import local
from layerticket.study.jobs.task import Outcome, Surroundings, Task
from layerticket.study.plan.job import Job


def task(tmp_path, name):
    job = Job(kind="network", model=name, seed=None, spec={})
    around = Surroundings(root=tmp_path, data="digits", validation_fraction=0.1)
    return Task(job=job, given={}, around=around)


def serve(line, threads):
    """A worker on whose GPU a kernel failed: nothing goes well in it after that."""
    spoiled = False
    while True:
        name = line.recv().job.name
        spoiled = spoiled or "wrong" in name
        line.send(Outcome(name=name, ended="failed" if spoiled else "done", spoiled=spoiled))


@pytest.mark.parametrize(
    ("ended", "cuda", "spoiled"),
    [("failed", True, True), ("failed", False, False), ("done", True, False)],
)
def test_only_a_failure_beside_cuda_spoils_a_worker(monkeypatch, ended, cuda, spoiled):
    monkeypatch.setattr(local.torch.cuda, "is_initialized", lambda: cuda)
    assert local._judged(Outcome(name="job", ended=ended)).spoiled is spoiled


def test_a_spoiled_worker_gets_no_more_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(local, "_serve", serve)
    crew = local.LocalExecutor(1, 1, "cpu")
    told = []
    for name in ("right", "wrong", "right-again"):
        crew.submit(task(tmp_path, name))
        while not (ended := crew.wait(1.0)):
            pass
        told += [outcome.ended for outcome in ended]
    crew.close()
    assert told == ["done", "failed", "done"]
