"""How fast is layerticket? Each figure is measured against a baseline: ``make bench``.

    python benchmarks/speed.py                    # every row for a GPU, or where none is, for a CPU
    python benchmarks/speed.py grasp discovery    # some, by name or by the first part of a name
    python benchmarks/speed.py --profile grasp    # where the time goes

The rows are in speed_rows.py and speed_gpu.py. Results are written after every row to
docs/results/speed.json and speed.md; rows that are not run keep their results.
"""

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from layerticket.files import read_json, write_atomically, write_json
from layerticket.report.tables import markdown
from layerticket.study.record import environment
from load import BUSY, neighbours
from speed_gpu import GPU_ROWS
from speed_row import Row
from speed_rows import ROWS

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "speed"


def run(row: Row, rounds: int | None = None) -> dict[str, object]:
    """Measure a row, or return why it is skipped."""
    if reason := row.obstacle():
        return {"skipped": reason}
    with neighbours() as others:
        values = list(row.measure(rounds or row.rounds))
    found = {"value": statistics.median(values), "n": len(values), "values": values}
    return found | {"others_cpu_share": others["share"]}


def chosen(rows: Sequence[Row], wanted: Sequence[str]) -> list[Row]:
    """Select rows by name or by the first part of a name; without names, all rows.

    Example:
        >>> chosen([], ["gras"])
        Traceback (most recent call last):
        ...
        SystemExit: no row is named 'gras'. Available:
    """
    for name in wanted:
        if not any(_is_named(row, name) for row in rows):
            names = "".join(f" {row.name}" for row in rows)
            raise SystemExit(f"no row is named {name!r}. Available:{names}")
    return [row for row in rows if not wanted or any(_is_named(row, name) for name in wanted)]


def _is_named(row: Row, name: str) -> bool:
    return row.name == name or row.name.startswith(f"{name}-")


def number(value: float) -> str:
    """Write a figure with three significant digits.

    Example:
        >>> [number(v) for v in (0.03456, 1.2, 1234.5)]
        ['0.0346', '1.20', '1,234']
    """
    if value >= 1000:
        return f"{value:,.0f}"
    digits = 2 - next((n for n in range(2, -5, -1) if value >= 10**n), -4)
    return f"{value:.{digits}f}"


def page(rows: Sequence[Row], results: Mapping[str, Mapping]) -> str:
    """Write the results as Markdown."""
    machines: list[str] = []
    lines, limits, notes, commands, skipped = [], {}, {}, {}, []
    by_name = {row.name: row for row in rows}
    for row in rows:
        found = results.get(row.name, {"skipped": row.obstacle() or "not measured yet"})
        if "skipped" in found:
            skipped.append(f"- {row.name} ({row.what}): {found['skipped']}.")
            continue
        if found["machine"] not in machines:
            machines.append(found["machine"])
        if row.limit and row.reached(found["value"]) is False:
            limits.setdefault(row.limit, []).append(row.name)
        if row.note:
            notes.setdefault(row.note, []).append(row.name)
        if "--rounds" in found["command"]:
            how = found["command"].replace(f"speed.py {row.name} --", "speed.py ROW --")
            how += "; n = 1, no spread." if found["n"] == 1 else "."
            commands.setdefault(how, []).append(row.name)
        full = absolute(row, by_name, results)
        lines.append(_line(row, found, machines.index(found["machine"]) + 1, full))
    header = ("row", "what", "measured against", "target", "median", "lowest to highest", "n",
              "reached", "run")  # fmt: skip
    parts = [TEXT.rstrip(), COMMANDS]
    parts.append(markdown((header, lines)).rstrip())
    parts.append("\n".join(f"{place}. {one}" for place, one in enumerate(machines, start=1)))
    if limits:
        parts += ["## Why targets were missed", _by_rows(limits)]
    if notes:
        parts += ["## Notes", _by_rows(notes)]
    if commands:
        parts += [OTHERWISE, _by_rows(commands)]
    if skipped:
        parts += ["## Not run", "\n".join(skipped)]
    return "\n\n".join(parts) + "\n"


def _by_rows(texts: Mapping[str, Sequence[str]]) -> str:
    """Write each text once, after the names of its rows."""
    return "\n\n".join(f"**{', '.join(names)}.** {text}" for text, names in texts.items())


def absolute(row: Row, rows: Mapping[str, Row], results: Mapping[str, Mapping]) -> str:
    """Write what a ratio is as an absolute figure; empty if that is not known."""
    found = results.get(row.name, {})
    if not row.times or "value" not in found:
        return ""
    if not isinstance(row.times, str):
        return f"{number(found['value'] * row.times())}x"
    other, base = rows[row.times], results.get(row.times, {})
    if "value" not in base or base["machine"] != found["machine"]:
        return ""
    return f"{number(found['value'] * base['value'])} {other.unit}"


def _line(row: Row, found: Mapping, place: int, full: str = "") -> tuple[str, ...]:
    unit = f" {row.unit}" if row.unit else ""
    share, values = found["others_cpu_share"], found["values"]
    median = row.reached(found["value"])
    reached = {True: "yes", False: "no", None: "-"}[median]
    if any(row.reached(value) is not median for value in values):
        reached += ", not in every round" if median else ", but in some rounds"
    if share is None or share > BUSY:
        reached += (
            ", measured on a busy machine" if share is not None else ", load of the machine unknown"
        )
    return (
        row.name,
        row.what,
        row.against or "-",
        row.target,
        number(found["value"]) + unit + (f" ({full})" if full else ""),
        "-" if found["n"] == 1 else f"{number(min(values))} to {number(max(values))}",
        str(found["n"]),
        reached,
        str(place),
    )


TEXT = f"""\
# Speed

<!-- from speed.json -->

Each figure without a unit is a ratio of two sides that took turns in one run on one machine, unless
a note says otherwise: the median over n rounds, with the lowest and the highest round. *Reached*
says whether the median meets the target. *Busy machine*: other processes used more than {BUSY:.0%}
of the processor time while the row ran. In brackets: the same as an absolute figure, the ratio
times the ratio of MACs or the median images/s of eager steps.
"""


COMMANDS = """\
```bash
make bench                                             # all rows
make bench ROWS="grasp discovery"                      # some
python benchmarks/speed.py --profile report-seconds    # where the time goes
```"""


OTHERWISE = """\
## Measured with another command

`make bench ROWS=ROW` runs `python benchmarks/speed.py ROW`; these rows were measured with:"""


def machine() -> str:
    """Describe machine and versions in one line."""
    here = environment("auto")
    gpu = f", {here['gpu']}" if here["gpu"] else ", no GPU"
    return (
        f"{here['cpu']}, {os.cpu_count()} cores, {here['threads']} threads{gpu}; "
        f"Python {here['python']}, PyTorch {here['torch']}, layerticket {here['layerticket']}"
    )


def profile(row: Row) -> None:
    """Print the functions in which one round of a row spends most time."""
    if reason := row.obstacle():
        print(f"{row.name}: skipped: {reason}")
        return
    profiler = cProfile.Profile()
    profiler.runcall(lambda: list(row.measure(1)))
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and write; return 1 if a row failed."""
    rows = [*ROWS, *GPU_ROWS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help="names of rows; by default all")
    parser.add_argument("--rounds", type=int, help="rounds of every row; by default its own")
    parser.add_argument(
        "--profile", action="store_true", help="show where the time goes, and write nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="without .json and .md")
    given = parser.parse_args(words)
    if given.profile:
        for row in chosen(rows, given.rows):
            profile(row)
        return 0
    file, failed = given.out.with_suffix(".json"), 0
    results = read_json(file)["rows"] if file.exists() else {}
    for row in chosen(rows, given.rows):
        print(f"{row.name}: {row.what}", file=sys.stderr, flush=True)
        try:
            found = run(row, given.rounds)
        except Exception:  # the other rows can still be measured
            traceback.print_exc()
            failed += 1
            continue
        if "skipped" in found:
            print(f"{row.name}: skipped: {found['skipped']}", flush=True)
            if "value" in results.get(row.name, {}):
                continue  # keep the result of another machine
        else:
            print(" | ".join(_line(row, found, 1)[2:-1]), flush=True)
        rounds = [] if given.rounds is None else ["--rounds", str(given.rounds)]
        command = " ".join(["python benchmarks/speed.py", *given.rows, *rounds])
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        results[row.name] = found | {"command": command, "machine": machine(), "date": date}
        write_json(file, {"rows": results})
        write_atomically(given.out.with_suffix(".md"), page(rows, results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
