"""Measured figures as Markdown: a table, and the page of a comparison with its conditions."""

from collections.abc import Mapping
from typing import Any

from layerticket.report.tables import Table, comparison_table

__all__ = ["comparison_page", "markdown"]


def markdown(table: Table) -> str:
    """Write a table as Markdown, ending in a line break."""
    header, rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comparison_page(summary: Mapping[str, Any]) -> str:
    """Write what was compared, under which conditions, and what came out.

    Args:
        summary: What `layerticket demo` leaves in ``summary.json``.
    """
    judged = [row for row in summary["rows"] if row["method"] != "dense"]
    recipe, where = summary["recipe"], summary["environment"]
    runs = summary["rows"][0]["runs"]
    removed = next(value for value in summary["budget"].items() if value[1] is not None)
    conditions = (
        f"{summary['model']} on {summary['data']} ({summary['test_images']:,} test images), "
        f"{removed[0]} {removed[1]}, n = {len(summary['seeds'])} paired seeds "
        f"({', '.join(map(str, summary['seeds']))}), {recipe['epochs']} epochs, "
        f"{recipe['schedule']} schedule, batch {recipe['batch_size']}, {runs[0]['precision']}. "
        f"Machine: {where['gpu'] or where['cpu']}, {where['threads']} threads; "
        f"Python {where['python']}, PyTorch {where['torch']}, layerticket {where['layerticket']}."
    )
    parts = [
        f"```bash\n{summary['command']}\n```",
        conditions,
        markdown(comparison_table(summary)).rstrip(),
        "Mean ± standard deviation over seeds.",
        *(f"- **{row['method']}**: {row['verdict']['sentence']}" for row in judged),
        "Blocks removed, and test accuracy of every seed:",
        markdown(_seeds(summary)).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _seeds(summary: Mapping[str, Any]) -> Table:
    """List every run: what its ticket removed and how accurate it was."""
    rows = [
        (
            str(run["seed"]),
            row["method"],
            ", ".join(run["removed"]) or "none",
            f"{100 * run['test_accuracy']:.2f} %",
            f"{run['train_seconds']:.1f}",
        )
        for row in summary["rows"]
        for run in row["runs"]
    ]
    return ("seed", "network", "removed", "test accuracy", "training, s"), sorted(rows)
