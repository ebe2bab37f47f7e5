"""Configurations of a network with fewer layers, from that of the dense one.

Letters: n entries of a list in the dense network, m of them left. Nothing here knows which field
of a configuration holds n: candidates are named, and the caller builds the class to see.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["carry_over", "shortened"]

ABOUT_LAYERS = re.compile(r"layer|depth|block|stage|pattern|idx|indices")


def shortened(config: Any, total: int, gone: Sequence[int]) -> Iterator[Any]:  # noqa: ANN401
    """Yield copies of a configuration that may describe the network without some layers.

    In each copy one number n becomes m (a field, or a member of a list such as ``depths``), and
    the fields that list something for every layer, or number layers, lose what is gone: those
    named after layers, then all, then none.

    Args:
        config: Configuration of the dense network, as Hugging Face's classes take it; not changed.
        total: Entries of the list in the dense network, n.
        gone: Indices of the entries that were removed.
    """
    for path, field, member in _counts(config, total):
        for pattern in (ABOUT_LAYERS, re.compile(""), None):
            candidate = copy.deepcopy(config)
            part = _at(candidate, path)
            if pattern is not None:
                _drop_entries(part, pattern, total, gone, apart=field)
            left = total - len(gone)
            if member is None:
                setattr(part, field, left)
            else:
                values = list(getattr(part, field))
                values[member] = left
                setattr(part, field, type(getattr(part, field))(values))
            yield candidate


def carry_over(target: Any, before: Any, after: Any) -> None:  # noqa: ANN401 - configurations
    """Give a configuration every field in which two others of its class differ, as in `after`."""
    for field, value in vars(after).items():
        old = vars(before).get(field)
        if _is_config(value) and _is_config(old) and _is_config(vars(target).get(field)):
            carry_over(vars(target)[field], old, value)
        elif not _is_config(value) and old != value:
            vars(target)[field] = copy.deepcopy(value)


def _is_config(value: object) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "model_type")


def _counts(config: Any, total: int) -> list[tuple[tuple[str, ...], str, int | None]]:  # noqa: ANN401
    """List where n stands: path of the part, field, member of the field's list or None."""
    found: list[tuple[tuple[str, ...], str, int | None]] = []

    def visit(part: Any, path: tuple[str, ...]) -> None:  # noqa: ANN401 - a configuration
        for field, value in vars(part).items():
            if field.startswith("_"):
                continue
            if _is_config(value):
                visit(value, (*path, field))
            elif type(value) is int and value == total:
                found.append((path, field, None))
            elif isinstance(value, (list, tuple)):
                found.extend(
                    (path, field, member)
                    for member, entry in enumerate(value)
                    if type(entry) is int and entry == total
                )

    visit(config, ())
    return sorted(found, key=lambda place: ABOUT_LAYERS.search(place[1]) is None)


def _at(config: Any, path: Sequence[str]) -> Any:  # noqa: ANN401 - a configuration
    for field in path:
        config = getattr(config, field)
    return config


def _drop_entries(
    part: Any,  # noqa: ANN401 - a configuration
    named: re.Pattern[str],
    total: int,
    gone: Sequence[int],
    *,
    apart: str,
) -> None:
    """Shorten lists with an entry for every layer; renumber lists of layers and hidden states."""
    stages = getattr(part, "stage_names", None) or ()
    for field, value in list(vars(part).items()):
        if field == apart or not isinstance(value, (list, tuple)) or not named.search(field):
            continue
        kept: list[Any] | None = None
        if field == "stage_names" and len(value) == total + 1:
            kept = list(value[: total + 1 - len(gone)])
        elif field in ("_out_indices", "_out_features") and len(stages) == total + 1:
            kept = [_moved_state(entry, stages, gone) for entry in value]
        elif len(value) == total and list(value) != list(range(total)):
            kept = [entry for index, entry in enumerate(value) if index not in gone]
        elif _are_indices(value, total):
            kept = [i - sum(g < i for g in gone) for i in value if i not in gone]
        if kept is not None:
            setattr(part, field, type(value)(kept))


def _are_indices(value: Sequence[Any], total: int) -> bool:
    return (
        all(type(entry) is int and 0 <= entry < total for entry in value)
        and len(set(value)) == len(value) > 0
    )


def _moved_state(entry: Any, stages: Sequence[str], gone: Sequence[int]) -> Any:  # noqa: ANN401
    """Return where the output behind a layer lies now, for an index of states or its name."""
    index = stages.index(entry) if isinstance(entry, str) else entry % len(stages)
    moved = index - sum(layer < index for layer in gone)
    return stages[moved] if isinstance(entry, str) else moved
