import json
import os

import pytest

from layerticket.cli.app import main
from layerticket.report.tables import Study
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


def test_numbers_from_elsewhere_have_a_page(tmp_path, capsys):
    path = tmp_path / "results.csv"
    lines = [f"{m},{s},{0.9 + 0.001 * s},x" for m in ("dense", "grasp") for s in range(3)]
    path.write_text("\n".join(["method,seed,accuracy,note", *lines]))
    assert main(["report", str(path), "--no-figures", "--margin", "0.02", "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["report"] == str(tmp_path / "results" / "report.html")
    assert "wins" in record["verdict"]
    assert "at 2 pp" in record["verdict"]
    assert "unknown columns, shown unchanged: note" in shown.err


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--margin", "0.02"], "--margin is for CSV files"),
        (["r.csv", "--watch"], "--watch needs the folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, match, folder, capsys):
    given = options if options[0] == "r.csv" else [str(folder), *options]
    assert main(["report", *given]) == 2
    assert match in capsys.readouterr().err


def test_a_record_makes_the_page_of_its_study(folder, tmp_path, capsys):
    copy = tmp_path / "mine.json"
    copy.write_bytes((folder / "study.json").read_bytes())
    assert main(["report", str(copy), "--no-figures"]) == 0
    assert main(["report", str(folder), "--no-figures"]) == 0
    pages = [(where / "report.md").read_text() for where in (tmp_path / "mine", folder)]
    assert pages[0] == pages[1]
    assert main(["report", str(copy), "--watch"]) == 2
    assert main(["report", str(copy), "--margin", "0.02"]) == 2


def test_a_watched_page_is_read_again_until_the_study_is_done(folder, capsys, monkeypatch):
    path = folder / "study.json"
    done = json.loads(path.read_text())
    open_ = json.loads(path.read_text())
    open_["runs"][1] |= {"status": "running", "test_accuracy": None, "curve": []}
    path.write_text(json.dumps(open_))
    pages = []

    def sleep(_):
        pages.append((folder / "report.html").read_text(encoding="utf-8"))
        if len(pages) == 2:
            path.write_text(json.dumps(done))

    monkeypatch.setattr("layerticket.cli.report.time.sleep", sleep)
    assert main(["report", str(folder), "--watch", "--no-figures"]) == 0
    assert len(pages) == 2
    assert '<meta http-equiv="refresh" content="10">' in pages[0]
    assert "still running" in pages[0]
    last = (folder / "report.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in last
    assert "1 of 2 runs left" in capsys.readouterr().err


def test_a_version_written_while_the_last_was_read_is_drawn(folder, capsys, monkeypatch):
    path = folder / "study.json"
    done = json.loads(path.read_text())
    undone = {"status": "running", "test_accuracy": None, "curve": []}

    def write(left, seconds):
        runs = [run | undone if i < left else run for i, run in enumerate(done["runs"])]
        path.write_text(json.dumps(done | {"runs": runs}))
        os.utime(path, (seconds, seconds))

    def read_and_replace(at, read=Study.read):
        study = read(at)
        if path.stat().st_mtime == 1:
            write(1, 2)
        return study

    polls = []

    def sleep(_):
        polls.append(None)
        if len(polls) == 2:
            write(0, 3)

    write(2, 1)
    monkeypatch.setattr(Study, "read", read_and_replace)
    monkeypatch.setattr("layerticket.cli.report.time.sleep", sleep)
    assert main(["report", str(folder), "--watch", "--no-figures"]) == 0
    err = capsys.readouterr().err
    assert "2 of 2 runs left" in err
    assert "1 of 2 runs left" in err


def test_a_watch_that_is_cut_off_leaves_a_page_that_stays(folder, monkeypatch):
    path = folder / "study.json"
    open_ = json.loads(path.read_text())
    open_["runs"][1] |= {"status": "running", "test_accuracy": None, "curve": []}
    path.write_text(json.dumps(open_))

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("layerticket.cli.report.time.sleep", interrupt)
    assert main(["report", str(folder), "--watch"]) == 130
    assert 'http-equiv="refresh"' not in (folder / "report.html").read_text(encoding="utf-8")
