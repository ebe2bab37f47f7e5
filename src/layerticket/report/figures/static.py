"""A chart as PNG and SVG, for papers and slides. Enters: a chart. Leaves: bytes of two files.

Drawn by matplotlib, which needs no browser; the same chart gives the same bytes.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.report.figures.chart import Axis, Chart, HeatMap, Series
from layerticket.report.figures.style import COLOURS

__all__ = ["pictures"]

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
