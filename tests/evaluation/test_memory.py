"""Peak memory comes from a process of its own."""

import dataclasses
import subprocess

import pytest

from layerticket.errors import LayerticketError
from layerticket.evaluation.memory import MemoryRequest, peak_memory
from layerticket.training.recipe import Recipe

REQUEST = MemoryRequest(
    model="resnet20", shape=(3, 32, 32), classes=10, recipe=Recipe(batch_size=64), device="cpu"
)


def test_training_takes_more_than_starting(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ballast = bytearray(1_500_000_000)  # ours, and not to be counted as the child's
    ballast[::4096] = b"x" * len(ballast[::4096])
    found = peak_memory(REQUEST)
    assert 0 < found.training_bytes < found.peak_bytes < len(ballast)
    # 64 images hold at least 20 layers of 16x32x32 in two bytes, half of them kept twice
    assert found.training_bytes > 64 * 16 * 32 * 32 * 2 * 10


def test_a_failing_process_tells_why(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nlayerticket.X: no block 'layer9'\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"resnet20 could not be measured.*layer9"):
        peak_memory(REQUEST)
    with pytest.raises(LayerticketError, match="cuda:99"):
        peak_memory(dataclasses.replace(REQUEST, device="cuda:99"))
