"""The files of a report. Enters: the object of ``study.json``. Leaves: a page, tables, figures.

Never trains, never measures: all it shows stands in that object.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import write_atomically
from layerticket.report.figures.chart import HeatMap
from layerticket.report.figures.interactive import drawing
from layerticket.report.figures.static import pictures
from layerticket.report.grid import Grid, csv_text, shown_columns, text_table
from layerticket.report.page.cards import cards
from layerticket.report.page.clean import clean
from layerticket.report.page.listing import failures, runs_grid
from layerticket.report.page.sections import Section, conditions, sections
from layerticket.report.page.text import report_text
from layerticket.study.statistics import up_to_date

__all__ = ["study_page", "write_report"]

SCHEMA = 1
UNJUDGED = "No verdict yet: no run of this study has been compared."
NEEDED = (
    "schema", "title", "runs", "comparisons", "verdict", "networks", "margin", "confidence",
    "environment", "data", "classes", "test_images", "command", "study",
)  # fmt: skip


def write_report(study: Mapping[str, Any], out: Path, *, figures: bool = True) -> list[Path]:
    """Write ``report.html``, ``report.md``, tables as CSV, figures as PNG and SVG.

    The page needs nothing but itself: no network, no other file. Old files of the same names are
    replaced, each as a whole.

    Args:
        study: The object of ``study.json``; it is not modified.
        out: Folder to write into; made if missing.
        figures: Whether PNG and SVG are drawn, about a third of a second each.

    Returns:
        The files written, the page first.

    Raises:
        LayerticketError: If the object is no study of a known schema, or jinja2, plotly or
            matplotlib is not installed.
    """
    known = _known(study)
    parts = sections(known)
    grids = list(_grids(known, parts))
    written: list[Path] = []

    def write(name: str, content: str | bytes) -> None:
        write_atomically(out / name, content)
        written.append(out / name)

    write("report.html", _page(known, parts))
    write("report.md", report_text(known, parts, figures=figures))
    for grid in grids:
        write(f"tables/{grid.name}.csv", csv_text(grid))
    for chart in (chart for part in parts for chart in part.charts if figures):
        for kind, content in pictures(chart).items():
            write(f"figures/{chart.name}.{kind}", content)
    return written


def study_page(study: Mapping[str, Any]) -> str:
    """Return ``report.md`` alone; its figures are links into ``figures/``.

    Args:
        study: The object of ``study.json``; it is not modified.

    Raises:
        LayerticketError: If the object is no study of a known schema.
    """
    known = _known(study)
    return report_text(known, sections(known))


def _known(study: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a study that is judged by the rules of today, without what no page can hold."""
    _check(study)
    current = up_to_date(study)
    known: Mapping[str, Any] = clean(current | {"verdict": current["verdict"] or UNJUDGED})
    return known


def _check(study: Mapping[str, Any]) -> None:
    """Refuse what is no study."""
    lacking = [key for key in NEEDED if key not in study]
    if lacking:
        raise LayerticketError(
            f"the study lacks {lacking[0]!r}. Give the object of study.json, as "
            "`layerticket study run` writes it."
        )
    if study["schema"] != SCHEMA:
        raise LayerticketError(
            f"the study has schema {study['schema']}, but schema {SCHEMA} is known. "
            "Run the study again with this version of layerticket."
        )


def _grids(study: Mapping[str, Any], parts: list[Section]) -> Iterator[Grid]:
    """Name every table once; those of charts lie beside their figures."""
    named = {grid.name: grid for part in parts for grid in part.grids}
    named |= {chart.table.name: chart.table for part in parts for chart in part.charts}
    yield from (named | {"runs": runs_grid(study)}).values()


def _page(study: Mapping[str, Any], parts: list[Section]) -> str:
    """Fill the template."""
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as err:
        raise LayerticketError(
            f"the report needs {err.name}, which is not installed. "
            'Run: pip install "layerticket[report]"'
        ) from err
    maker = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    maker.filters["tie"] = _tie
    drawings = {chart.name: drawing(chart) for part in parts for chart in part.charts}
    return maker.from_string(_asset("page.html")).render(
        study=study,
        sections=parts,
        cards=cards(study),
        conditions=conditions(study),
        runs=runs_grid(study),
        failures=failures(study),
        wide={
            chart.name: 240 + 30 * len(chart.columns)
            for part in parts
            for chart in part.charts
            if isinstance(chart, HeatMap)
        },
        text_table=text_table,
        shown_columns=shown_columns,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        style=_asset("style.css"),
        script=_asset("script.js"),
        plotly=_in_script(get_plotlyjs()),
        drawings=_in_script(json.dumps(drawings, allow_nan=False).replace("<", "\\u003c")),
    )


def _asset(name: str) -> str:
    return (files("layerticket.report.page") / "assets" / name).read_text(encoding="utf-8")


def _tie(text: str) -> str:
    """Keep figures beside their unit, and set a minus as one."""
    tied = re.sub(r"(?<=\d) (?=(%|pp|Wh|kWh|s|min|h|g|kg|M)\b|%)", "\u00a0", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", tied)


def _in_script(code: str) -> str:
    """Keep code from ending its own script element."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
