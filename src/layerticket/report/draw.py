"""Draw Vega-Lite specifications: in a browser by JavaScript, and as SVG and PNG."""

import base64
import functools
import gzip
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from layerticket.errors import need

Spec = dict[str, Any]
"""A Vega-Lite specification without colours, fonts and width."""

# source: M. Okabe, K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/,
# without yellow, which is invisible on paper, and lighter for dark pages.
METHODS = ("blue", "vermilion", "green", "purple", "orange", "sky", "grey")
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff",
        "page": "#f7f7f5",
        "ink": "#1b1f24",
        "soft": "#5b6570",
        "line": "#c9ced4",
        "grid": "#e8eaed",
        "strong": "#b3261e",
        "accent": "#00639c",
        "blue": "#0072b2",
        "vermilion": "#d55e00",
        "green": "#009e73",
        "purple": "#c2649a",
        "orange": "#c98600",
        "sky": "#3a9fdc",
        "grey": "#7a828c",
        "low": "#eaf1f7",
        "high": "#5c9cc9",
        "empty": "#f3f4f6",
        "mark": "#7a2500",
        "win": "#00704f",
        "win-back": "#e3f3ec",
        "lose": "#a8361c",
        "lose-back": "#fbeae4",
        "open": "#665200",
        "open-back": "#faf2d8",
    },
    "dark": {
        "paper": "#191d22",
        "page": "#121519",
        "ink": "#e8eaec",
        "soft": "#a3adb8",
        "line": "#454d57",
        "grid": "#2a3037",
        "strong": "#ff9b8f",
        "accent": "#7cc4f5",
        "blue": "#4aa3df",
        "vermilion": "#f0843c",
        "green": "#2fbf95",
        "purple": "#e08fbd",
        "orange": "#efb034",
        "sky": "#8bcdf5",
        "grey": "#9aa3ad",
        "low": "#232d37",
        "high": "#286a96",
        "empty": "#20252b",
        "mark": "#ffd0b0",
        "win": "#5fd6a9",
        "win-back": "#14302a",
        "lose": "#ff9f85",
        "lose-back": "#3a1f18",
        "open": "#ecd07a",
        "open-back": "#332b12",
    },
}


def config(theme: str) -> dict[str, Any]:
    """Return Vega-Lite's configuration for a light or a dark page."""
    of = THEMES[theme]
    methods = [of["ink"], *[of[name] for name in METHODS] * 8]
    axis = {
        "gridColor": of["grid"],
        "domainColor": of["line"],
        "tickColor": of["line"],
        "labelColor": of["ink"],
        "titleColor": of["ink"],
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12.5,
        "titlePadding": 10,
        "labelLimit": 240,
    }
    return {
        "background": "transparent",
        "font": 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif',
        "padding": 4,
        "aria": False,
        "view": {"stroke": None},
        "axis": axis,
        "axisQuantitative": {"labelOverlap": "greedy", "tickCount": 7},
        "title": {"color": of["ink"], "anchor": "start", "fontSize": 14, "offset": 12},
        "legend": {
            "orient": "top",
            "title": None,
            "labelColor": of["ink"],
            "titleColor": of["ink"],
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "labelLimit": 260,
            "symbolSize": 90,
            "symbolStrokeWidth": 2,
            "columnPadding": 16,
        },
        "range": {"category": methods, "heatmap": [of["low"], of["high"]]},
        "point": {"filled": True, "size": 110, "opacity": 1, "stroke": of["paper"]},
        "style": {
            "interval": {"strokeWidth": 1.8, "opacity": 1},
            "seeds": {"strokeWidth": 6, "strokeOpacity": 0.35},
            "cut": {"filled": True, "size": 70, "opacity": 1},
            "single": {"strokeWidth": 1, "strokeOpacity": 0.28},
            "dense": {"color": of["soft"]},
            "margin": {"color": of["strong"], "strokeDash": [5, 4], "strokeWidth": 1.6},
            "margin-name": {"color": of["strong"]},
            "empty": {"color": of["empty"]},
            "cross": {"color": of["mark"], "fontSize": 16, "fontWeight": "bold"},
            "number": {"color": of["ink"], "fontSize": 10.5},
            "edge": {"color": of["ink"], "strokeWidth": 1.5},
            "split": {"color": of["line"], "strokeWidth": 1},
        },
    }


def _polygon(corners: int, *, inner: float = 1.0, size: float = 1.0) -> str:
    """Return the path of a regular polygon or a star."""
    turns = 2 * corners if inner < 1 else corners
    points = []
    for turn in range(turns):
        radius, angle = inner if inner < 1 and turn % 2 else size, math.tau * turn / turns
        points.append(f"{radius * math.sin(angle):.3f},{-radius * math.cos(angle):.3f}")
    return f"M{'L'.join(points)}Z"


_CROSS = "M-.9,-.4L-.4,-.9L0,-.5L.4,-.9L.9,-.4L.5,0L.9,.4L.4,.9L0,.5L-.4,.9L-.9,.4L-.5,0Z"
SHAPES = {
    "dense": "cross",
    "ticket": "circle",
    "lottery": "diamond",
    "control": "triangle-up",
    "last blocks": "triangle-down",
    "first blocks": "triangle-left",
    "even blocks": "triangle-right",
    "shallower": "square",
    "filters": _polygon(6),
    "weights": _polygon(5, inner=0.6, size=1.4),
    "imp": _polygon(5),
    "equal_compute": _CROSS,
}


WIDTH = 620
"""Width of a picture, in pixels of the SVG."""


def pictures(spec: Spec, title: str) -> dict[str, bytes]:
    """Draw a specification on white; return "svg", and "png" at 192 dots per inch.

    Raises:
        LayerticketError: If vl-convert-python is not installed.
    """
    convert = need("vl_convert", extra="figures", why="figures need vl-convert-python")
    wide = {"width": WIDTH} if spec.get("width") == "container" else {}
    drawn = spec | wide | {"title": title, "background": "white"}
    look = config("light")
    look["axis"]["labelLimit"] = WIDTH // 2
    longest = max((len(str(point.get("method"))) for point in spec["data"]["values"]), default=1)
    look["legend"]["columns"] = max(1, WIDTH // (min(7 * longest, 260) + 44))
    svg = convert.vegalite_to_svg(json.dumps(drawn, allow_nan=False), config=look)
    return {"svg": svg.encode(), "png": convert.svg_to_png(svg, scale=2)}


@functools.cache
def library() -> str:
    """Return the JavaScript libraries of the page, packed."""
    names = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.min.js")
    return packed("\n".join(asset(name) for name in names))


def packed(text: str) -> str:
    """Compress a text and encode it in characters that are safe in HTML (gzip, base64)."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def asset(name: str) -> str:
    """Return the text of a file shipped with the package."""
    return (files("layerticket.report") / "assets" / name).read_text(encoding="utf-8")
