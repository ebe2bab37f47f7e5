import copy
import csv
import io
import json
import re
import struct
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerticket.errors import LayerticketError
from layerticket.report.charts import charts_of
from layerticket.report.draw import pictures
from layerticket.report.page import clean, write_report
from made_study import METHODS, make_study
from made_study import analysed as analyse


class Reader(HTMLParser):
    """Text people see, elements in use, and whether every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags, self.addresses = [], [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "action") if name in given]
        if tag not in ("meta", "link", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    reader.seen = " ".join(" ".join(reader.text).replace("\u00a0", " ").split())
    return reader


@pytest.fixture(scope="module")
def study():
    return make_study(seeds=2, failed=1)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return out, write_report(study, out)


def test_a_report_is_a_page_a_text_tables_and_figures(written):
    out, files = written
    names = [path.relative_to(out).as_posix() for path in files]
    assert names[:2] == ["report.html", "report.md"]
    assert {"tables/comparisons.csv", "tables/runs.csv", "tables/rivals.csv"} <= set(names)
    assert "figures/comparisons.svg" in names
    assert len(names) == len(set(names))
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(files)


def test_figures_are_pictures(written):
    out, _ = written
    pngs = sorted((out / "figures").glob("*.png"))
    assert len(pngs) == len(list((out / "figures").glob("*.svg"))) >= 8
    for png in pngs:
        content = png.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width > 1000
        assert height > 300
        assert ET.parse(png.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_the_first_screen_answers_the_three_questions(written, study):
    seen = read(written[0] / "report.html").seen
    first = seen[: seen.index("Difference to the dense network")]
    assert study["verdict"].replace("-0", "−0") in first.replace("-0", "−0")
    for question in ("Did it win?", "What did it save?", "Can I trust it?"):
        assert question in first
    assert "34.0 % less" in first
    assert "random blocks" in first
    assert "1 of 22 runs failed" in first


def test_the_page_names_nothing_outside_itself(written):
    page = read(written[0] / "report.html")
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "default-src 'none'" in (written[0] / "report.html").read_text(encoding="utf-8")


def test_failed_runs_are_told_with_their_error(written, study):
    failed = next(run for run in study["runs"] if run["status"] == "failed")
    assert "<nan>" in failed["error"]
    assert failed["error"] in read(written[0] / "report.html").seen
    assert "## Failed runs" in (written[0] / "report.md").read_text(encoding="utf-8")


def test_tables_keep_raw_figures(written, study):
    text = (written[0] / "tables" / "comparisons.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["method"] for row in rows] == [one["method"] for one in study["comparisons"]]
    first, known = rows[1], study["comparisons"][1]
    assert float(first["difference to dense mean"]) == known["difference"]["mean"]
    assert float(first["speed, search and training low"]) == known["speedup"]["low"]
    runs = list(csv.DictReader(io.StringIO(
        (written[0] / "tables" / "runs.csv").read_text(encoding="utf-8"))))  # fmt: skip
    assert len(runs) == len(study["runs"])
    assert [row["test accuracy"] for row in runs if row["status"] == "failed"] == [""]


def test_the_same_study_gives_the_same_files(written, tmp_path):
    study = make_study(seeds=2, failed=1)
    again = write_report(study, tmp_path, figures=False)
    assert again[0].read_bytes() == written[1][0].read_bytes()
    chart = charts_of(study)["differences"][0]
    for kind, content in pictures(chart).items():  # no date in it and no random name
        assert content == (written[0] / "figures" / f"{chart.name}.{kind}").read_bytes()


def test_the_study_is_left_as_it_was(tmp_path, light_page):
    study = make_study(seeds=1)
    before = copy.deepcopy(study)
    write_report(study, tmp_path, figures=False)
    assert study == before


def test_without_figures_nothing_links_to_them(written, tmp_path, study, light_page):
    write_report(study, tmp_path, figures=False)
    assert "](figures/" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "](figures/" in (written[0] / "report.md").read_text(encoding="utf-8")


def test_the_table_has_the_reach_and_what_failed(study):
    grid = charts_of(make_study(methods=METHODS[:1], full=False))["differences"][0].table
    titles = [column.title for column in grid.columns]
    row = dict(zip(titles, grid.rows[0], strict=True))
    assert row["minimum detectable"] > 0
    broken = charts_of(study)["differences"][0].table
    assert broken.rows[0][titles.index("failed seeds")] == "0"


def test_how_many_trainings_ran_side_by_side_is_said(study):
    caption = charts_of(study)["cost"][0].caption
    assert "was not recorded" in caption
    known = study | {"environment": {"workers": 3, "threads": 2}}
    caption = charts_of(known)["cost"][0].caption
    assert "3 workers of 2 threads each, side by side" in caption


def test_what_was_not_measured_is_said(tmp_path):
    study = make_study(seeds=1, energy=False, full=False)
    write_report(study, tmp_path, figures=False)
    seen = read(tmp_path / "report.html").seen
    assert "energy not measured carbon not measured" in seen
    assert "Energy and carbon were not measured" in seen
    assert "Similarity was not measured" in seen
    assert "evaluated on clean test images only" in seen
    assert "one seed has no interval" in seen
    assert not list(tmp_path.rglob("*similarity*"))


def test_several_networks_and_budgets_get_charts_of_their_own(tmp_path):
    models = ("resnet20", "resnet32-projection")
    study = make_study(seeds=2, models=models, removals=(1, 2), full=False)
    write_report(study, tmp_path, figures=False)
    names = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert {f"blocks-{model}-remove-{count}" for model in models for count in (1, 2)} <= names
    seen = read(tmp_path / "report.html").seen
    assert "grasp, remove 1, resnet20 — " in seen
    assert "first planned of 8, not the best" in seen


def test_a_study_without_runs_still_has_a_report(tmp_path):
    study = make_study(seeds=1)
    study |= {"runs": [], "comparisons": [], "verdict": "No verdict: the study has no tickets."}
    assert len(write_report(study, tmp_path)) == 3
    assert "There is no ticket to judge yet" in read(tmp_path / "report.html").seen


@pytest.mark.parametrize(
    ("change", "match"),
    [({"schema": 2}, "schema 2, but schema 1"), ({"runs": None}, "lacks 'runs'")],
)
def test_what_is_no_study_is_refused(change, match, tmp_path):
    study = make_study(seeds=1) | change
    study = {key: value for key, value in study.items() if value is not None}
    with pytest.raises(LayerticketError, match=match):
        write_report(study, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(LayerticketError, match=re.escape('pip install "layerticket[report]"')):
        write_report(make_study(seeds=1), tmp_path)


# Whatever a study holds, its report renders and its words stay words.

NASTY = "<script>alert('x')</script><b>&amp; $x$ | `y` {{ 7 * 7 }} </script> @blue\u2028\x00"
FIGURE = st.none() | st.floats(0.001, 1e6)
FRACTION = st.none() | st.floats(0, 1)


@st.composite
def studies(draw):
    seeds = draw(st.integers(1, 3))
    label = draw(st.text(max_size=12) | st.just(NASTY))
    study = make_study(
        seeds=seeds,
        models=("resnet20",),
        removals=(2,),
        methods=(
            (label or "x", draw(st.sampled_from(["ticket", "lottery"])), -0.1, 0),
            ("random blocks", "control", -0.1, draw(st.integers(1, 2))),
            ("weights snip", "weights", -0.1, 0),
        ),
        title=draw(st.text(max_size=12) | st.just(NASTY)),
    )
    for run in study["runs"]:
        if draw(st.booleans()):
            run["status"] = draw(st.sampled_from(["done", "failed", "running", "waiting"]))
            run["error"] = draw(st.none() | st.text(max_size=12) | st.just(NASTY))
            run["test_accuracy"] = draw(FRACTION)
            run["train_seconds"] = draw(FIGURE)
            run["energy_kwh"] = draw(FIGURE)
            run["macs"] = draw(st.none() | st.integers(0, 10**10))
            run["scores"] = draw(
                st.none() | st.dictionaries(st.text(max_size=5), st.floats(-1e30, 1e30), max_size=3)
            )
            run["similarity"] = draw(st.none() | st.just({"layers": {}, "mean": None}))
            run["curve"] = draw(st.just([]) | st.just([{"epoch": 1, "train_loss": None}]))
            run["evaluations"] = draw(st.just({}) | st.just({NASTY: {"accuracy": None}}))
            if run["status"] in ("running", "waiting"):  # nothing is known of it yet
                known = ("id", "model", "budget", "method", "kind", "draw", "seed", "status")
                run |= {key: None for key in run if key not in known}
                run |= {"removed": [], "kept": [], "curve": [], "evaluations": {}}
    unjudged = {"comparisons": [], "verdict": None}
    return study | (analyse(study) if draw(st.integers(0, 5)) else unjudged)


@pytest.fixture(scope="module")
def light_page():
    """Leave plotly.js out of pages that no browser opens: 5 MB less to write and to read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "let plotly = '</script>';")
        yield


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(study=studies())
def test_any_study_renders_and_its_words_stay_words(study, tmp_path, light_page):
    write_report(study, tmp_path, figures=False)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    reader = read(tmp_path / "report.html")
    assert page.count("<script") == page.count("</script>") == 3
    assert "<b>&amp;" not in page
    drawings = re.search(r'<script id="drawings"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert isinstance(json.loads(drawings[1]), dict)
    if study["title"] == NASTY:
        assert "<script>alert('x')</script><b>&amp; $x$" in reader.seen


def test_figures_draw_any_letters():
    label = NASTY + "日本"
    study = clean(make_study(seeds=2, models=("resnet20",), methods=((label, "ticket", -0.1, 0),)))
    chart = charts_of(study)["differences"][0]
    text = " ".join(ET.fromstring(pictures(chart)["svg"]).itertext())
    assert "<script>alert('x')</script><b>&amp; $x$ | `y`" in text
