"""From the `method` of a study file to its dataclass."""

import itertools
import typing
from collections.abc import Mapping
from typing import Any

from layerticket.errors import LayerticketError, unknown_name
from layerticket.study.files.values import build, table_of
from layerticket.study.methods.method import Method
from layerticket.study.methods.rivals import (
    ControlMethod,
    EqualComputeMethod,
    FiltersMethod,
    ImpMethod,
    ShallowerMethod,
    WeightsMethod,
)
from layerticket.study.methods.tickets import LotteryMethod, TicketMethod

__all__ = ["METHODS", "method_of", "methods_of", "table_of_method"]

METHODS: Mapping[str, type[Method]] = {
    cls.kind: cls
    for cls in (
        TicketMethod,
        LotteryMethod,
        ControlMethod,
        ShallowerMethod,
        FiltersMethod,
        WeightsMethod,
        ImpMethod,
        EqualComputeMethod,
    )
}


def method_of(table: Mapping[str, Any], where: str) -> Method:
    """Make a method of its table in a study file.

    Raises:
        LayerticketError: If `method` is missing or unknown, or as in `build`.

    Example:
        >>> method_of({"method": "ticket", "criterion": "snip"}, "study.toml").label
        'snip'
    """
    if "method" not in table:
        raise LayerticketError(
            f"{where}: key 'method' is missing. Available: {', '.join(METHODS)}."
        )
    kind = table["method"]
    if kind not in METHODS:
        raise unknown_name(f"{where}: method", str(kind), METHODS)
    return build(METHODS[kind], {k: v for k, v in table.items() if k != "method"}, where)


def methods_of(table: object, where: str) -> tuple[Method, ...]:
    """Make methods of a table in which a list may stand where one value does.

    ``criterion = ["snip", "grasp"]`` gives two methods, two such lists one for each pair.

    Raises:
        LayerticketError: As in `method_of`.

    Example:
        >>> table = {"method": "ticket", "criterion": ["snip", "grasp"]}
        >>> [method.label for method in methods_of(table, "study.toml")]
        ['snip', 'grasp']
    """
    if not isinstance(table, Mapping):
        raise LayerticketError(f"{where} is {table!r}, but it must be a table.")
    cls = METHODS.get(str(table.get("method")))
    hints = {} if cls is None else typing.get_type_hints(cls)
    listed = [
        key
        for key, value in table.items()
        if isinstance(value, list) and key in hints and typing.get_origin(hints[key]) is not tuple
    ]
    choices = itertools.product(*(table[key] for key in listed))
    return tuple(
        method_of({**table, **dict(zip(listed, one, strict=True))}, where) for one in choices
    )


def table_of_method(method: Method) -> dict[str, Any]:
    """Return the table of a method, as `method_of` reads it."""
    return {"method": method.kind, **table_of(method)}
