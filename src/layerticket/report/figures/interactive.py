"""A chart as the JSON that plotly.js draws. Enters: a chart. Leaves: a dict of data and layout.

Colours stay names with an @ in front ("@blue"); the page looks them up in its own style sheet, so
that light, dark and paper need no second drawing.
"""

import html
from collections.abc import Sequence
from typing import Any

from layerticket.report.figures.chart import Axis, Chart, Guide, HeatMap, Series

__all__ = ["drawing"]

Json = dict[str, Any]


def drawing(chart: Chart | HeatMap) -> Json:
    """Describe a chart to plotly.js.

    Args:
        chart: What is drawn.

    Returns:
        "data" and "layout"; texts are escaped, since plotly.js reads tags in them.
    """
    return _heat_map(chart) if isinstance(chart, HeatMap) else _chart(chart)


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _layout(x: Json, y: Json, height: int, **rest: Any) -> Json:  # noqa: ANN401 - plotly's own
    return {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "@ink", "family": "inherit", "size": 13},
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@line", "font": {"color": "@ink"}},
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": x,
        "yaxis": y,
        **rest,
    }


def _axis(axis: Axis) -> Json:
    made: Json = {
        "title": {"text": _text(axis.title), "standoff": 10},
        "automargin": True,
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
    }
    if axis.ticks:
        made |= {
            "tickvals": [place for place, _ in axis.ticks],
            "ticktext": [_text(text) for _, text in axis.ticks],
            "range": [len(axis.ticks) - 0.4, -0.6] if axis.downwards else None,
            "showgrid": False,
        }
    if axis.span is not None:
        made["range"] = list(axis.span)
    return made


def _chart(chart: Chart) -> Json:
    listed = len(chart.y.ticks) == len(chart.series)  # the axis names them: no legend
    legend = len(chart.series) > 1 and not listed
    above = 24 if chart.guides else 8
    rows = (len(chart.series) + 3) // 4 if legend else 0
    layout = _layout(
        _axis(chart.x),
        _axis(chart.y),
        chart.height + 26 * rows,
        showlegend=legend,
        legend={
            "orientation": "h",
            "y": 1 + above / chart.height,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        shapes=[_guide(guide) for guide in chart.guides],
        annotations=[_guide_label(guide, len(chart.guides) > 1) for guide in chart.guides],
    )
    layout["margin"]["t"] = above
    return {"data": [trace for one in chart.series for trace in _traces(one)], "layout": layout}


def _traces(series: Series) -> list[Json]:
    """Draw a series; a line with a range gets a band of its own."""
    colour = f"@{series.colour}"
    mode = "+".join(["lines"] * bool(series.line) + ["markers"] * (series.line in ("", "dot")))
    trace: Json = {
        "type": "scatter",
        "name": _text(series.label),
        "legendgroup": _text(series.label),
        "x": list(series.x),
        "y": list(series.y),
        "mode": mode,
        "marker": {
            "color": colour,
            "symbol": series.marker,
            "size": 11,
            "line": {"color": "@paper", "width": 1},
        },
        "line": {"color": colour, "width": 2 if series.line != "dot" else 1},
        "text": [_text(note) for note in series.notes],
        "hovertemplate": "%{text}<extra></extra>",
    }
    if series.line:
        trace["line"]["dash"] = series.line
    band = series.line in ("solid", "dash") and any(series.y_ends)
    if not band:
        for axis, values, ends in (
            ("x", series.x, series.x_ends),
            ("y", series.y, series.y_ends),
        ):
            if any(ends):
                trace[f"error_{axis}"] = _bars(values, ends, colour)
    return [*([_band(series, colour)] if band else []), trace]


def _bars(values: Sequence[float], ends: Sequence[tuple[float, float] | None], colour: str) -> Json:
    known = [end or (value, value) for value, end in zip(values, ends, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in zip(values, known, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, known, strict=True)],
        "color": colour,
        "thickness": 1.6,
        "width": 4,
    }


def _band(series: Series, colour: str) -> Json:
    known = [(x, *end) for x, end in zip(series.x, series.y_ends, strict=True) if end]
    forth, back = list(known), list(reversed(known))
    return {
        "type": "scatter",
        "legendgroup": _text(series.label),
        "showlegend": False,
        "hoverinfo": "skip",
        "mode": "lines",
        "x": [x for x, *_ in forth] + [x for x, *_ in back],
        "y": [low for _, low, _ in forth] + [high for *_, high in back],
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.16,
    }


def _guide(guide: Guide) -> Json:
    other = "y" if guide.axis == "x" else "x"
    return {
        "type": "line",
        "layer": "below",
        f"{guide.axis}0": guide.at,
        f"{guide.axis}1": guide.at,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "line": {
            "color": "@strong" if guide.strong else "@soft",
            "width": 1.6 if guide.strong else 1,
            "dash": "dash" if guide.strong else "solid",
        },
    }


def _guide_label(guide: Guide, several: bool) -> Json:
    """Name a guide above it; of two that may be close one is named to its left."""
    place = {"x": guide.at, "y": 1, "yref": "paper", "yanchor": "bottom"}
    if guide.axis == "y":
        place = {"y": guide.at, "x": 1, "xref": "paper", "xanchor": "right", "yanchor": "bottom"}
    if several and guide.axis == "x":
        place["xanchor"] = "right" if guide.strong else "left"
    return place | {
        "text": _text(guide.label),
        "showarrow": False,
        "font": {"size": 12, "color": "@strong" if guide.strong else "@soft"},
    }


def _heat_map(chart: HeatMap) -> Json:
    rows, columns = len(chart.rows), len(chart.columns)
    size = (11 if columns <= 24 else 1) if chart.figures else (17 if columns <= 40 else 12)
    ticks = [(float(i), name) for i, name in enumerate(chart.rows)]
    x = _axis(Axis(title="", ticks=[(float(i), n) for i, n in enumerate(chart.columns)]))
    x |= {"range": [-0.5, columns - 0.5], "tickangle": -60, "tickfont": {"size": 11}}
    trace = {
        "type": "heatmap",
        "z": [list(row) for row in chart.values],
        "zmin": chart.floor,
        "zmax": 1,
        "text": [[_text(mark) for mark in row] for row in chart.marks],
        "texttemplate": "%{text}",
        "textfont": {"size": size, "color": "@ink" if chart.figures else "@mark"},
        "customdata": [[_text(note) for note in row] for row in chart.notes],
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": True,
        "colorscale": [[0, "@low"], [1, "@high"]],
        "xgap": 2,
        "ygap": 2,
        "colorbar": {
            "title": {"text": _text(chart.scale), "side": "right"},
            "thickness": 10,
            "outlinewidth": 0,
            "len": 1,
            "nticks": 3,
        },
        "showscale": any(value is not None for row in chart.values for value in row),
    }
    empty = {
        **trace,
        "z": [[0] * columns for _ in range(rows)],
        "colorscale": [[0, "@empty"], [1, "@empty"]],
        "showscale": False,
    }
    y = _axis(Axis(title="", ticks=ticks, downwards=True)) | {"range": [rows - 0.5, -0.5]}
    split = {"type": "line", "x0": 0, "x1": 1, "xref": "paper"}
    parts: list[Json] = [
        {**split, "y0": at, "y1": at, "line": {"color": "@line", "width": 1}} for at in chart.splits
    ]
    parts += [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
         "line": {"color": "@ink", "width": 1.5}}
        for at in chart.breaks
    ]  # fmt: skip
    layout = _layout(x, y, 120 + 24 * rows, shapes=parts)
    return {"data": [empty, trace | {"hoverinfo": "skip"}], "layout": layout}
