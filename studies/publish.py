"""Write what is published of a study: its record, its report as Markdown, and the figures of it.

``python studies/publish.py STUDY docs/results/NAME`` writes NAME.json, NAME.md and NAME/*.svg.
Figures that the page no longer has are deleted. Times, energy, memory, and the numbers of parallel
jobs are left out (null) unless ``--times`` says that every training had the machine to itself.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from keep_records import portable

from layerticket.files import write_atomically, write_json
from layerticket.report.page import write_study
from layerticket.report.tables import Study
from layerticket.verdict.pairs import Row, as_record, compare_rows

MEASURED = (
    "train_seconds", "images_per_second", "energy_kwh", "co2_kg", "energy_method",
    "peak_memory_bytes", "data_wait_share", "search_seconds", "search_energy_kwh", "cost",
    "workers", "jobs_beside",
)  # fmt: skip


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """Return a study.json without figures that depend on what else the machine did."""
    runs = [
        row
        | {name: None for name in MEASURED if name in row}
        | {"curve": [_silent(epoch) for epoch in row["curve"] or []]}
        for row in record["runs"]
    ]
    found = compare_rows(
        [Row.from_record(row) for row in runs],
        margin=record["margin"],
        confidence=record["confidence"],
        networks=record["networks"],
        test_images=record["test_images"],
    )
    comparisons = as_record(found.comparisons)
    made = {"runs": runs, "comparisons": comparisons, "verdict": found.verdict, "cost": None}
    return record | made | {"environment": record["environment"] | {"workers": None}}


def _silent(epoch: dict[str, Any]) -> dict[str, Any]:
    return epoch | {name: None for name in MEASURED if name in epoch}


def write(record: dict[str, Any], out: Path) -> None:
    """Write the record, its page and its figures; delete figures that the page no longer has."""
    write_json(out.with_suffix(".json"), record)
    drawn = set()
    with tempfile.TemporaryDirectory() as folder:
        for path in write_study(Study.from_record(record), Path(folder)).files:
            if path.suffix == ".svg":
                write_atomically(out / path.name, path.read_bytes())
                drawn.add(path.name)
            if path.suffix == ".md":
                text = path.read_text(encoding="utf-8")
                text = text.replace("](figures/", f"]({out.name}/")
                write_atomically(out.with_suffix(".md"), text)
    for path in out.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path, help="docs/results/NAME, without an ending")
    parser.add_argument("--times", action="store_true", help="keep times, energy and memory")
    given = parser.parse_args()
    record = json.loads(portable(given.study / "study.json", given.study))
    record["command"] = record["command"].split(" --only")[0]
    write(record if given.times else without_times(record), given.out)


if __name__ == "__main__":
    main()
