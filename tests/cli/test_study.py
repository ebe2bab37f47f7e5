"""`layerticket study run` and `study status`: one JSON object, progress beside it, exit codes."""

import json

import pytest
import tomli_w

from layerticket.cli.app import main
from toy_study import study_table

INLINE = ("--executor", "inline")


@pytest.fixture
def study(tmp_path):
    def write(**changes):
        path = tmp_path / "toy.toml"
        path.write_text(tomli_w.dumps(study_table(**changes)))
        return ["study", "run", str(path), "--out", str(tmp_path / "out")]

    return write


def test_a_study_from_the_first_word_to_the_last(study, tmp_path, capsys):
    assert main([*study(), *INLINE, "--json"]) == 0
    told = capsys.readouterr()
    record = json.loads(told.out)
    assert record == json.loads((tmp_path / "out" / "study.json").read_text())
    assert [row["status"] for row in record["runs"]] == ["done", "done"]
    assert "2 done, 0 running, 0 failed, 0 waiting of 2 runs; 4 of 4 epochs" in told.err
    assert len(record["comparisons"]) == 1
    assert record["verdict"]
    assert main(["study", "status", str(tmp_path / "out"), "--json"]) == 0
    standing = json.loads(capsys.readouterr().out)
    assert (standing["done"], standing["total"], standing["seconds_left"]) == (2, 2, 0)
    assert standing["energy_kwh"] is None
    assert main([*study(), *INLINE, "--set", "methods.0.criterion=magnitude"]) == 0
    text = capsys.readouterr().out
    assert "magnitude" in text
    assert "(n = 1)" in text


def test_a_study_is_forecast_without_a_run(study, tmp_path, capsys):
    words = [*study(), "--device", "cpu", "--dry-run"]
    assert main([*words, "--workers", "2", "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "out").exists()
    assert two["parallel"] == 2
    assert two["epochs"] % two["trainings"] == 0
    assert two["train_seconds"] > 0
    assert main([*words, "--executor", "inline"]) == 0
    assert (
        f"at most {two['trainings']} trainings, {two['epochs']} epochs" in capsys.readouterr().out
    )


def test_a_run_that_fails_is_told_with_its_log(study, tmp_path, capsys):
    assert main([*study(models=["toy_study:broken"]), *INLINE]) == 1
    told = capsys.readouterr()
    assert "2 of 2 runs failed" in told.err
    assert f"RuntimeError: this layer is on strike (log: {tmp_path / 'out' / 'jobs'}" in told.err
    assert main(["study", "status", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("this layer is on strike") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "recipe.epoch=1"], "Did you mean 'epochs'"),
        (["--executor", "rya"], "Did you mean 'ray'"),
        (["--only", "zzz"], "no run of this study"),
        (["--workers", "0"], "workers is 0"),
    ],
)
def test_bad_input_is_one_line(study, capsys, words, message):
    assert main([*study(), *words]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_folder_without_a_study(tmp_path, capsys):
    assert main(["study", "status", str(tmp_path)]) == 2
    assert "has no study" in capsys.readouterr().err
