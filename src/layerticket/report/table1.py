"""The paper's Table 1 beside what was measured. Enters: the summary. Leaves: a table, a page."""

from collections.abc import Mapping
from typing import Any

from layerticket.report.tables import Table, markdown

__all__ = ["lottery_page", "lottery_rows"]


def lottery_rows(summary: Mapping[str, Any]) -> Table:
    """Set criteria against epochs rewound to: difference to dense in pp, mean ± std, n, verdict.

    Args:
        summary: What ``table1.json`` holds.
    """
    cells = {(cell["criterion"], cell["rewind"]): cell for cell in summary["cells"]}
    points = summary["plan"]["points"]
    criteria = dict.fromkeys(criterion for criterion, _ in cells)
    header = ("criterion", *(f"back to {point}" for point in points))
    rows = [
        (criterion, *(_text(cells.get((criterion, point))) for point in points))
        for criterion in criteria
    ]
    return header, rows


def _text(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell["std"] is None else f" ± {100 * cell['std']:.2f}"
    paper = "" if cell["paper_pp"] is None else f"; paper {cell['paper_pp']:+.2f}"
    return f"{100 * cell['mean']:+.2f}{spread}, n = {cell['n']}, {cell['outcome']}{paper}"


def lottery_page(summary: Mapping[str, Any]) -> str:
    """Write command, conditions, table and count of verdicts as Markdown.

    Args:
        summary: What ``table1.json`` holds.
    """
    plan, where, dense = summary["plan"], summary["environment"], summary["dense"]
    recipe = plan["recipe"]
    name, amount = next(item for item in plan["budget"].items() if item[1] is not None)
    spread = "" if dense["std"] is None else f" ± {100 * dense['std']:.2f}"
    conditions = (
        f"{plan['model']} on {summary['data']} ({summary['test_images']:,} test images), "
        f"{name} {amount}, seeds {', '.join(map(str, summary['seeds']))}, {recipe['epochs']} "
        f"epochs, {recipe['schedule']} schedule, batch {recipe['batch_size']}, "
        f"{'/'.join(summary['precision'])}. Dense: {100 * dense['mean']:.2f}{spread} %. "
        f"Machine: {where['gpu'] or where['cpu']}, {where['threads']} threads; Python "
        f"{where['python']}, PyTorch {where['torch']}, layerticket {where['layerticket']}."
    )
    counts = ", ".join(f"{count} {word}" for word, count in sorted(summary["verdicts"].items()))
    parts = [
        f"```bash\n{summary['command']}\n```",
        conditions,
        markdown(lottery_rows(summary)).rstrip(),
        "Difference to the dense network of the same seed in percentage points, mean ± standard "
        f"deviation over n seeds; verdict at a margin of {100 * plan['margin']:g} pp; the paper's "
        "figures are of ResNet-32 on CIFAR-10, given without seeds.",
        f"Verdicts: {counts}.",
    ]
    return "\n\n".join(parts) + "\n"
