"""A Ray cluster of this machine: the same results, also when a worker is killed in a training."""

import importlib.util
import json

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.study.running import ray as cluster
from layerticket.study.running.crew import Crew
from layerticket.study.running.engine import run_study
from layerticket.study.toml import study_of
from layerticket.tensors import load_tensors
from toy_study import FILE, study_table


def test_without_ray_the_way_to_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(LayerticketError, match=r'pip install "layerticket\[ray\]"'):
        cluster.RayExecutor(1, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves files of its services open
def test_ray_agrees_with_this_process_though_a_worker_is_killed(tmp_path, monkeypatch, capsys):
    if importlib.util.find_spec("ray") is None:  # importing it here would hide what it changes
        pytest.skip("Ray is not installed")
    monkeypatch.setenv(FILE, str(tmp_path / "killed"))
    study = study_of(study_table(models=["toy_study:mortal"]))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        record = run_study(study, tmp_path / "ray", crew=Crew(executor="ray", workers=2))
        assert (tmp_path / "killed").exists()
        whole = run_study(study, tmp_path / "here", crew=Crew(executor="here"))
    finally:
        torch.set_num_threads(before)
    assert [row["status"] for row in record["runs"]] == ["done", "done"]
    assert capsys.readouterr().out == ""  # stdout is for the answer of the command
    for mine, theirs in zip(record["runs"], whole["runs"], strict=True):
        assert mine["test_accuracy"] == theirs["test_accuracy"]
        weights = [
            load_tensors(tmp_path / where / row["folder"] / "model.safetensors")[0]
            for where, row in (("ray", mine), ("here", theirs))
        ]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    resumed = (tmp_path / "ray" / "runs").glob("*/run.json")
    assert sum("resumed" in json.loads(path.read_text()) for path in resumed) == 1
