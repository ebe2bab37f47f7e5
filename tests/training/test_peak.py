"""Peak memory is that of one training, whatever the process did before."""

import pytest
import torch

from layerticket.training import device as peak
from layerticket.training.device import Where, peak_memory_bytes, restart_peak_memory
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from toy_training import make_data, make_model

CPU = torch.device("cpu")
BALLAST = 300 * 2**20


def train(folder):
    recipe = Recipe(epochs=1, batch_size=16, precision="fp32")
    how = {"seed": 0, "where": Where(device="cpu", progress=False)}
    return fit(make_model(), make_data(), recipe, folder=folder, **how)


def hold_for_a_moment():
    held = bytearray(BALLAST)
    held[::4096] = b"x" * len(held[::4096])


def test_what_was_held_before_is_not_counted(tmp_path):
    if not restart_peak_memory(CPU):
        pytest.skip("this system does not let a process restart its peak")
    hold_for_a_moment()
    before = peak_memory_bytes(CPU)
    assert 1e7 < train(tmp_path).peak_memory_bytes < before - BALLAST / 2


def test_where_it_cannot_be_told_it_is_null(tmp_path, monkeypatch):
    monkeypatch.setattr(peak, "CLEAR", tmp_path / "no" / "file")
    assert train(tmp_path).peak_memory_bytes is None


def test_a_system_that_takes_the_wish_and_does_nothing_is_seen(tmp_path, monkeypatch):
    hold_for_a_moment()
    monkeypatch.setattr(peak, "CLEAR", tmp_path / "ignored")
    assert not restart_peak_memory(CPU)
