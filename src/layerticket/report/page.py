"""Write the report of a study: one self-contained page, the same as Markdown, tables and figures.

Nothing is trained or measured here: everything comes from study.json.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from layerticket.files import write_atomically
from layerticket.report import draw
from layerticket.report.charts import Drawing, drawings
from layerticket.report.tables import (
    Study,
    Table,
    Text,
    agreement_table,
    baselines_table,
    controls_table,
    evaluations_table,
    markdown,
    overview_table,
    row_name,
    runs_table,
)
from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison, Row
from layerticket.verdict.statistics import Difference


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of a report."""

    page: Path
    files: tuple[Path, ...]
    """All files, the page first."""
    study: Study


def write_report(folder: Path, out: Path | None = None, *, figures: bool = True) -> Written:
    """Write ``report.html``, ``report.md``, tables as CSV, figures as PNG and SVG.

    Files with the same names are replaced atomically.

    Args:
        folder: Folder of a study, with its study.json.
        out: Folder to write to; by default that of the study.
        figures: Whether to write PNG and SVG; needs the extra "figures".

    Returns:
        The files and the study.

    Raises:
        LayerticketError: If there is no study, or figures are asked for and vl-convert-python is
            not installed.
    """
    return write_study(Study.read(folder), folder, out, figures=figures)


def write_study(
    study: Study,
    folder: Path,
    out: Path | None = None,
    *,
    figures: bool = True,
    refresh: float | None = None,
) -> Written:
    """Write the report of a study that was already read; see `write_report`."""
    target = Path(folder if out is None else out)
    report = Report.of(study, base=_way(target, Path(folder)))
    content: dict[str, str | bytes] = {
        "report.html": page(report, refresh=refresh),
        "report.md": text(report, figures=figures),
    }
    content |= {f"tables/{name}.csv": table.csv for name, table in report.tables.items()}
    for drawing in report.drawings if figures else ():
        for kind, picture in draw.pictures(drawing.spec, drawing.title).items():
            content[f"figures/{drawing.name}.{kind}"] = picture
    for name, one in content.items():
        write_atomically(target / name, one)
    paths = tuple(target / name for name in content)
    return Written(page=paths[0], files=paths, study=study)


def _way(start: Path, end: Path) -> str:
    """Return the relative address of a folder, with a final slash; empty for the same folder."""
    if start.resolve() == end.resolve():
        return ""
    try:
        way = os.path.relpath(end.resolve(), start.resolve())
    except ValueError:  # another drive
        return f"{end.resolve().as_uri()}/"
    return f"{quote(Path(way).as_posix())}/"


# The content of the report, from top to bottom.


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the report."""

    name: str
    """Its anchor on the page, and the name that charts use."""
    title: str
    short: str
    """Title of one word, for navigation."""
    absent: str
    """Text to show if it is empty."""
    remark: str = ""
    """Paragraph above its charts."""
    is_open: bool = False
    """Whether the tables of its charts are open at first."""
    drawings: Sequence[Drawing] = ()
    tables: Mapping[str, Table] | None = None
    """Tables without a chart, by name."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.drawings and not self.tables


_UNPAIRED = "No method has a finished run with a finished dense run of the same seed."
_BASELINES = (
    "Baselines are matched to the ticket of the same seed in the first quantity of column match. "
    "Its figures are means over the runs, in brackets the range over seeds. In the second table "
    "minimum detectable is the true difference from 0 that its seeds find with 80 % power. "
    "Networks with masked weights still compute every masked product: masks save no time, memory "
    "or energy on this hardware, so their MACs are those of dense; the count without masked "
    "weights is in its own column."
)


def _sections(study: Study, drawn: Sequence[Drawing]) -> list[Section]:
    baselines, agreement = baselines_table(study), agreement_table(study)
    overview, evaluations = overview_table(study), evaluations_table(study)
    beaten = {"baselines": baselines, "controls": controls_table(study)}
    ways = list(dict.fromkeys(row.energy_method for row in study.rows if row.energy_method))
    metered = any(row.energy_kwh is not None for row in study.rows)
    parts = (
        Section(
            name="overview",
            title="All networks and methods",
            short="Overview",
            absent="",
            remark="Every method against the dense network of the same seeds; outcomes are after "
            "correction for all comparisons of the study.",
            tables={"overview": overview} if overview.rows else None,
        ),
        Section(
            name="differences",
            title="Did it win?",
            short="Outcome",
            absent=_UNPAIRED,
            is_open=True,
        ),
        Section(
            name="accuracy",
            title="Accuracy against cost",
            short="Accuracy",
            absent="No method has both an accuracy and a count of its MACs.",
        ),
        Section(
            name="blocks",
            title="Which blocks were removed",
            short="Blocks",
            absent="No run of this study removed whole blocks.",
        ),
        Section(
            name="worth",
            title="What each block is worth",
            short="Worth",
            absent="No run removed a single block alone (control = each).",
            is_open=True,
            tables={"agreement": agreement} if agreement.rows else None,
        ),
        Section(
            name="baselines",
            title="What the tickets had to beat",
            short="Baselines",
            absent="The study has no baselines; without controls of equal cost a ticket proves "
            "little.",
            remark=_BASELINES,
            tables={name: table for name, table in beaten.items() if table.rows},
        ),
        Section(
            name="cost",
            title="Cost, energy and carbon",
            short="Cost",
            absent=_UNPAIRED,
            remark=words.metered(ways) if ways or not metered else "",
            is_open=True,
        ),
        Section(
            name="robustness",
            title="Robustness",
            short="Robustness",
            absent="The study has no evaluations other than clean test images.",
            is_open=True,
            tables={"evaluations": evaluations} if evaluations.rows else None,
        ),
        Section(
            name="similarity",
            title="Similarity",
            short="Similarity",
            absent="Similarity was not measured.",
        ),
        Section(
            name="curves",
            title="Training",
            short="Training",
            absent="No finished run has a curve.",
        ),
    )
    found = []
    for part in parts:
        own = [one for one in drawn if one.section == part.name]
        filled = replace(part, drawings=own)
        if filled.is_empty and not part.absent:
            continue
        found.append(replace(filled, remark=part.absent) if filled.is_empty else filled)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Summary of one ticket on the first screen."""

    label: str
    comparison: Comparison
    saved: Sequence[words.Remark]
    trust: Sequence[words.Remark]
    bar: Mapping[str, float | None]
    """Positions of the interval, the mean, dense and the margin on one line, in percent."""


def _card(one: Comparison, study: Study) -> Card:
    failed = sum(row.status == "failed" for row in study.rows)
    waiting = sum(row.status in ("running", "waiting") for row in study.rows)
    own = [
        row
        for row in study.rows
        if (row.model, row.budget or "", row.method) == (one.model, one.budget, one.method)
    ]
    return Card(
        label=study.label(one),
        comparison=one,
        saved=words.saved_remarks(one),
        trust=[
            *words.trust_remarks(one, study.margin),
            *words.suspicions(one, sum(map(_is_unchanged, own))),
            *words.progress_remarks(failed, waiting, len(study.rows)),
        ],
        bar=_bar(one.difference, study.margin, one.dense_accuracy.get("mean") or 0.0),
    )


def _is_unchanged(row: Row) -> bool:
    return bool((row.config or {}).get("parameters_unchanged"))


def _bar(found: Difference, margin: float, dense: float) -> dict[str, float | None]:
    """Return positions of an interval, 0 and the margin on one line, clipped if impossible."""
    places = {"low": found.low, "high": found.high, "mean": found.mean, "zero": 0.0}
    places |= {"margin": -margin}
    known = {
        name: min(max(place, -dense), 1 - dense) if name in ("low", "high") else place
        for name, place in places.items()
        if place is not None
    }
    left = min(known.values())
    width = max(known.values()) - left or 1.0
    return dict.fromkeys(places) | {
        name: 5 + 90 * (place - left) / width for name, place in known.items()
    }


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report."""

    study: Study
    cards: Sequence[Card]
    """One card for each ticket with a finished pair, in the order of the plan."""
    sections: Sequence[Section]
    drawings: Sequence[Drawing]
    runs: Table
    base: str = ""
    """Address of the study's folder, relative to the page."""

    @classmethod
    def of(cls, study: Study, *, base: str = "") -> "Report":
        """Return the report of a study."""
        drawn = drawings(study)
        tickets = [one for one in study.judged if one.role == "criterion"]
        return cls(
            study=study,
            cards=[_card(one, study) for one in tickets],
            sections=_sections(study, drawn),
            drawings=drawn,
            runs=runs_table(study),
            base=base,
        )

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that all runs share."""
        known = [row.config for row in self.study.rows if row.config is not None]
        first = known[0] if known else {}
        return {k: v for k, v in first.items() if all(one.get(k, one) == v for one in known)}

    @property
    def tables(self) -> dict[str, Table]:
        """All tables by file name."""
        found = {
            name: table for part in self.sections for name, table in (part.tables or {}).items()
        }
        found |= {drawing.name: drawing.table for drawing in self.drawings}
        return found | {"runs": self.runs}

    @property
    def conditions(self) -> dict[str, str]:
        """Data, margin, machine and versions, by name."""
        study = self.study
        seeds = sorted({row.seed for row in study.rows})
        devices = dict.fromkeys(str(row.device) for row in study.rows if row.device)
        images = study.test_images
        found = {
            "networks": ", ".join(dict.fromkeys(row.model for row in study.rows)),
            "data": ", ".join(
                part for part in (study.data, study.classes and f"{study.classes} classes") if part
            ),
            "test images": words.count(images) if images else "not known",
            "margin": f"{words.points(study.margin)}, {100 * study.confidence:g} % confidence",
            "seeds": ", ".join(map(str, seeds)),
            "device": ", ".join(devices),
            "the whole study": study.cost and words.bill(study.cost),
        }
        several = len({json.dumps(one["environment"]) for one in study.environments}) > 1
        if several:
            tasks = dict.fromkeys(one["task"] for one in study.environments)
            found |= {task: _places(study, task) for task in tasks}
        found |= {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in study.environment.items()
            if value is not None and not (several and key in MACHINE)
        }
        return {name: text for name, text in found.items() if text}


MACHINE = {
    "gpu": "{}", "cpu": "{}", "python": "Python {}", "torch": "torch {}",
    "layerticket": "layerticket {}", "platform": "{}",
}  # fmt: skip
"""How each fact of an environment is written in one line."""


def _places(study: Study, task: str) -> str:
    """Write where a task ran, with the seeds and runs of each environment."""
    return "; ".join(
        f"{words.counted(one['runs'], 'run')} of "
        f"seed{'s' if len(one['seeds']) > 1 else ''} {words.listed(one['seeds'])} on "
        + ", ".join(
            how.format(one["environment"][key])
            for key, how in MACHINE.items()
            if one["environment"].get(key) is not None
        )
        for one in study.environments
        if one["task"] == task
    )


# The page.


def page(report: Report, *, refresh: float | None = None) -> str:
    """Return the page; every text of the study is escaped.

    Args:
        report: The report.
        refresh: Seconds after which a browser reloads the page; None: never.
    """
    maker = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    maker.filters["tie"] = _tie
    shared = report.shared
    inside = {
        point.get("method") for one in report.drawings for point in one.spec["data"]["values"]
    }
    drawn = [method for method in report.study.methods if method in inside]
    data = {
        "charts": {one.name: one.spec for one in report.drawings},
        "configs": {theme: draw.config(theme) for theme in draw.THEMES},
        "tables": {name: table.csv for name, table in report.tables.items()},
        "methods": drawn,
    }
    return maker.from_string(draw.asset("page.html")).render(
        report=report,
        study=report.study,
        words=words,
        row_name=row_name,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=dict),
        themes=draw.THEMES,
        style=draw.asset("style.css"),
        script=draw.asset("script.js"),
        library=draw.library(),
        data=draw.packed(json.dumps(data, allow_nan=False, ensure_ascii=False)),
        methods=drawn,
        shared=shared,
        place=lambda path: f"{report.base or './'}{quote(path)}",
        own=lambda run: {
            key: value for key, value in (run.config or {}).items() if key not in shared
        },
        refresh=refresh,
    )


def _tie(text: str) -> str:
    """Join numbers and units by non-breaking spaces, and use a real minus sign."""
    tied = re.sub(r"(?<=\d) (?=(%|pp|Wh|kWh|s|min|h|g|kg|M)\b|%)", "\u00a0", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", tied)


# Markdown: the same texts and tables, without drawings.


def text(report: Report, *, figures: bool = True) -> str:
    """Return the report as Markdown; with links to figures if they are in its folder."""
    study = report.study
    lines = [
        f"# {_line(study.title)}",
        f"**{_line(study.verdict)}**",
        *(_card_text(card) for card in report.cards),
        *(line for part in report.sections for line in _section_text(part, figures=figures)),
    ]
    failed = [row for row in study.rows if row.status == "failed"]
    if failed:
        lines += ["## Failed runs"]
        lines += [
            "\n".join(
                f"- {_line(row_name(row))}, seed {row.seed}: {_line(row.error or 'no error')}"
                for row in failed
            )
        ]
    lines += ["## Every run", _table_text(report.runs.text), "## Conditions"]
    lines += ["\n".join(f"- {_line(n)}: {_line(t)}" for n, t in report.conditions.items())]
    lines += [f"```bash\n{_line(study.command)}\n```"]
    return "\n\n".join(line for line in lines if line) + "\n"


def _line(text: str) -> str:
    """Return a text on one line, escaped for tables and tags."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _table_text(text: Text) -> str:
    header, rows = text
    return markdown(([_line(c) for c in header], [[_line(c) for c in r] for r in rows])).rstrip()


def _card_text(card: Card) -> str:
    def said(text: str, detail: str) -> str:
        return _line(f"{text} ({detail})" if detail else text)

    saved = "; ".join(f"{one.text}: {said(one.figure, one.detail)}" for one in card.saved)
    trust = "\n".join(f"- {said(one.text, one.detail)}" for one in card.trust)
    told = card.comparison.sentence.replace(card.comparison.method, card.label, 1)
    return f"{_line(told)}\n\nSaved: {saved}.\n\n{trust}"


def _section_text(part: Section, *, figures: bool) -> Iterator[str]:
    yield f"## {part.title}"
    yield _line(part.remark)
    for table in (part.tables or {}).values():
        yield _table_text(table.text)
    for drawing in part.drawings:
        if figures:
            yield f"![{_line(drawing.title)}](figures/{drawing.name}.svg)"
        if figures or part.is_open:
            yield _line(drawing.caption)
        if part.is_open:
            yield _table_text(drawing.table.text)
