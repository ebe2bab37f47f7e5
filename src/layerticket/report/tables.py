"""Figures into tables: a header and rows of text.

Enters: JSON values as the commands print them. Leaves: a header and rows of text.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

__all__ = ["Table", "blocks_table", "comparison_table", "table_text"]

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


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """Set the dense network and its tickets side by side; mean ± standard deviation over seeds."""
    dense = summary["rows"][0]
    columns = [_comparison_column(row, dense) for row in summary["rows"]]
    labels = (
        "",
        "test accuracy, %",
        "difference, pp (95 % interval)",
        "MACs",
        "parameters",
        "training, s",
        f"verdict (margin {100 * summary['margin']:g} pp)",
    )
    header, *rows = zip(labels, *columns, strict=True)
    return header, rows


def _comparison_column(row: Mapping[str, Any], dense: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = _mean_std(row["test_accuracy"], 100, 2)
    macs, params = row["macs"]["mean"], row["params"]["mean"]
    seconds = _mean_std(row["train_seconds"], 1, 1)
    if row is dense:
        return ("dense", accuracy, "", f"{macs / 1e6:.2f} M", f"{params:,.0f}", seconds, "")
    judged = row["verdict"]
    difference = f"{100 * judged['mean']:+.2f}"
    if judged["low"] is not None:
        difference += f" ({100 * judged['low']:+.2f} to {100 * judged['high']:+.2f})"
    return (
        f"{row['method']} ticket",
        accuracy,
        difference,
        f"{macs / 1e6:.2f} M ({macs / dense['macs']['mean'] - 1:+.1%})",
        f"{params:,.0f} ({params / dense['params']['mean'] - 1:+.1%})",
        f"{seconds} ({row['training_speedup']['mean']:.2f}x faster)",
        judged["outcome"],
    )


def _mean_std(figure: Mapping[str, Any], factor: float, digits: int) -> str:
    text = f"{factor * figure['mean']:.{digits}f}"
    return text if figure["std"] is None else f"{text} ± {factor * figure['std']:.{digits}f}"


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
