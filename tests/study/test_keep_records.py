"""Kept records let a study go on without weights."""

import sys
from pathlib import Path

from layerticket.files import read_json, write_json

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
