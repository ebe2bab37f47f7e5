"""Measured figures as Markdown: a table, and the page of a comparison with its conditions."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def blocks_table(record: Mapping[str, Any]) -> Table:
    """List removable blocks with their share of the network's cost."""
    header = ("block", "stage", "params", "MACs", "share of MACs")
    rows = [
        (
            block["name"],
            str(block["stage"]),
            f"{block['params']:,}",
            f"{block['macs'] / 1e6:.3f} M",
            f"{block['macs'] / max(record['macs'], 1):.2%}",
        )
        for block in record["blocks"]
    ]
    return header, rows


def table_text(table: Table, width: int | None = None) -> str:
    """Draw a table for a terminal; `width` in characters, that of the terminal by default."""
    header, rows = table
    drawn = RichTable(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(header):
        drawn.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    target = io.StringIO()
    Console(file=target, width=width).print(drawn)
    return target.getvalue()


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


def markdown(table: Table) -> str:
    """Write a table as Markdown, ending in a line break."""
    header, rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
