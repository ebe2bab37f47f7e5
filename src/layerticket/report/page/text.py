"""The report as Markdown: the same words and tables without drawings.

Enters: a study and its sections. Leaves: a text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerticket.report.grid import Grid, text_table
from layerticket.report.markdown import markdown
from layerticket.report.page.cards import cards
from layerticket.report.page.listing import failures, runs_grid
from layerticket.report.page.sections import Section, conditions

__all__ = ["report_text"]


def report_text(study: Mapping[str, Any], parts: Sequence[Section], *, figures: bool = True) -> str:
    """Write the report as Markdown.

    Args:
        study: The object of ``study.json``.
        parts: Its sections.
        figures: Whether figures lie beside it, to be linked.

    Returns:
        The text, ending in a line break.
    """
    lines = [
        f"# {_line(study['title'])}",
        f"**{_line(study['verdict'])}**",
        *(_card(card) for card in cards(study)),
        *(text for part in parts for text in _section(part, figures=figures)),
        *_failed(study),
        "## Every run",
        _table(runs_grid(study)),
        "## Conditions",
        "\n".join(f"- {_line(name)}: {_line(text)}" for name, text in conditions(study)),
        f"```bash\n{_line(study['command'])}\n```",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _line(text: str) -> str:
    """Keep a text on one line and out of the syntax of tables and tags."""
    plain = " ".join(str(text).split())
    return plain.replace("|", "\\|").replace("<", "&lt;")


def _table(grid: Grid) -> str:
    header, rows = text_table(grid)
    return markdown(([_line(c) for c in header], [[_line(c) for c in r] for r in rows])).rstrip()


def _card(card: Any) -> str:  # noqa: ANN401 - a Card
    saved = "; ".join(f"{line.text}: {_told(line.figure, line.detail)}" for line in card.saved)
    trust = "\n".join(f"- {_line(_told(line.text, line.detail))}" for line in card.trust)
    return f"{_line(card.sentence)}\n\nSaved: {_line(saved)}.\n\n{trust}"


def _told(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text


def _section(part: Section, *, figures: bool) -> Iterator[str]:
    yield f"## {part.title}"
    yield _line(part.remark)
    for grid in part.grids:
        yield f"{_line(grid.title)}:"
        yield _table(grid)
    for chart in part.charts:
        if figures:
            yield f"![{_line(chart.title)}](figures/{chart.name}.svg)"
        if figures or part.opened:
            yield _line(chart.caption)
        if part.opened:
            yield _table(chart.table)


def _failed(study: Mapping[str, Any]) -> Iterator[str]:
    lost = failures(study)
    if lost:
        yield "## Failed runs"
        yield "\n".join(
            f"- {_line(run['method'])}, seed {run['seed']}: {_line(run['error'] or 'no error')}"
            for run in lost
        )
