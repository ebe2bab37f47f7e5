"""Read a study from a CSV file of results, with one row for each trained network."""

import csv
import difflib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.report.tables import Study
from layerticket.verdict import words
from layerticket.verdict.pairs import SCHEMA, Row, as_record, compare_rows

NEEDED = ("method", "seed", "accuracy")
CONTROLS = ("random", "random blocks", "first blocks", "last blocks", "even blocks", "shallower")
"""Names of methods that are controls; all others are tickets."""
ROLES = ("criterion", "control", "baseline")
KINDS = ("ticket", "control", "shallower", "filters", "weights", "imp", "lottery", "equal_compute")


def read_numbers(path: Path, *, margin: float = 0.01, confidence: float = 0.95) -> Study:
    """Read a table of results, and compare its rows like the runs of a study.

    Known columns: method ("dense" is the dense network), seed and accuracy (a fraction;
    empty or nan: the run failed) are needed; model, budget, draw, role, kind, reference, error,
    folder, validation_accuracy, macs, params, epochs, seconds (including the search, unless there
    is a column search_seconds), images_per_second, energy_kwh, co2_kg, peak_memory_bytes, device
    and precision are optional. Other columns are shown unchanged in the table of runs.

    Args:
        path: The file: columns separated by commas, column names in the first line.
        margin: How much accuracy a winning ticket may lose, as a fraction.
        confidence: Confidence of all intervals, in (0, 1).

    Raises:
        LayerticketError: If the file cannot be read, a needed column is missing, a value is
            invalid, or two rows are the same run; the message gives the line.
    """
    header, lines = _lines(path)
    known = _known(header, path)
    others = tuple(name for at, name in enumerate(header) if at not in known.values())
    rows: dict[tuple[Any, ...], Row] = {}
    for number, cells in lines:
        where = f"{path.name}, line {number}"
        row = _row(dict(zip(header, cells, strict=True)), header, known, others, where)
        key = (row.model, row.budget, row.method, row.draw, row.seed)
        if key in rows:
            raise LayerticketError(
                f"{where}: {row.method}, seed {row.seed} of {row.model} appears twice. Add a "
                "column draw to number random choices of a seed, or a column budget, or remove one "
                "row."
            )
        rows[key] = row
    if not rows:
        raise LayerticketError(f"{path} has no rows after its first line. Add one for each run.")
    dense = {row.model for row in rows.values() if row.kind == "dense"}
    if lacking := sorted({row.model for row in rows.values()} - dense):
        raise LayerticketError(
            f"{path} has no dense network of {lacking[0]!r} to compare with. Name its method dense."
        )
    found = compare_rows(rows.values(), margin=margin, confidence=confidence)
    return Study.from_record(
        {
            "schema": SCHEMA,
            "title": path.stem,
            "verdict": found.verdict,
            "runs": as_record(list(rows.values())),
            "comparisons": as_record(found.comparisons),
            "networks": {},
            "margin": margin,
            "confidence": confidence,
            "data": None,
            "classes": None,
            "test_images": None,
            "environment": {},
            "environments": [],
            "command": f"layerticket report {path.name}",
            "study": {},
            "columns": others,
        }
    )


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the column names, and every non-empty row with its line number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise LayerticketError(f"{path} cannot be read as a CSV file: {err}.") from err
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        lines.extend(
            (reader.line_num, [cell.strip() for cell in cells])
            for cells in reader
            if any(cell.strip() for cell in cells)
        )
    except csv.Error as err:
        raise LayerticketError(f"{path}, line {reader.line_num}: {err}.") from err
    if not lines:
        raise LayerticketError(f"{path} is empty. Its first line names columns: method,seed,...")
    (_, header), *rows = lines
    for number, cells in rows:
        if len(cells) != len(header):
            raise LayerticketError(
                f"{path.name}, line {number} has {len(cells)} cells, but there are {len(header)} "
                "columns. Separate cells by commas, and put texts with commas in double quotes."
            )
    return header, rows


def _known(header: Sequence[str], path: Path) -> dict[str, int]:
    """Return the known columns and their positions."""
    names = [name.lower().replace(" ", "_") for name in header]
    for name in header:
        if not name or header.count(name) > 1:
            raise LayerticketError(f"{path}: the column {name!r} is named twice or has no name.")
    for name in NEEDED:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Is it {header[names.index(near[0])]!r}? Call it {name}." if near else ""
            raise LayerticketError(
                f"{path} has no column {name!r}.{hint} Columns: {', '.join(header)}. Needed are "
                f"{', '.join(NEEDED)}, separated by commas."
            )
    return {name: names.index(name) for name in (*NEEDED, *READERS) if name in names}


def _row(
    cells: Mapping[str, str],
    header: Sequence[str],
    known: Mapping[str, int],
    others: Sequence[str],
    where: str,
) -> Row:
    """Return the row of a study for one line."""
    values: dict[str, Any] = {}
    for name, at in known.items():
        text = cells[header[at]]
        try:
            values[name] = READERS[name](text) if text else None
        except ValueError as err:
            raise LayerticketError(f"{where}: {name} is {text!r}; {err}.") from None
    for name in ("method", "seed"):
        if values[name] is None:
            raise LayerticketError(f"{where}: {name} is empty. Every row needs one.")
    accuracy, method = values.pop("accuracy"), values["method"]
    values |= _part(method, values)
    if (values["kind"], values["role"]) == ("control", "baseline"):
        raise LayerticketError(
            f"{where}: {method!r} is a control, but its role is baseline: in a study these are the "
            "networks without one single block, and a CSV file does not name blocks. Give it the "
            "role control, or leave the role empty."
        )
    seconds, search = values.pop("seconds", None), values.get("search_seconds")
    bill = {name: values.get(name) for name in ("energy_kwh", "co2_kg")}
    bill |= {"train_seconds": seconds, "search_seconds": search or 0.0}
    error = values.pop("error", None)
    failed, is_nan = accuracy is None, cells[header[known["accuracy"]]] != ""
    why = words.NAN_RESULT if is_nan else "the file has no accuracy"
    return Row(
        **{name: value for name, value in values.items() if value is not None}
        | {
            "id": where,
            "model": values.get("model") or "network",
            "budget": None if method == "dense" else values.get("budget"),
            "status": "failed" if failed else "done",
            "error": error or (why if failed else None),
            "test_accuracy": accuracy,
            "train_seconds": seconds,
            "cost": None if failed else bill,
            "config": {name: cells[name] for name in others} or None,
        }
    )


def _part(method: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Return kind and role of a method, if the file does not give them."""
    if method == "dense":
        return {"kind": "dense", "role": "dense"}
    named = method in CONTROLS
    kind = given.get("kind") or ("shallower" if method == "shallower" else "")
    role = given.get("role") or ("control" if named else "criterion")
    return {"kind": kind or ("control" if named else "ticket"), "role": role}


def _within(most: float, asked: str) -> Callable[[str], float | None]:
    """Return a reader of numbers from 0 to `most`; nan means not known."""

    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(asked) from None
        if math.isnan(value):
            return None
        if not 0 <= value <= most or math.isinf(value):
            raise ValueError(asked)
        return value

    return read


_fraction = _within(1.0, "give a fraction in [0, 1], not percent")
_amount = _within(math.inf, "give a number from 0")


def _whole(text: str) -> int:
    value = _amount(text)
    if value is None or value != int(value):
        raise ValueError("give a whole number from 0")
    return int(value)


def _one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"allowed are {', '.join(allowed)}")
        return text

    return read


READERS: Mapping[str, Callable[[str], Any]] = {
    "method": str,
    "seed": _whole,
    "accuracy": _fraction,
    "model": str,
    "budget": str,
    "draw": _whole,
    "role": _one_of(ROLES),
    "kind": _one_of(KINDS),
    "reference": str,
    "error": str,
    "folder": str,
    "validation_accuracy": _fraction,
    "macs": _whole,
    "params": _whole,
    "epochs": _whole,
    "seconds": _amount,
    "search_seconds": _amount,
    "images_per_second": _amount,
    "energy_kwh": _amount,
    "co2_kg": _amount,
    "peak_memory_bytes": _whole,
    "device": str,
    "precision": str,
}
"""Reader of each known column; an empty cell means not known."""
