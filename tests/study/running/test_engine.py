"""The queue of a study's jobs: each in its turn, looked at only when it may have changed."""

import dataclasses
import json
from collections import Counter
from types import SimpleNamespace

import pytest

from layerticket.errors import LayerticketError
from layerticket.files import Process, exclusive
from layerticket.study.folder import StudyFolder
from layerticket.study.plan import unfold
from layerticket.study.running import engine
from layerticket.study.running.engine import JobQueue, queue_of
from layerticket.study.running.executors import Ended
from layerticket.study.toml import study_of
from toy_study import study_table


class Jobs:
    """States of jobs, and a count of the looks at each."""

    def __init__(self, needs, retries=1, **states):
        self.states, self.looks, self.errors = states, Counter(), {}
        self.queue = JobQueue(needs, self.look, self.errors.__setitem__, retries)

    def look(self, name):
        self.looks[name] += 1
        return self.states.get(name, "open")

    def begin(self):
        """Begin what can begin; return the names."""
        begun = []
        while (name := self.queue.begin()) is not None:
            begun.append(name)
        return begun

    def end(self, name, fate="done", error=""):
        if fate in ("done", "failed"):
            self.states[name] = fate
        self.queue.ended(Ended(job=name, fate=fate, error=error))


NEEDS = {"dense": (), "search": ("dense",), "ticket": ("search",), "other": ()}


def test_a_job_begins_when_those_before_it_are_done():
    jobs = Jobs(NEEDS)
    assert jobs.begin() == ["dense", "other"]
    jobs.end("other")
    assert jobs.begin() == []
    jobs.end("dense")
    assert jobs.begin() == ["search"]
    assert set(jobs.queue.running) == {"search"}
    jobs.end("search")
    assert jobs.begin() == ["ticket"]
    jobs.end("ticket")
    assert not jobs.queue.left
    assert not jobs.queue.failed


def test_what_is_done_is_not_begun():
    jobs = Jobs(NEEDS, dense="done", search="done")
    assert jobs.queue.left == {"ticket", "other"}
    assert jobs.begin() == ["ticket", "other"]


def test_earlier_jobs_come_first_whenever_they_are_ready():
    jobs = Jobs({"a": (), "b": ("a",), "c": (), "d": ()})
    assert jobs.queue.begin() == "a"
    jobs.end("a")
    assert jobs.begin() == ["b", "c", "d"]


def test_what_comes_after_a_failure_is_given_up():
    jobs = Jobs(NEEDS)
    jobs.begin()
    jobs.end("dense", "failed")
    assert jobs.queue.failed == {"dense", "search", "ticket"}
    assert jobs.queue.left == {"other"}
    assert jobs.begin() == []
    assert jobs.errors == {}  # a job writes down itself why it failed


def test_a_failure_without_a_word_gets_one():
    jobs = Jobs(NEEDS)
    jobs.begin()
    jobs.queue.ended(Ended(job="dense", fate="failed"))
    assert jobs.errors == {"dense": "it failed without a reason; see its log"}


def test_a_job_whose_process_dies_is_tried_again_and_given_up():
    jobs = Jobs(NEEDS, retries=1)
    assert jobs.begin() == ["dense", "other"]
    jobs.end("dense", "died", "its process ended with SIGKILL")
    assert jobs.errors == {}
    assert jobs.begin() == ["dense"]
    jobs.end("dense", "died", "its process ended with SIGKILL")
    assert jobs.errors == {"dense": "its process ended with SIGKILL, in 2 of 2 attempts"}
    assert jobs.queue.failed == {"dense", "search", "ticket"}


def test_a_process_that_ends_well_before_its_job_is_done_has_died():
    jobs = Jobs(NEEDS, retries=0)
    jobs.begin()
    jobs.queue.ended(Ended(job="dense", fate="done"))
    assert jobs.errors == {"dense": "its process ended before it was done, in 1 of 1 attempts"}


@pytest.mark.parametrize("fate", ["done", "failed"])
def test_a_job_whose_need_was_replaced_meanwhile_has_not_failed(fate):
    jobs = Jobs(NEEDS, dense="done")
    assert jobs.begin() == ["search", "other"]
    jobs.states |= {"dense": "open", "search": "failed" if fate == "failed" else "open"}
    jobs.queue.ended(Ended(job="search", fate=fate))
    jobs.end("other")
    assert not jobs.queue.left
    assert not jobs.queue.failed
    assert jobs.queue.undone == {"search", "ticket"}
    assert not jobs.errors


def test_a_job_that_died_after_it_was_done_is_done():
    jobs = Jobs(NEEDS)
    jobs.begin()
    jobs.states["dense"] = "done"
    jobs.queue.ended(Ended(job="dense", fate="died"))
    assert jobs.begin() == ["search"]


@pytest.mark.parametrize("known", [True, False])
def test_a_job_of_another_process_is_waited_for(monkeypatch, known):
    clock = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    jobs = Jobs(NEEDS)
    if known:
        jobs.states["dense"] = "running"
        assert jobs.begin() == ["other"]
    else:  # it began there just after we looked
        assert jobs.begin() == ["dense", "other"]
        jobs.states["dense"] = "running"
        jobs.end("dense", "busy")
    looks = jobs.looks["dense"]
    assert jobs.begin() == []
    assert jobs.looks["dense"] == looks
    clock[0] += engine.TICK
    assert jobs.begin() == []
    assert jobs.looks["dense"] == looks + 1
    jobs.states["dense"] = "done"
    clock[0] += engine.TICK
    assert jobs.begin() == ["search"]


def test_a_job_whose_training_another_job_does_is_tried_less_and_less(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    jobs = Jobs({"one": (), "same": ()})
    assert jobs.begin() == ["one", "same"]
    jobs.queue.parallel()
    tries = []
    while clock[0] < 100:
        if "same" in jobs.queue.running:
            tries.append(clock[0])
            jobs.end("same", "busy")
            assert jobs.queue.parallel() == []  # nothing of its own runs
        clock[0] += engine.TICK
        jobs.begin()
    assert tries == [0, 2, 6, 14, 30, 62, 94]


def test_jobs_of_other_processes_count_as_beside(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    jobs = Jobs({"theirs": (), "mine": (), "next": ()}, theirs="running")
    assert jobs.queue.begin() == "mine"
    assert jobs.queue.parallel() == [("mine", 1)]
    jobs.end("mine")
    jobs.states["theirs"] = "done"
    clock[0] += engine.TICK
    assert jobs.begin() == ["next"]
    assert jobs.queue.parallel() == [("next", 0)]


def test_a_job_that_failed_elsewhere_is_not_tried_again_here(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    jobs = Jobs(NEEDS, dense="running")
    assert jobs.begin() == ["other"]
    jobs.states["dense"] = "failed"
    clock[0] += engine.TICK
    assert jobs.begin() == []
    assert jobs.queue.failed == {"dense", "search", "ticket"}


def test_the_most_jobs_beside_each_are_counted():
    jobs = Jobs(dict.fromkeys("abcd", ()))
    queue = jobs.queue
    assert queue.begin() == "a"
    assert queue.parallel() == [("a", 0)]
    assert queue.begin() == "b"
    assert queue.begin() == "c"
    assert queue.parallel() == [("a", 2), ("b", 2), ("c", 2)]
    jobs.end("a")
    assert queue.parallel() == []
    assert queue.begin() == "d"
    assert queue.parallel() == [("d", 2)]
    jobs.end("b")
    jobs.end("c")
    assert queue.parallel() == []


def test_jobs_are_looked_at_a_few_times_each_however_many_there_are():
    count = 2000
    needs = {"first": ()} | {f"job-{number}": ("first",) for number in range(count)}
    jobs = Jobs(needs)
    while (name := jobs.queue.begin()) is not None:
        jobs.end(name)
    assert not jobs.queue.left
    assert max(jobs.looks.values()) <= 3


def test_a_job_whose_node_died_is_begun_again(tmp_path):
    """What a holder of another machine left behind is believed by those who look, not by us."""
    folder, plan = StudyFolder(tmp_path), unfold(study_of(study_table()), None)
    first = next(iter(plan.jobs))
    with exclusive(folder.job(first)):
        elsewhere = dataclasses.asdict(Process.current()) | {"host": "a-node"}
        (folder.job(first) / ".holder").write_text(json.dumps(elsewhere))
        assert queue_of(plan, folder, retries=0).begin() != first  # it does hold the lock
    (folder.job(first) / ".holder").write_text(json.dumps(elsewhere))
    assert folder.is_running(first)
    assert queue_of(plan, folder, retries=0).begin() == first


def test_a_setting_that_an_earlier_version_did_not_record_is_no_difference(tmp_path):
    def check(stored, now):
        folder = SimpleNamespace(
            root=tmp_path, record=lambda _: {"results": {"cifar10.1": {"settings": stored}}}
        )
        plan = SimpleNamespace(jobs={"e": SimpleNamespace(name="e", kind="evaluate")})
        engine._check_evaluations(folder, plan, [SimpleNamespace(name="cifar10.1", settings=now)])

    check({"set": "a"}, {"set": "a", "clean_images": 20})
    for stored in ({"set": "a", "clean_images": 10}, {"set": "b"}):
        with pytest.raises(LayerticketError, match="not comparable"):
            check(stored, {"set": "a", "clean_images": 20})
