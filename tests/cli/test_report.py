import json

import pytest

from layerticket.cli.app import main
from made_study import make_study


@pytest.fixture
def folder(tmp_path):
    study = make_study(
        seeds=1, models=("resnet20",), methods=(("grasp", "ticket", -0.1, 0),), full=False
    )
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return tmp_path / "study"


def test_report_writes_beside_the_study_and_prints_one_object(folder, capsys):
    assert main(["report", str(folder), "--no-figures", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["report"] == str(folder / "report.html")
    assert record["verdict"]
    assert all((folder / path).is_file() for path in record["files"])


def test_report_goes_elsewhere_if_asked(folder, tmp_path, capsys):
    assert main(["report", str(folder), "--out", str(tmp_path / "paper")]) == 0
    assert (tmp_path / "paper" / "figures" / "comparisons.png").is_file()
    assert [path.name for path in folder.iterdir()] == ["study.json"]
    assert "report.html" in capsys.readouterr().out


def test_a_folder_without_a_study_is_bad_input(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "study.json" in capsys.readouterr().err
