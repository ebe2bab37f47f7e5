import json
import re
from importlib.resources import files

import pytest

from layerticket.report.charts import COLOURS, charts_of, looks, slug
from layerticket.report.draw import drawing
from made_study import make_study


@pytest.fixture(scope="module")
def charts():
    study = make_study(models=("resnet20", "resnet32-projection"), removals=(1, 2))
    return {chart.name: chart for charts in charts_of(study).values() for chart in charts}


def test_plotly_knows_every_field(charts):
    # The peer that validates each name and value of a figure.
    graph = pytest.importorskip("plotly.graph_objects")
    for chart in charts.values():
        text = json.dumps(drawing(chart), allow_nan=False)
        for name in (*COLOURS, "paper", "line", "grid", "strong", "soft", "low", "high", "empty"):
            text = text.replace(f'"@{name}"', '"#123456"')
        text = text.replace('"@mark"', '"#123456"').replace('"inherit"', '"serif"')
        graph.Figure(json.loads(text))


def test_every_chart_has_a_name_of_its_own_that_files_take(charts):
    assert len(charts) == 1 + 2 + 4 * 6
    assert all(name == slug(name) == chart.table.name for name, chart in charts.items())


def test_intervals_are_those_of_the_comparison():
    study = make_study()
    chart = charts_of(study)["differences"][0]
    found = study["comparisons"][0]["difference"]
    assert chart.series[0].x == [100 * found["mean"]]
    assert chart.series[0].x_ends == [(100 * found["low"], 100 * found["high"])]
    bars = drawing(chart)["data"][0]["error_x"]
    assert bars["arrayminus"] == pytest.approx([100 * (found["mean"] - found["low"])])
    assert [guide.at for guide in chart.guides] == [0.0, -1.0]


def test_strips_mark_what_was_removed_and_rank_scores():
    study = make_study()
    strips = charts_of(study)["blocks"][0]
    run = next(run for run in study["runs"] if run["method"] == "grasp")
    marked = [name for name, mark in zip(strips.columns, strips.marks[0], strict=True) if mark]
    assert marked == sorted(run["removed"], key=strips.columns.index)
    lowest = min(run["scores"], key=run["scores"].get)
    assert strips.values[0][strips.columns.index(lowest)] == 0
    assert strips.rows[:2] == ["grasp · seed 0", "grasp · seed 1"]
    assert [strips.columns[int(at + 0.5)] for at in strips.breaks] == ["layer2.1", "layer3.1"]


def test_masked_weights_stand_at_the_cost_of_dense():
    chart = charts_of(make_study())["accuracy"][0]
    at = {row[0]: row[2] for row in chart.table.rows}
    assert at["weights snip"] == at["dense"] > at["grasp"]


def test_points_of_equal_cost_do_not_hide_each_other():
    chart = charts_of(make_study())["accuracy"][0]
    places = [x for series in chart.series for x in series.x]
    assert len(set(places)) == len(places)
    true = {row[0]: row[2] / 1e6 for row in chart.table.rows}
    assert all(abs(s.x[0] - true[s.label]) < 0.03 * true["dense"] for s in chart.series)


def test_methods_differ_in_colour_or_shape():
    comparisons = make_study()["comparisons"]
    found = looks(comparisons)
    assert len({(look.colour, look.marker) for look in found.values()}) == len(found) == 8
    assert {look.colour for look in found.values()} <= COLOURS.keys()


def contrast(one, other):
    """WCAG 2 contrast of two colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        lin = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes():
    text = (files("layerticket.report") / "assets" / "style.css").read_text()
    blocks = re.findall(r":root(?:\[[^\]]*\])? \{(.*?)\n\}", text, flags=re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_both_themes_can_be_read(theme):
    for text in ("ink", "soft", "accent", "strong"):
        assert contrast(theme[text], theme["paper"]) >= 4.5, text
        assert contrast(theme[text], theme["page"]) >= 4.5, text
    for text in ("win", "lose", "open"):
        assert contrast(theme[text], theme[f"{text}-back"]) >= 4.5, text
    assert contrast(theme["mark"], theme["high"]) >= 3
    assert contrast(theme["ink"], theme["high"]) >= 4.5
    for colour in COLOURS:
        assert contrast(theme[colour], theme["paper"]) >= 2.8, colour
