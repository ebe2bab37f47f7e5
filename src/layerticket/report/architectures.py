"""The page of architectures: what can go in each, what that saves, what was verified."""

from collections.abc import Mapping
from typing import Any

from layerticket.report.tables import markdown

__all__ = ["architectures_page"]

HEADER = (
    "network",
    "input",
    "M MACs",
    "blocks",
    "branches",
    "MACs saved",
    "params saved",
    "removal verified",
    "why not (more)",
)
CHECKS = ("forward", "same_as_zeros", "backward", "export")
WORDS = {"same_as_zeros": "zeros"}


def architectures_page(record: Mapping[str, Any]) -> str:
    """Write the page from what the command left in JSON.

    Args:
        record: `command`, `versions`, and `rows` as `layerticket.study.architectures.survey`
            returns them.
    """
    rows = record["rows"]
    some = [row for row in rows if row.get("blocks")]
    whole = [row for row in some if all(row[check] is not False for check in CHECKS)]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    libraries = sorted({row["name"].partition(":")[0] for row in rows})
    parts = [
        "# Architectures",
        f"What layerticket finds in {len(rows)} architectures of other libraries, all at random "
        f"initialization, none known by name: {len(some)} have removable blocks, and in "
        f"{len(whole)} of these every check below passed. Made by",
        f"```bash\n{record['command']}\n```",
        f"from the list in `benchmarks/architectures.toml`, with {versions}.",
        EXPLANATION,
    ]
    for library in libraries:
        mine = [_row(row) for row in rows if row["name"].startswith(f"{library}:")]
        parts += [f"## {library}", markdown((HEADER, mine)).rstrip()]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
- **blocks**: residual blocks the identity can replace. **branches**: what can go by itself at
  `--granularity branch`; equal to blocks where each has one branch.
- **saved**: by taking out all blocks together (or as many as the network's own code runs without,
  given as "of"): the most that can be saved, not a recommendation.
- **removal verified** on the network without them: *forward*: the output has its shape and is
  finite; *zeros*: it computes what the network computes with those blocks at zero (not asked where
  a normalization or an activation stands behind the addition: zeros would mute it); *backward*: in
  training mode all gradients are finite, and every weight that had one still has one; *export*:
  `torch.export` gives a program with the same output; *branches*: without every second branch it
  computes what it computes with those at zero. An encoder-decoder without any decoder layer leaves
  its encoder without gradients, so *backward* fails there.
- **why not**: why other candidates must stay, and how many."""


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Put one architecture into text."""
    name = row["name"].partition(":")[2]
    shapes = ", ".join("x".join(map(str, shape[1:])) for shape in row["inputs"].values())
    if "error" in row:
        return (name, shapes, *[""] * 6, f"not examined: {row['error']}".replace("|", "/"))
    blocks, removed = row["blocks"], row["removed"]
    return (
        name,
        shapes,
        f"{row['macs'] / 1e6:,.1f}" if row["macs"] >= 1e5 else f"{row['macs'] / 1e6:.3f}",
        str(blocks) if removed == blocks else f"{removed} of {blocks}",
        str(row["branches"]),
        _percent(row["macs_saving"]),
        _percent(row["params_saving"]),
        _verified(row) if removed else "",
        "; ".join(f"{reason} ({count})" for reason, count in row["reasons"].items()),
    )


def _verified(row: Mapping[str, Any]) -> str:
    """List what passed, and what failed."""
    results = {WORDS.get(check, check): row[check] for check in CHECKS}
    results["branches"] = row["branches_same"]
    passed = [name for name, result in results.items() if result]
    failed = [name for name, result in results.items() if result is False]
    return ", ".join(passed) + (f"; **not**: {', '.join(failed)}" if failed else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
