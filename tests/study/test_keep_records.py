"""Kept records let a study go on without weights."""

import sys
from pathlib import Path

import pytest

from layerticket.files import read_json, write_json
from layerticket.models.load import build_model
from layerticket.study.identity import TrainingIdentity
from layerticket.ticket.ticket import architecture_digest

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))

from keep_records import main


def test_finished_trainings_are_kept_without_weights_and_paths(tmp_path):
    study = tmp_path / "study"
    for name in ("done", "open"):
        command = f"layerticket study run s.toml --out {study} --data-dir {tmp_path}/images"
        ticket = f"{study}/searches/a"
        record = {"command": command, "config": {"ticket": ticket}}
        write_json(study / "trainings" / name / "run.json", record)
    write_json(study / "trainings" / "done" / "result.json", {"test_accuracy": 0.5})
    (study / "trainings" / "done" / "model.safetensors").write_bytes(b"weights")
    write_json(study / "rows" / "a.json", {"training": "done"})
    main(study, tmp_path / "kept")
    kept = {path.relative_to(tmp_path / "kept").as_posix() for path in tmp_path.glob("kept/**/*.*")}
    assert kept == {"trainings/done/run.json", "trainings/done/result.json", "rows/a.json"}
    found = read_json(tmp_path / "kept" / "trainings" / "done" / "run.json")
    assert found["command"] == "layerticket study run s.toml --out study --data-dir DIR"
    assert found["config"]["ticket"] == "searches/a"


RECORDS = Path(__file__).parents[2] / "studies" / "records"


@pytest.mark.parametrize("study", sorted(path.name for path in RECORDS.iterdir()))
def test_kept_trainings_have_the_names_of_today(study):
    """Else a resumed study trains again what is done."""
    runs = [read_json(path) for path in RECORDS.glob(f"{study}/trainings/*/run.json")]
    assert runs
    networks = {run["identity"]["network"]: run["config"]["model"] for run in runs}
    for known, name in networks.items():
        assert known == architecture_digest(build_model(name, classes=10, channels=3, seed=0))
    for run in runs:
        assert run["name"] == TrainingIdentity(**run["identity"]).name
