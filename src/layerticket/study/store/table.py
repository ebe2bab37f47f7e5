"""One flat table of all rows: ``runs.csv``, and ``runs.parquet`` where pyarrow is installed."""

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layerticket.files import write_atomically

__all__ = ["flat", "write_table"]

# Too deep for a table; they stand in study.json.
DEEP = ("config", "curve", "scores", "match", "evaluations", "similarity", "removed", "kept")


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row of a study flat: lists become texts, evaluations a column each.

    Example:
        >>> row = {"seed": 0, "removed": ["a", "b"], "evaluations": {"fgsm": {"accuracy": 0.5}}}
        >>> flat(row)
        {'seed': 0, 'removed': 'a b', 'accuracy on fgsm': 0.5}
    """
    plain = {key: value for key, value in row.items() if key not in DEEP}
    for key in ("removed", "kept"):
        if key in row:
            plain[key] = " ".join(row[key])
    judged = row.get("evaluations") or {}
    plain |= {f"accuracy on {name}": found["accuracy"] for name, found in judged.items()}
    if row.get("similarity"):
        plain["mean similarity"] = row["similarity"]["mean"]
    return plain


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the table of a study; each file is seen whole or not at all.

    Args:
        folder: Folder of the study.
        rows: The runs of ``study.json``.

    Returns:
        The files.
    """
    table = [flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in table for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    files = [folder / "runs.csv"]
    write_atomically(files[0], text.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        files.append(folder / "runs.parquet")
        write_atomically(files[1], _parquet(table, columns))
    return files


def _parquet(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Return the table as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.table({name: pa.array([row.get(name) for row in table]) for name in columns})
    sink = io.BytesIO()
    pq.write_table(made, sink)
    return sink.getvalue()
