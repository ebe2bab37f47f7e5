import base64
import copy
import csv
import gzip
import io
import json
import re
import struct
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerticket.report import draw
from layerticket.report import page as page_module
from layerticket.report.charts import drawings
from layerticket.report.draw import pictures
from layerticket.report.page import Report, write_report
from layerticket.report.tables import Study
from made_study import METHODS, analysed, make_study


class Reader(HTMLParser):
    """Text people see, elements in use, and whether every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.prose, self.addresses, self.links = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "action") if name in given]
        if tag == "a":
            self.links.append(given["href"])
        if tag not in ("meta", "link", "rect", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)
            if not {"pre", "code"} & set(self.open):
                self.prose.append(data)


def read(folder):
    reader = Reader()
    reader.feed((folder / "report.html").read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    reader.seen = " ".join(" ".join(reader.text).replace("\u00a0", " ").split())
    return reader


def write(folder, study, **how):
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return write_report(folder, **how)


@pytest.fixture(scope="module")
def study():
    return make_study(seeds=2, failed=1)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    pytest.importorskip("vl_convert")
    folder = tmp_path_factory.mktemp("report")
    return folder, write(folder, study, out=folder / "out")


@pytest.fixture(scope="module")
def light_page():
    """Leave the drawing code out of pages that no browser opens: 0.3 MB less to write and read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "library", lambda: draw.packed("let a = '</script>';"))
        yield


def data_of(page):
    """What the charts and tables of a page are made of."""
    packed = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_a_report_is_a_page_a_text_tables_and_figures(written):
    folder, found = written
    out = folder / "out"
    names = [path.relative_to(out).as_posix() for path in found.files]
    assert names[:2] == ["report.html", "report.md"]
    assert found.page == out / "report.html"
    assert {"tables/comparisons.csv", "tables/runs.csv", "tables/baselines.csv"} <= set(names)
    assert "figures/comparisons.svg" in names
    assert len(names) == len(set(names))
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(found.files)


def test_figures_are_pictures(written):
    figures = written[0] / "out" / "figures"
    pngs = sorted(figures.glob("*.png"))
    assert len(pngs) == len(list(figures.glob("*.svg"))) == 9
    for png in pngs:
        content = png.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width > 700
        assert height > 300
        assert ET.parse(png.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_the_first_screen_answers_the_three_questions(written, study):
    seen = read(written[0] / "out").seen
    first = seen[: seen.index("Difference to the dense network")]
    assert study["verdict"].replace("-", "−") in first.replace("-", "−")
    for question in ("Did it win?", "What did it save?", "Can I trust it?"):
        assert question in first
    assert "34.0 % less" in first
    assert "random blocks" in first
    assert "1 of 22 runs failed" in first


def test_the_page_names_nothing_outside_itself_and_is_light(written):
    page = read(written[0] / "out")
    loaded = [address for address in page.addresses if address not in page.links]
    assert all(address.startswith("data:") for address in loaded)
    assert not any(":" in address for address in page.links)  # they lead into folders beside it
    text = (written[0] / "out" / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "unsafe-eval" not in text
    assert len(text.encode()) < 1.2e6


def test_charts_are_made_once_and_pictures_only_where_asked_for(study, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(page_module, "drawings", lambda of: made.append("charts") or drawings(of))
    monkeypatch.setattr(draw, "pictures", lambda *_: made.append("pictures") or {})
    write(tmp_path, study, figures=False)
    assert made == ["charts"]


def test_no_backtick_is_left_on_the_page(written, tmp_path):
    assert "`" not in "".join(read(written[0] / "out").prose)
    empty = make_study(seeds=1, energy=False, full=False) | {"comparisons": [], "runs": []}
    write(tmp_path, empty, figures=False)
    assert "`" not in "".join(read(tmp_path).prose)


def test_failed_runs_are_listed_with_their_error(written, study):
    failed = next(run for run in study["runs"] if run["status"] == "failed")
    assert "<nan>" in failed["error"]
    assert failed["error"] in read(written[0] / "out").seen
    assert "## Failed runs" in (written[0] / "out" / "report.md").read_text(encoding="utf-8")


def test_tables_keep_raw_figures(written, study):
    text = (written[0] / "out" / "tables" / "runs.csv").read_text(encoding="utf-8")
    runs = list(csv.DictReader(io.StringIO(text)))
    assert len(runs) == len(study["runs"])
    assert [row["test accuracy"] for row in runs if row["status"] == "failed"] == [""]
    drawn = [run["draw"] for run in study["runs"]]
    assert [row["draw"] for row in runs] == ["" if d is None else str(d) for d in drawn]


def test_the_same_study_gives_the_same_files(written, tmp_path, study):
    again = write(tmp_path, study, figures=False, out=tmp_path / "out")
    assert again.page.read_bytes() == written[1].page.read_bytes()
    chart = drawings(Study.from_record(study))[0]
    for kind, content in pictures(chart.spec, chart.title).items():
        assert content == (written[0] / "out" / "figures" / f"{chart.name}.{kind}").read_bytes()


def test_the_study_is_left_as_it_was(tmp_path, light_page):
    record = make_study(seeds=1)
    before = copy.deepcopy(record)
    made = Study.from_record(record)
    drawings(made)
    assert record == before
    write(tmp_path, record, figures=False)
    assert json.loads((tmp_path / "study.json").read_text()) == before


def test_every_run_links_to_its_folder_wherever_the_page_is(written, study, tmp_path, light_page):
    folders = [quote(run["folder"]) for run in study["runs"]]
    assert {f"../{one}" for one in folders} <= set(read(written[0] / "out").links)
    write(tmp_path, study, figures=False)
    assert {f"./{one}" for one in folders} <= set(read(tmp_path).links)


def test_a_folder_of_any_name_is_an_address(tmp_path, light_page):
    record = make_study(seeds=1)
    record["runs"][0]["folder"] = "javascript:alert(1)//<b> ü"
    write(tmp_path, record, figures=False)
    assert "./javascript%3Aalert%281%29//%3Cb%3E%20%C3%BC" in read(tmp_path).links


def test_figures_are_sorted_by_their_raw_value(tmp_path, light_page):
    record = make_study(seeds=1)
    write(tmp_path, record, figures=False)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    seconds = record["runs"][0]["train_seconds"]
    assert f'data-v="{seconds:.6g}"' in page  # shown in minutes


def test_the_page_holds_the_raw_figures_of_every_table(written):
    out = written[0] / "out"
    tables = data_of((out / "report.html").read_text(encoding="utf-8"))["tables"]
    files = {path.stem: path.read_text(encoding="utf-8") for path in (out / "tables").iterdir()}
    assert tables == files


def test_accuracies_on_other_images_stand_in_the_text(written):
    text = (written[0] / "out" / "report.md").read_text(encoding="utf-8")
    robustness = text[text.index("## Robustness") : text.index("## Similarity")]
    assert "| CIFAR-10-C | dense | 2 | " in robustness
    assert "| images | set | test images | " in robustness


def test_several_networks_have_one_overview(tmp_path, light_page):
    models = ("resnet20", "resnet32-projection")
    record = make_study(seeds=2, models=models, removals=(1, 2), full=False)
    write(tmp_path, record, figures=False)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tables" / "overview.csv").read_text())))
    assert [row["method"] for row in rows] == ["dense", *(name for name, *_ in METHODS)]
    one = next(one for one in record["comparisons"] if one["method"] == "snip")
    shown = next(row for row in rows if row["method"] == "snip")
    assert float(shown["resnet20, remove 1 difference"]) == one["difference"]["mean"]
    assert shown["resnet20, remove 1 outcome"] == one["outcome_adjusted"]
    assert rows[0]["resnet20, remove 1 outcome"] == ""
    assert "All networks and methods" in read(tmp_path).seen
    write(tmp_path, make_study(seeds=2, full=False), figures=False)
    assert "All networks and methods" not in read(tmp_path).seen


def test_what_all_runs_share_is_told_once(tmp_path, light_page):
    record = make_study(seeds=2)
    write(tmp_path, record, figures=False)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("&#34;learning_rate&#34;: 0.1") == 1
    record["runs"][0]["config"]["recipe"]["learning_rate"] = 0.2
    write(tmp_path, record, figures=False)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("&#34;learning_rate&#34;: 0.1") == len(record["runs"]) - 1


def test_every_environment_is_listed_with_its_seeds():
    gpu = {"cpu": "Xeon", "gpu": "H200", "python": "3.12.3", "torch": "2.11.0"}
    cpu = {"cpu": "EPYC", "gpu": None, "python": "3.11.7", "torch": "2.15.0"}
    record = make_study(seeds=2)
    one = {"task": "training", "seeds": [0], "runs": 6, "environment": gpu}
    alone = Report.of(Study.from_record(record | {"environments": [one]})).conditions
    assert (alone["cpu"], alone["torch"]) == ("AMD EPYC", "2.15.0")
    assert "training" not in alone
    two = {"task": "training", "seeds": [0, 1], "runs": 1, "environment": cpu}
    both = Report.of(Study.from_record(record | {"environments": [one, two]})).conditions
    assert both["training"] == (
        "6 runs of seed 0 on H200, Xeon, Python 3.12.3, torch 2.11.0; "
        "1 run of seeds 0 and 1 on EPYC, Python 3.11.7, torch 2.15.0"
    )
    assert {"cpu", "torch", "python"}.isdisjoint(both)
    assert both["threads"] == "2"


def test_without_figures_nothing_links_to_them(written, tmp_path, study, light_page):
    write(tmp_path, study, figures=False)
    assert "](figures/" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "figures").exists()
    assert "](figures/" in (written[0] / "out" / "report.md").read_text(encoding="utf-8")


def test_both_intervals_stand_on_the_first_screen(tmp_path, light_page):
    write(tmp_path, make_study(seeds=5, images=1000), figures=False)
    seen = read(tmp_path).seen
    assert "holds for new seeds and new images (1,000 test images)" in seen
    assert "over seeds alone: " in seen
    write(tmp_path, make_study(seeds=5), figures=False)
    assert "holds for these test images only" in read(tmp_path).seen


def test_the_same_network_is_told_where_it_holds(tmp_path, light_page):
    record = make_study(seeds=3, methods=METHODS[:1])
    dense = next(run for run in record["runs"] if run["kind"] == "dense")
    ticket = next(run for run in record["runs"] if run["kind"] == "ticket")
    ticket |= {"training": dense["training"], "test_accuracy": dense["test_accuracy"]}
    write(tmp_path, record | analysed(record), figures=False)
    assert "the same network as dense in 1 of 3 seeds" in read(tmp_path).seen
    assert "the same network as dense in 1 of 3 seeds" in (tmp_path / "report.md").read_text()


def test_what_was_not_measured_is_said(tmp_path, light_page):
    write(tmp_path, make_study(seeds=1, energy=False, full=False), figures=False)
    seen = read(tmp_path).seen
    assert "energy not measured carbon not measured" in seen
    assert "Energy and carbon were not measured" in seen
    assert "Similarity was not measured" in seen
    assert "no evaluations other than clean test images" in seen
    assert "one seed has no interval" in seen
    assert "1 paired seed " in seen
    assert not list(tmp_path.rglob("*similarity*"))


def test_several_networks_and_budgets_get_charts_of_their_own(tmp_path, light_page):
    models = ("resnet20", "resnet32-projection")
    record = make_study(seeds=2, models=models, removals=(1, 2), full=False)
    write(tmp_path, record, figures=False)
    names = {path.stem for path in (tmp_path / "tables").iterdir()}
    assert {f"blocks-{model}-remove-{count}" for model in models for count in (1, 2)} <= names
    seen = read(tmp_path).seen
    assert "grasp, remove 1, resnet20 — " in seen
    assert "first planned of 8, not the best" in seen


def test_a_study_without_runs_still_has_a_report(tmp_path):
    record = make_study(seeds=1)
    record |= {"runs": [], "comparisons": [], "verdict": None}
    assert len(write(tmp_path, record).files) == 3
    seen = read(tmp_path).seen
    assert "There is no ticket to judge yet" in seen
    assert "No verdict yet" in seen


def test_nothing_is_written_for_what_is_no_study(tmp_path):
    with pytest.raises(ValueError, match="schema 7"):
        write(tmp_path, make_study(seeds=1) | {"schema": 7})
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


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
                known = (
                    "id",
                    "model",
                    "budget",
                    "method",
                    "kind",
                    "draw",
                    "seed",
                    "status",
                    "role",
                    "repeat",
                )
                run |= {key: None for key in run if key not in known}
                run |= {"removed": [], "kept": [], "curve": [], "evaluations": {}}
    unjudged = {"comparisons": [], "verdict": None}
    return study | (analysed(study) if draw(st.integers(0, 5)) else unjudged)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(study=studies())
def test_any_study_renders_and_its_words_stay_words(study, tmp_path, light_page):
    write(tmp_path, study, figures=False)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    reader = read(tmp_path)
    assert page.count("<script") == page.count("</script>") == 3
    assert "<b>&amp;" not in page
    data = data_of(page)
    assert data["charts"].keys() >= set(re.findall(r'data-figure="([^"]*)"', page))
    drawn = {p.get("method") for one in data["charts"].values() for p in one["data"]["values"]}
    assert set(data["methods"]) == drawn - {None}  # all of them hidden: all are shown again
    if study["title"] == NASTY:
        assert "<script>alert('x')</script><b>&amp; $x$" in reader.seen


def test_figures_draw_any_letters():
    pytest.importorskip("vl_convert")
    label = NASTY + "日本"
    record = make_study(seeds=2, models=("resnet20",), methods=((label, "ticket", -0.1, 0),))
    chart = drawings(Study.from_record(record))[0]
    text = " ".join(ET.fromstring(pictures(chart.spec, chart.title)["svg"]).itertext())
    assert "<script>alert('x')</script>" in text
