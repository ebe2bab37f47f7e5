"""What part each row of a study plays. Enters: the object of ``study.json``. Leaves: marked rows.

A kind says how a network was made; its role says what it is there for. Tickets of a criterion are
what a study is about; the same shape with new weights, and blocks drawn at random, are controls
although they are tickets too.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["marked"]

TICKETS = ("ticket", "lottery")
CONTROLS = ("control", "shallower", "equal_compute")
NEW_WEIGHTS = ", new weights"
RANDOM = re.compile(r"(lottery )?random\b")
# What two methods may differ in and still find the same shape.
NOT_OF_THE_SHAPE = ("label", "initialization")

Table = Mapping[str, Any]


def marked(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mark every row with its role, its label, and what it is matched to.

    All of it follows from the methods of the study file; where these are not there, from labels.

    Args:
        study: The object of ``study.json``: "runs", and the study file as "study". It is not
            modified.

    Returns:
        The rows with "role" (dense, criterion, control or rival), "label" (the method without the
        number of a draw) and "reference" (label of the ticket it belongs to; None if it has none).
    """
    listed = (study.get("study") or {}).get("methods") or []
    tables = {str(table["label"]): table for table in listed if "label" in table}
    return [{**run, **_marks(run, tables)} for run in study["runs"]]


def _marks(run: Mapping[str, Any], tables: Mapping[str, Table]) -> dict[str, Any]:
    label, kind = _label(run, tables), run["kind"]
    table = tables.get(label)
    new = kind in TICKETS and _has_new_weights(label, table)
    role = "rival"
    if kind == "dense":
        role = "dense"
    elif kind in CONTROLS or new or (kind in TICKETS and _is_random(label, table)):
        role = "control"
    elif kind in TICKETS:
        role = "criterion"
    reference = None
    if new:
        reference = _twin(label, table, tables)
    elif kind not in ("dense", *TICKETS) and table is not None:
        reference = table.get("reference") or _first_ticket(tables)
    return {"role": role, "label": label, "reference": reference}


def _label(run: Mapping[str, Any], tables: Mapping[str, Table]) -> str:
    """Name a method without the number of its draw; a number of the user's own stays."""
    method = str(run["method"])
    if run["draw"] is None:
        return method
    bare = re.sub(rf" {run['draw']}$", "", method)
    several = tables.get(bare, {}).get("draws", 1) > 1
    return method if method in tables and not several else bare


def _has_new_weights(label: str, table: Table | None) -> bool:
    if table is None:
        return label.endswith(NEW_WEIGHTS)
    return table.get("initialization") == "seed"


def _is_random(label: str, table: Table | None) -> bool:
    if table is None:
        return RANDOM.match(label) is not None
    return table.get("criterion") == "random"


def _twin(label: str, table: Table | None, tables: Mapping[str, Table]) -> str | None:
    """Name the method that finds the same shape and trains it from its own weights."""
    if table is None:
        return label.removesuffix(NEW_WEIGHTS)
    shape = _shape(table)
    return next(
        (
            name
            for name, other in tables.items()
            if other.get("initialization") != "seed" and _shape(other) == shape
        ),
        None,
    )


def _shape(table: Table) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in NOT_OF_THE_SHAPE}


def _first_ticket(tables: Mapping[str, Table]) -> str | None:
    return next((name for name, table in tables.items() if table.get("method") in TICKETS), None)
