"""What a worker is given: its share of the cores, its GPU, and nothing that stays behind."""

import os

import pytest

from layerticket.study.running import workers as executor
from layerticket.study.running.crew import Crew
from layerticket.study.running.workers import environment_of, gpus, stand_in


def test_variables_stand_only_inside(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = {}

    def fail_inside():
        with stand_in(environment_of(2, "1")):
            seen.update(os.environ)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert (seen["OMP_NUM_THREADS"], seen["CUDA_VISIBLE_DEVICES"]) == ("2", "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "auto", ["0", "1", "2"]),
        (None, "cuda:1", ["1"]),
        ("4,GPU-abc,6", "cuda", ["4", "GPU-abc", "6"]),
        ("4,GPU-abc,6", "cuda:2", ["6"]),
        (None, "cpu", []),
    ],
)
def test_each_worker_can_have_a_gpu_of_its_own(monkeypatch, visible, device, expected):
    monkeypatch.setattr(executor.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(executor.torch.cuda, "device_count", lambda: 3)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(device) == expected


@pytest.mark.parametrize(
    ("wish", "executor", "seen"),
    [
        ("cuda:1", "local", "cuda"),
        ("cuda:1", "ray", "cuda"),
        ("cuda:1", "here", "cuda:1"),
        ("auto", "local", "auto"),
        ("cpu", "local", "cpu"),
    ],
)
def test_a_worker_calls_its_gpu_the_first(wish, executor, seen):
    assert Crew(executor=executor, device=wish).seen_device == seen


@pytest.mark.parametrize("executor_name", ["here", "local", "ray"])
@pytest.mark.parametrize("workers", [None, 1])
def test_on_a_cpu_a_job_has_one_thread_whoever_does_it(monkeypatch, executor_name, workers):
    monkeypatch.setattr("layerticket.study.running.crew.cores", lambda: 8)
    assert Crew(executor=executor_name, workers=workers, device="cpu").share == 1


def test_beside_gpus_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("layerticket.study.running.crew.cores", lambda: 8)
    monkeypatch.setattr("layerticket.study.running.crew.gpus", lambda device: ["0", "1"])
    assert (Crew().count, Crew().share, Crew(executor="here").share) == (2, 4, 8)
    assert (Crew(executor="ray", address="auto").count, Crew(workers=3).count) == (None, 3)
