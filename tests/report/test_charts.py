import hashlib
import json
import re
import xml.etree.ElementTree as ET

import pytest

from layerticket.errors import LayerticketError
from layerticket.report import draw
from layerticket.report.charts import CHARTS, drawings, slug
from layerticket.report.draw import SHAPES, THEMES, config, pictures
from layerticket.report.tables import Study
from made_study import METHODS, analysed, make_study, with_every_block_alone


def study(**how):
    return Study.from_record(make_study(**how))


@pytest.fixture(scope="module")
def drawn():
    made = make_study(models=("resnet20", "resnet32-projection"), removals=(1, 2))
    whole = Study.from_record(with_every_block_alone(made))
    return {one.name: one for one in drawings(whole)}


def points(drawing):
    return drawing.spec["data"]["values"]


def of(section, whole):
    return next(one for one in drawings(whole) if one.section == section)


def test_every_chart_of_the_list_is_drawn_and_vega_lite_takes_it(drawn):
    convert = pytest.importorskip("vl_convert")
    assert {one.name.split("-resnet")[0] for one in drawn.values()} == {
        slug(chart.name) for chart in CHARTS
    }
    for one in drawn.values():
        made = convert.vegalite_to_vega(
            json.dumps(one.spec, allow_nan=False), config=config("dark")
        )
        assert made["marks"], one.name


def test_every_chart_has_a_name_of_its_own_that_files_take(drawn):
    assert len(drawn) == 2 + 2 * 2 + 4 * 7
    assert all(name == slug(name) for name in drawn)
    assert all(one.caption for one in drawn.values())


def test_every_dot_can_be_hovered(drawn):
    for one in drawn.values():
        told = [point for point in points(one) if "run" not in point]  # thin lines have no dots
        assert told
        assert all(point["hover"] for point in told), one.name


def test_every_run_has_a_line_of_its_own():
    record = make_study(seeds=3)
    chart = of("curves", Study.from_record(record))
    single = [point for point in points(chart) if "run" in point]
    assert len({point["run"] for point in single}) == len(record["runs"])
    mine = [p for p in single if p["run"] == "random blocks 2, seed 1"]
    run = next(r for r in record["runs"] if (r["method"], r["draw"], r["seed"])
               == ("random blocks", 2, 1))  # fmt: skip
    accuracies = [100 * point["validation_accuracy"] for point in run["curve"]]
    assert [point["value"] for point in mine] == pytest.approx(accuracies, rel=1e-5)
    low, high = chart.spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low <= min(p["value"] for p in single) <= max(p["value"] for p in single) <= high


def test_long_trainings_are_drawn_with_fewer_points_and_the_last_epoch():
    record = make_study(seeds=1, methods=METHODS[:1])
    for run in record["runs"]:
        curve = run["curve"][0]
        run["curve"] = [curve | {"epoch": epoch} for epoch in range(1, 301)]
    chart = of("curves", Study.from_record(record))
    epochs = sorted({point["epoch"] for point in points(chart)})
    assert len(epochs) <= 60
    assert epochs[-1] == 300
    assert len(chart.table.rows) == 300


def test_seed_by_seed_shows_the_paired_differences():
    whole = study(seeds=4)
    chart = next(one for one in drawings(whole) if one.title.startswith("Seed by seed"))
    mine = [point for point in points(chart) if point["method"] == "random blocks"]
    assert [point["seed"] for point in mine] == [0, 1, 2, 3]
    mean = sum(point["difference"] for point in mine) / 4
    known = next(one for one in whole.comparisons if one.method == "random blocks")
    assert mean == pytest.approx(100 * known.difference.mean, rel=1e-4)


def test_intervals_are_those_of_the_comparison():
    whole = study(images=1000)
    point = points(of("differences", whole))[0]
    found = whole.comparisons[0].difference
    assert point["mean"] == pytest.approx(100 * found.mean, rel=1e-5)
    assert point["low"] == pytest.approx(100 * found.low, rel=1e-5)
    assert point["seeds_high"] == pytest.approx(100 * found.seeds_high, rel=1e-5)
    guides = [layer for layer in of("differences", whole).spec["layer"] if "data" in layer]
    assert [guide["data"]["values"][0]["at"] for guide in guides] == [0.0, -1.0]


def test_no_axis_leaves_what_is_possible():
    record = make_study(seeds=2, methods=METHODS[:1])
    for run in record["runs"]:
        run["test_accuracy"] = {0: 0.99, 1: 0.70}[run["seed"]] + (run["kind"] == "ticket") * (
            0.01 if run["seed"] else -0.16
        )
    whole = Study.from_record(record | analysed(record))
    assert whole.comparisons[0].difference.low < -0.9  # two seeds: a wide interval
    (point,) = points(of("differences", whole))
    dense = 100 * whole.comparisons[0].dense_accuracy["mean"]
    assert point["low"] == pytest.approx(-dense, rel=1e-5)
    assert point["high"] == pytest.approx(100 - dense, rel=1e-5)
    assert point["low_cut"]
    assert point["high_cut"]
    for section, axis, least, most in (
        ("differences", "x", -dense, 100 - dense),
        ("accuracy", "y", 0, 100),
        ("curves", "y", 0, 100),
        ("robustness", "x", -100, 100),
    ):
        for layer in of(section, whole).spec["layer"]:
            low, high = layer["encoding"][axis].get("scale", {}).get("domain", (least, most))
            assert least - 1e-9 <= low <= high <= most + 1e-9
    for one in points(of("accuracy", whole)):
        assert 0 <= one["low"] <= one["high"] <= 100
    assert points(of("accuracy", whole))[1]["high_cut"]


def test_epochs_are_whole_numbers(drawn):
    axes = [
        layer["encoding"]["x"]["axis"]
        for one in drawn.values()
        if one.section == "curves"
        for layer in one.spec.get("layer", ())
    ]
    assert axes
    assert all(axis["values"] == [5, 10, 15, 20, 25, 30] for axis in axes)
    record = make_study(seeds=1, methods=METHODS[:1])
    for run in record["runs"]:
        run["curve"] = run["curve"][:3]
    layers = of("curves", Study.from_record(record)).spec["layer"]
    assert layers[0]["encoding"]["x"]["axis"]["values"] == [1, 2, 3]


def test_strips_mark_what_was_removed_and_rank_scores():
    whole = study()
    strips = of("blocks", whole)
    row = next(row for row in whole.rows if row.method == "grasp")
    mine = [point for point in points(strips) if point["row"] == "grasp · seed 0"]
    assert {point["block"] for point in mine if point["removed"] == "removed"} == set(row.removed)
    lowest = min(row.scores, key=row.scores.get)
    assert next(point["rank"] for point in mine if point["block"] == lowest) == 0
    edges = next(layer for layer in strips.spec["layer"] if "edge" in str(layer["mark"]))
    assert [one["block"] for one in edges["data"]["values"]] == ["layer2.1", "layer3.1"]


def test_points_of_equal_cost_do_not_hide_each_other():
    chart = of("accuracy", study())
    places = [point["macs"] for point in points(chart)]
    assert len(set(places)) == len(places)
    true = {row[0]: row[2] / 1e6 for row in chart.table.rows}
    for point in points(chart):
        assert abs(point["macs"] - true[point["method"]]) < 0.06 * true["dense"]


def test_a_method_looks_the_same_in_every_chart(drawn):
    domains = {
        tuple(layer["encoding"]["color"]["scale"]["domain"])
        for one in drawn.values()
        for layer in one.spec.get("layer", ())
        if layer.get("encoding", {}).get("color", {}).get("field") == "method"
    }
    assert len(domains) == 1
    assert next(iter(domains))[0] == "dense"
    shapes = [SHAPES.get(label, SHAPES.get(kind)) for label, kind, *_ in METHODS]
    assert len(set(zip(config("light")["range"]["category"], shapes, strict=False))) == len(shapes)


def test_every_chart_says_of_which_method_its_points_are(drawn):
    for one in drawn.values():  # so that a page can hide it
        of = {point.get("method") for point in points(one)} - {None}
        assert of, one.name


def test_how_many_trainings_ran_side_by_side_is_said():
    record = make_study(methods=METHODS[:1])
    assert (
        "One training ran at a time, with 2 threads."
        in of("cost", Study.from_record(record)).caption
    )
    for run in record["runs"]:
        run["jobs_beside"] = 2
    record["environment"] |= {"workers": 3}
    assert (
        "3 parallel workers, with 2 threads each." in of("cost", Study.from_record(record)).caption
    )
    for run in record["runs"]:
        run["jobs_beside"] = None
    record["environment"]["workers"] = None
    assert "was not recorded" in of("cost", Study.from_record(record)).caption


def test_layers_stand_in_order_of_depth():
    record = make_study(seeds=2, methods=METHODS[:2])
    blocks = [block["name"] for block in record["networks"]["resnet32-projection"]["blocks"]]
    layers = ["stem", "layer1.0", "a block that stays", *blocks[1:], "head"]
    tickets = [run for run in record["runs"] if run["similarity"]]
    for run in tickets:
        mine = [name for name in layers if name not in run["removed"]]
        run["similarity"]["layers"] = dict.fromkeys(mine, 0.9)
    chart = of("similarity", Study.from_record(record))
    everywhere = set.intersection(*(set(run["removed"]) for run in tickets))
    left = [name for name in layers if name not in everywhere]
    assert "layer1.0" in tickets[0]["removed"]  # the first row lacks what comes early
    assert chart.spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == left


# How charts are drawn.


def test_no_name_of_a_legend_leaves_the_picture():
    pytest.importorskip("vl_convert")
    many = tuple((f"method of a long name, {n}", "control", -0.1, 0) for n in range(9))
    chart = of("accuracy", study(seeds=2, methods=many))
    drawn = ET.fromstring(pictures(chart.spec, chart.title)["svg"])
    assert float(drawn.get("width")) < 700
    spots = re.compile(r"translate\(([\d.]+),([\d.]+)\)")

    def places(part, x):
        x += sum(float(spot[0]) for spot in spots.findall(part.get("transform", "")))
        if part.tag.endswith("text") and (part.text or "").startswith("method of"):
            yield x
        for inner in part:
            yield from places(inner, x)

    found = list(places(drawn, 0.0))
    assert len(found) == len(many)
    assert all(place + 6 * len(many[0][0]) < float(drawn.get("width")) for place in found)


def test_pictures_are_the_same_again_and_need_no_browser():
    pytest.importorskip("vl_convert")
    chart = of("differences", study(seeds=2))
    made = pictures(chart.spec, chart.title)
    assert made["png"].startswith(b"\x89PNG")
    assert made["svg"].startswith(b"<svg")
    assert made == pictures(chart.spec, chart.title)


def test_figures_without_vl_convert_name_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(LayerticketError, match=re.escape('pip install "layerticket[figures]"')):
        pictures({"data": {"values": []}}, "")


def test_the_licences_of_the_shipped_javascript_lie_beside_it():
    text = draw.asset("LICENSES.txt")
    for name in ("vega.min.js", "vega-lite.min.js", "vega-interpreter.min.js"):
        code = hashlib.sha256(draw.asset(name).encode()).hexdigest()
        assert f"{code}  {name}" in text  # the very file that stands there
    assert text.count("Redistribution and use in source and binary forms") >= 2


def contrast(one, other):
    """WCAG 2 contrast of two colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        lin = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_both_themes_can_be_read(theme):
    colours = THEMES[theme]
    for text in ("ink", "soft", "accent", "strong"):
        assert contrast(colours[text], colours["paper"]) >= 4.5, text
        assert contrast(colours[text], colours["page"]) >= 4.5, text
    for text in ("win", "lose", "open"):
        assert contrast(colours[text], colours[f"{text}-back"]) >= 4.5, text
    assert contrast(colours["mark"], colours["high"]) >= 3
    assert contrast(colours["ink"], colours["high"]) >= 4.5
    for colour in ("ink", *draw.METHODS):
        assert contrast(colours[colour], colours["paper"]) >= 2.8, colour
    assert colours.keys() == THEMES["light"].keys()
