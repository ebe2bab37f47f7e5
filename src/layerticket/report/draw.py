"""A chart as PNG and SVG, for papers and slides. Enters: a chart. Leaves: bytes of two files.

Drawn by matplotlib, which needs no browser; the same chart gives the same bytes.
"""

import html
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.report.charts import COLOURS, Axis, Chart, Guide, HeatMap, Series

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


_SHAPES = {
    "circle": "o",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "square": "s",
    "hexagon": "h",
    "star": "*",
    "pentagon": "p",
    "triangle-left": "<",
    "triangle-right": ">",
    "x": "X",
    "cross": "P",
}
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_STYLE = {
    "text.parse_math": False,
    "svg.hashsalt": "layerticket",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ad",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def pictures(chart: Chart | HeatMap) -> dict[str, bytes]:
    """Draw a chart on white.

    Args:
        chart: What is drawn.

    Returns:
        "png" (at 200 dots per inch) and "svg".

    Raises:
        LayerticketError: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as err:
        raise LayerticketError(
            "figures are drawn by matplotlib, which is not installed. "
            'Run: pip install "layerticket[report]"'
        ) from err
    with rc_context(_STYLE), _any_letters():
        figure = Figure(figsize=_size(chart), layout="constrained")
        axes = figure.subplots()
        axes.set_title(chart.title, loc="left", fontsize=10, fontweight="bold", wrap=True)
        if isinstance(chart, HeatMap):
            _draw_map(figure, axes, chart)
        else:
            _draw_chart(figure, axes, chart)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once is enough for both files
        return {kind: _bytes(figure, kind) for kind in ("png", "svg")}


@contextmanager
def _any_letters() -> Iterator[None]:
    """Draw letters the font lacks as boxes, and labels too long for the figure, without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        warnings.filterwarnings("ignore", message="constrained_layout", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not", append=False)
        yield


def _size(chart: Chart | HeatMap) -> tuple[float, float]:
    """Width and height in inches."""
    if isinstance(chart, HeatMap):
        return max(6.5, 0.22 * len(chart.columns) + 3), 1.3 + 0.22 * len(chart.rows)
    return 7.0, max(2.2, chart.height / 110)


def _bytes(figure: Any, kind: str) -> bytes:  # noqa: ANN401 - matplotlib has no types here
    target = io.BytesIO()
    stamp = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(target, format=kind, dpi=200, metadata=stamp)
    return target.getvalue()


def _draw_chart(figure: Any, axes: Any, chart: Chart) -> None:  # noqa: ANN401
    for guide in chart.guides:
        line = axes.axvline if guide.axis == "x" else axes.axhline
        style = "--" if guide.strong else "-"
        line(guide.at, color="#6b7480", linewidth=1, linestyle=style, zorder=1)
    for series in chart.series:
        _draw_series(axes, series)
    _name(axes, chart.x, "x")
    _name(axes, chart.y, "y")
    axes.grid(axis="x" if chart.y.ticks else "both", color="#e4e7ea", linewidth=0.8)
    labelled = len(chart.y.ticks) == len(chart.series)
    if len(chart.series) > 1 and not labelled:
        figure.legend(loc="outside right center")


def _draw_series(axes: Any, series: Series) -> None:  # noqa: ANN401
    colour = COLOURS[series.colour]
    band = series.line in ("solid", "dash") and any(series.y_ends)
    if band:
        known = [(x, *end) for x, end in zip(series.x, series.y_ends, strict=True) if end]
        x, low, high = zip(*known, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.errorbar(
        series.x,
        series.y,
        xerr=_error(series.x, series.x_ends),
        yerr=None if band else _error(series.y, series.y_ends),
        color=colour,
        label=f"\u200b{series.label}",  # a label that begins with _ would be left out
        marker="" if series.line in ("solid", "dash") else _SHAPES[series.marker],
        markeredgecolor="white",
        markersize=8 if series.marker != "star" else 11,
        linestyle=_DASHES.get(series.line, ""),
        linewidth=1.4,
        capsize=2.5,
    )


def _error(
    values: Sequence[float], ends: Sequence[tuple[float, float] | None]
) -> list[list[float]] | None:
    if not any(ends):
        return None
    known = [end or (value, value) for value, end in zip(values, ends, strict=True)]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, known, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, known, strict=True)]
    return [below, above]


def _name(axes: Any, axis: Axis, which: str) -> None:  # noqa: ANN401
    getattr(axes, f"set_{which}label")(axis.title)
    if axis.ticks:
        places, texts = zip(*axis.ticks, strict=True)
        getattr(axes, f"set_{which}ticks")(places, texts)
    if axis.span is not None:
        (axes.set_xlim if which == "x" else axes.set_ylim)(*axis.span)
    if axis.downwards:
        axes.set_ylim(len(axis.ticks) - 0.4, -0.6)


def _draw_map(figure: Any, axes: Any, chart: HeatMap) -> None:  # noqa: ANN401
    from matplotlib.colors import LinearSegmentedColormap

    ends = ["#eaf1f7", "#5c9cc9"]
    shades = LinearSegmentedColormap.from_list("shades", ends).with_extremes(bad="#f3f4f6")
    values = [[float("nan") if v is None else v for v in row] for row in chart.values]
    mesh = axes.pcolormesh(
        values, cmap=shades, vmin=chart.floor, vmax=1, edgecolors="white", linewidth=1
    )
    for at in chart.breaks:
        axes.axvline(at + 0.5, color=COLOURS["ink"], linewidth=1)
    for at in chart.splits:
        axes.axhline(at + 0.5, color="#9aa3ad", linewidth=1)
    look: dict[str, Any] = {"color": COLOURS["ink"], "fontsize": 6}
    if not chart.figures:
        look = {"color": "#7a2500", "fontsize": 11, "fontweight": "bold"}
    for i, row in enumerate(chart.marks):
        for j, mark in enumerate(row):
            if mark:
                axes.text(j + 0.5, i + 0.5, mark, ha="center", va="center", **look)
    axes.set_xticks([i + 0.5 for i in range(len(chart.columns))], chart.columns, rotation=60)
    axes.set_yticks([i + 0.5 for i in range(len(chart.rows))], chart.rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    if any(value is not None for row in chart.values for value in row):
        figure.colorbar(mesh, label=chart.scale, ax=axes, pad=0.02)
