"""Tables that keep their raw figures. Enters: values. Leaves: texts to read, CSV to compute with.

A cell that was not measured is None: "not measured" for people, empty in CSV.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layerticket.report.tables import Table

__all__ = ["Column", "Grid", "csv_text", "shown_columns", "text_table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """How one column is headed and shown."""

    title: str
    """Heading, with the unit."""
    show: Callable[[Any], str] = str
    """Text of a value that is not None."""
    parts: tuple[str, ...] = ()
    """Names of the figures a cell holds, if it holds several; each gets a column in CSV."""
    absent: str = "not measured"
    """Text of None."""
    words: bool = False
    """Whether cells are words, set flush left, not figures."""
    context: bool = False
    """Whether people need it only where it varies from row to row; CSV always has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table: columns and rows of raw values."""

    name: str
    """Name of its CSV file, and of its place on the page."""
    title: str
    """What it lists."""
    columns: Sequence[Column]
    """From left to right."""
    rows: Sequence[Sequence[Any]]
    """One value for each column."""


def text_table(grid: Grid) -> Table:
    """Write every cell for people.

    Args:
        grid: The table.

    Returns:
        Header and rows of text, of the columns of `shown_columns`.
    """
    shown = shown_columns(grid)
    rows = [
        [column.absent if row[at] is None else column.show(row[at]) for at, column in shown]
        for row in grid.rows
    ]
    return [column.title for _, column in shown], rows


def shown_columns(grid: Grid) -> list[tuple[int, Column]]:
    """Leave out context that is the same in every row, for people who have read the title.

    Args:
        grid: The table.

    Returns:
        The columns that stay, each with its place in a row.
    """
    return [
        (at, column)
        for at, column in enumerate(grid.columns)
        if not column.context or len({str(row[at]) for row in grid.rows}) > 1
    ]


def csv_text(grid: Grid) -> str:
    """Write a table as CSV with raw figures: fractions, seconds, kWh; None is empty.

    Args:
        grid: The table.

    Returns:
        The text, with lines ending in a line feed. A word that a spreadsheet would take for a
        formula gets an apostrophe in front.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(
        [
            f"{column.title} {part}".strip()
            for column in grid.columns
            for part in column.parts or ("",)
        ]
    )
    for row in grid.rows:
        cells: list[Any] = []
        for column, value in zip(grid.columns, row, strict=True):
            several = (None,) * len(column.parts) if value is None else value
            cells += several if column.parts else [value]
        writer.writerow([_safe(cell) for cell in cells])
    return target.getvalue()


def _safe(cell: object) -> object:
    """Keep a spreadsheet from running a word."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
