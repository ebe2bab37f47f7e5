"""The figures of Table 4 as published, and the table that sets ours beside them."""

from collections.abc import Mapping
from typing import Any

__all__ = ["PAPER", "table4_text"]

_COLUMNS = ("label", "flops", "memory", "co2", "speedup")
# source: arXiv:2301.10835, Table 4 (2023); savings in percent, speed-up as a factor. The row the
# paper calls 4 of ResNet-32 has the FLOPs of 5 blocks, so 5 are removed here.
PAPER: dict[tuple[str, int], dict[str, float]] = {
    key: dict(zip(_COLUMNS, values, strict=True))
    for key, values in {
        ("resnet32", 1): (1, 6.82, 10.13, 11.11, 1.10),
        ("resnet32", 3): (3, 20.47, 25.29, 25.92, 1.35),
        ("resnet32", 5): (4, 34.13, 30.11, 33.33, 1.57),
        ("resnet56", 3): (3, 11.25, 15.15, 13.33, 1.16),
        ("resnet56", 4): (4, 15.00, 19.42, 20.00, 1.24),
        ("resnet56", 5): (5, 18.76, 23.69, 24.44, 1.34),
        ("resnet56", 12): (12, 45.00, 45.82, 51.11, 2.03),
    }.items()
}

_HEADER = (
    "network",
    "blocks removed",
    "FLOPs saved, %: here (paper)",
    "held for backward saved, %",
    "peak memory saved, %: training only / process (paper)",
    "step speed-up: here, 95 % interval (paper)",
    "theory",
    "share of gain realized",
    "energy and CO2e saved, %: here (paper's CO2)",
    "latency / throughput speed-up",
)


def table4_text(summary: Mapping[str, Any]) -> str:
    """Write the table as Markdown, with its conditions.

    Args:
        summary: What ``table4.json`` holds.

    Returns:
        Markdown.
    """
    where = summary["environment"]
    processor = where["gpu"] or f"{where['cpu']}, {where['threads']} thread(s)"
    methods = {row["timing"]["energy_method"] for row in summary["rows"]} - {None}
    lines = [
        f"Command: `{summary['command']}`",
        "",
        f"{processor}; {where['platform']}; Python {where['python']}, torch {where['torch']}, "
        f"layerticket {where['layerticket']}; batch {summary['batch_size']}, "
        f"{summary['precision']}; n = {summary['rounds']} interleaved rounds a row, medians with "
        "bootstrap intervals.",
        "",
        *(f"Energy: {method}." for method in sorted(methods)),
        *([""] if methods else []),
        f"| {' | '.join(_HEADER)} |",
        f"| {' | '.join(['---'] * len(_HEADER))} |",
        *(f"| {' | '.join(_line(row))} |" for row in summary["rows"]),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> list[str]:
    """One row as text."""
    saved, paper, speedup, timing = row["saved"], row["paper"], row["speedup"], row["timing"]
    interval = "" if speedup["low"] is None else f" [{speedup['low']:.2f}, {speedup['high']:.2f}]"
    label = row["removed"]
    if paper["label"] != label:
        label = f"{label} (the paper's row {paper['label']:.0f})"
    share = row["realized_share"]
    energy = "null" if saved["energy"] is None else f"{100 * saved['energy']:.1f}"
    return [
        row["network"],
        str(label),
        f"{100 * saved['macs']:.2f} ({paper['flops']:.2f})",
        f"{100 * saved['held_bytes']:.2f}",
        f"{100 * saved['training_memory']:.1f} / {100 * saved['peak_memory']:.1f} "
        f"({paper['memory']:.2f})",
        f"{speedup['value']:.2f}{interval} ({paper['speedup']:.2f})",
        f"{1 / (1 - saved['training_macs']):.2f}",
        "null" if share is None else f"{100 * share:.0f} %",
        f"{energy} ({paper['co2']:.2f})",
        f"{timing['latency_speedup']['value']:.2f} / {timing['throughput_speedup']['value']:.2f}",
    ]
