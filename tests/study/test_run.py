"""Runs: named by all they depend on, done once, resumable, and never another's."""

import dataclasses
import json

import pytest
import torch

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import Judged
from layerticket.files import exclusive
from layerticket.study.record import RESULT_KEYS, RunConfig, execute, find_result, load_result
from layerticket.tensors import load_tensors
from layerticket.training.checkpoint import CHECKPOINT, METRICS
from layerticket.training.recipe import Recipe
from toy_training import make_data, make_model

RECIPE = Recipe(epochs=2, batch_size=16, precision="fp32")
CONFIG = RunConfig(
    model="toy",
    data="toy",
    data_fingerprint="f" * 64,
    validation_fraction=0.2,
    recipe=RECIPE,
    seed=3,
)
OTHER = {
    "model": "other",
    "data": "other",
    "data_fingerprint": "0" * 64,
    "validation_fraction": 0.1,
    "ticket": "a" * 64,
    "initialization": "ticket",
    "recipe": Recipe(),
    "start_epoch": 1,
    "seed": 4,
    "schema": 2,
}
OTHER_RECIPE = {
    "epochs": 3,
    "batch_size": 17,
    "learning_rate": 0.2,
    "momentum": 0.8,
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "step",
    "warmup_epochs": 0.0,
    "label_smoothing": 0.1,
    "precision": "bf16",
    "channels_last": False,
    "compile": "off",
}


def run(out, config=CONFIG, build=make_model, data=None, **options):
    options = {"device": "cpu", "progress": False} | options
    return execute(config, dataset=data or make_data(), build=build, out=out, **options)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RunConfig)])
def test_every_field_of_a_run_changes_its_folder(field):
    other = dataclasses.replace(CONFIG, **{field: OTHER[field]})
    assert other.digest != CONFIG.digest
    assert other.name != CONFIG.name


@pytest.mark.parametrize("field", OTHER_RECIPE)
def test_every_field_of_a_recipe_changes_the_folder(field):
    recipe = dataclasses.replace(RECIPE, **{field: OTHER_RECIPE[field]})
    assert dataclasses.replace(CONFIG, recipe=recipe).name != CONFIG.name


def test_names_are_readable_and_safe():
    config = dataclasses.replace(CONFIG, model="my/net.module:make", ticket="abcdef" + "0" * 58)
    assert config.name.startswith("my-net.module-make-toy-ticket-abcdef-seed3-")
    assert CONFIG.name == f"toy-toy-dense-seed3-{CONFIG.digest[:12]}"
    assert RunConfig(**dataclasses.asdict(CONFIG) | {"recipe": RECIPE}).digest == CONFIG.digest


@pytest.mark.parametrize("wrong", [{"validation_fraction": 1.0}, {"seed": -1}, {"start_epoch": 2}])
def test_impossible_runs_are_refused(wrong):
    with pytest.raises(LayerticketError, match="but it must be"):
        dataclasses.replace(CONFIG, **wrong)


def test_leaves_the_files_and_figures(tmp_path):
    result = run(tmp_path, command="layerticket train")
    folder = tmp_path / CONFIG.name
    assert tuple(result) == RESULT_KEYS
    assert result == load_result(folder) == find_result(CONFIG, tmp_path)
    assert result["run"] == str(folder)
    assert result["params"] == sum(p.numel() for p in make_model().parameters())
    assert result["energy_kwh"] is None
    assert result["validation_accuracy"] * 20 == pytest.approx(
        round(result["validation_accuracy"] * 20)
    )
    assert 0 <= result["test_accuracy"] <= 1
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "run.json", METRICS, "model.safetensors", "result.json"}
    record = json.loads((folder / "run.json").read_text())
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert record["command"] == "layerticket train"
    assert record["environment"]["torch"] == torch.__version__
    assert load_tensors(folder / "model.safetensors")[0].keys() == make_model().state_dict().keys()


def test_finished_work_is_not_done_twice(tmp_path):
    first = run(tmp_path)
    with exclusive(tmp_path / CONFIG.name):  # reading needs no lock
        assert run(tmp_path, build=lambda: 1 / 0) == first


def test_interrupted_work_resumes_to_the_same_end(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = []

        def fail(*args, **kwargs):
            calls.append(0)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return Judged(0.5, "")

        patch.setattr("layerticket.study.record.judged", fail)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    folder = tmp_path / "cut" / CONFIG.name
    assert (folder / CHECKPOINT).exists()
    assert find_result(CONFIG, tmp_path / "cut") is None
    resumed = run(tmp_path / "cut")
    clock = ("run", "train_seconds", "images_per_second", "peak_memory_bytes", "data_wait_share")
    assert [resumed[k] for k in RESULT_KEYS if k not in clock] == [
        whole[k] for k in RESULT_KEYS if k not in clock
    ]
    one = (folder / "model.safetensors").read_bytes()
    assert one == (tmp_path / "whole" / CONFIG.name / "model.safetensors").read_bytes()
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == 1


def test_without_a_validation_split_the_figure_is_null(tmp_path):
    data = make_data()
    none = Split(images=data.test.images[:0], labels=data.test.labels[:0])
    result = run(tmp_path, data=dataclasses.replace(data, validation=none))
    assert result["validation_accuracy"] is None


def test_other_data_than_the_runs_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LayerticketError, match="fingerprint"):
        run(tmp_path, data=dataclasses.replace(make_data(), fingerprint="0" * 64))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        exclusive(tmp_path / CONFIG.name),
        pytest.raises(LayerticketError, match="another process"),
    ):
        run(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", "cannot be read"),
        ("run.json", '{"config": {"model": "x"}}', "another run"),
        ("result.json", "{}", "damaged or foreign"),
        ("result.json", "[", "cannot be read"),
    ],
)
def test_foreign_and_damaged_folders_are_refused(tmp_path, file, content, message):
    run(tmp_path)
    (tmp_path / CONFIG.name / file).write_text(content)
    with pytest.raises(LayerticketError, match=message):
        run(tmp_path)


def test_unfinished_and_absent_results_are_refused(tmp_path):
    with pytest.raises(LayerticketError, match="not finished"):
        load_result(tmp_path)
    folder = tmp_path / CONFIG.name
    folder.mkdir()
    (folder / CHECKPOINT).touch()
    with pytest.raises(LayerticketError, match=r"checkpoint but no run\.json"):
        run(tmp_path)


def test_a_moved_folder_tells_where_it_lies_now(tmp_path):
    run(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert load_result(tmp_path / "there" / CONFIG.name)["run"] == str(
        tmp_path / "there" / CONFIG.name
    )
