"""A Ray cluster of this machine: the same fates, and the same results as anywhere else."""

import importlib.util
import os
import sys

import pytest

from layerticket.errors import LayerticketError
from layerticket.study.running.executors import Workers
from layerticket.study.running.ray import RayExecutor
from toy_jobs import MET, job


def test_without_ray_the_way_to_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LayerticketError, match=r'pip install "layerticket\[ray\]"'):
        RayExecutor(job, tmp_path, Workers(executor="ray"), 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves files of its services open
def test_jobs_end_as_anywhere_else(tmp_path, monkeypatch, capsys):
    if importlib.util.find_spec("ray") is None:  # importing it here would hide what it changes
        pytest.skip("Ray is not installed")
    before = dict(os.environ)
    names = ["meets-1", "meets-2", "raises", "leaves", "ends-7", "falls", "dies", "busy", "looks"]
    (tmp_path / MET).write_text("2")
    executor = RayExecutor(job, tmp_path, Workers(executor="ray", workers=2, device="cpu"), 1)
    try:
        ended = {}
        for name in names:
            while not executor.free:
                ended |= {end.job: end for end in executor.wait(60)}
            executor.submit(name)
        while len(ended) < len(names):
            ended |= {end.job: end for end in executor.wait(60)}
    finally:
        executor.close()
    fates = ["done", "done", "failed", "failed", "died", "died", "died", "busy", "done"]
    assert [ended[name].fate for name in names] == fates
    assert "Worker" in ended["falls"].error
    assert "ArithmeticError" in (tmp_path / "jobs" / "raises" / "log.txt").read_text()
    assert (tmp_path / "looks.seen").read_text().split()[:2] == ["1", "1"]
    assert capsys.readouterr().out == ""  # stdout is for the answer of the command
    pids = {(tmp_path / f"{name}.begun").read_text().split()[0] for name in names}
    assert len(pids) == len(names)  # a process for each
    assert {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} == {
        k: v for k, v in before.items() if k != "PYTEST_CURRENT_TEST"
    }
