"""Table 5 as rows of text: tickets beside dense networks on shifted images."""

from collections.abc import Mapping
from typing import Any

from layerticket.report.tables import Table

__all__ = ["table5_table"]


def table5_table(record: Mapping[str, Any]) -> Table:
    """Set tickets beside dense networks; accuracies in %, differences in percentage points."""
    header = (
        "network",
        "ticket",
        "blocks removed",
        "images of",
        "images",
        "seeds",
        "clean difference, pp",
        "dense, %",
        "ticket, %",
        "difference, pp (95 % interval)",
        "at equal clean accuracy, pp",
        "paper, pp",
    )
    return header, [_row(row) for row in record["rows"]]


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    kind = row["evaluation"]
    if row["epsilon_255"] is not None:
        kind += f" at {row['epsilon_255']:g}/255"
    elif "regenerated" in row["title"]:
        kind += " (regenerated)"
    return (
        row["model"],
        row["method"],
        str(row["removed"]),
        kind,
        f"{row['images']:,}",
        str(row["n"]),
        f"{100 * row['clean']['mean']:+.2f}",
        _mean_std(row["dense"]),
        _mean_std(row["ticket"]),
        _difference(row["shifted"]),
        _difference(row["at_equal_clean"]),
        "" if row["paper_pp"] is None else f"{row['paper_pp']:+.2f}",
    )


def _mean_std(figure: Mapping[str, Any]) -> str:
    text = f"{100 * figure['mean']:.2f}"
    return text if figure["std"] is None else f"{text} ± {100 * figure['std']:.2f}"


def _difference(figure: Mapping[str, Any]) -> str:
    text = f"{100 * figure['mean']:+.2f}"
    if figure["low"] is None:
        return text
    return f"{text} ({100 * figure['low']:+.2f} to {100 * figure['high']:+.2f})"
