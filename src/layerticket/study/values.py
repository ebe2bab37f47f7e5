"""From tables of a file to frozen dataclasses, and back.

Enters: what a TOML parser returns, and a dataclass. Leaves: an instance, or an error that names the
file, the key and the nearest right one. Refuses to know what the values mean.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from layerticket.errors import LayerticketError, unknown_name

T = TypeVar("T")


def build(cls: type[T], table: object, where: str, **made: object) -> T:
    """Make a dataclass of a table; every key is checked.

    Args:
        cls: A dataclass.
        table: Values by name of the field.
        where: File and table, for messages.
        made: Fields that are made already; the table does not have them.

    Raises:
        LayerticketError: If a key is unknown or missing, or a value is of another type or refused
            by the dataclass.

    Example:
        >>> from layerticket.selection import Budget
        >>> build(Budget, {"remove": 2}, "study.toml: budgets").remove
        2
    """
    if not isinstance(table, Mapping):
        raise LayerticketError(f"{where} is {table!r}, but it must be a table of keys and values.")
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if f.name not in made}  # type: ignore[arg-type]  # T is a dataclass
    for key in table:
        if key not in known:
            raise unknown_name(f"{where}: key", str(key), [*known, *made])
    hints = typing.get_type_hints(cls)
    values = {key: checked(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    for name, field in known.items():
        if name not in values and field.default is field.default_factory is MISSING:
            raise LayerticketError(f"{where}: key {name!r} is missing. Add a line {name} = ...")
    try:
        return cls(**values, **made)
    except LayerticketError as err:
        raise LayerticketError(f"{where}: {err}") from err


def checked(wanted: Any, value: object, where: str) -> Any:  # noqa: ANN401 - any type there is
    """Return a value as the type that is wanted, or refuse it.

    Whole numbers stand for fractions, lists become tuples, texts paths, tables dataclasses.

    Raises:
        LayerticketError: If it is of another type.
    """
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _one_of(parts, value, where)
    if origin is Literal:
        if value not in parts:
            raise unknown_name(where, str(value), map(str, parts))
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(checked(parts[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if is_dataclass(wanted) and isinstance(wanted, type):
        return build(wanted, value, where)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if origin in (dict, Mapping) else wanted
    if plain in (dict, str, int, float, bool) and type(value) is plain:
        return value
    raise LayerticketError(f"{where} is {value!r}, but it must be {_words(wanted)}.")


def _one_of(kinds: tuple[Any, ...], value: object, where: str) -> Any:  # noqa: ANN401
    """Return the value as the first of several types that it fits."""
    real = [kind for kind in kinds if kind is not types.NoneType]
    for kind in real[:-1]:
        try:
            return checked(kind, value, where)
        except LayerticketError:
            continue
    return checked(real[-1], value, where)


def _words(wanted: Any) -> str:  # noqa: ANN401
    """Say what a value must be."""
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    if wanted is Path:
        return "a text with a path"
    if typing.get_origin(wanted) is tuple:
        return "a list"
    return words.get(wanted, "a table of keys and values")


def table_of(value: object) -> Any:  # noqa: ANN401 - as in a TOML file
    """Turn a dataclass into tables and lists as TOML has them; what is None is left out.

    Example:
        >>> from layerticket.selection import Budget
        >>> table_of(Budget(remove=2))
        {'remove': 2}
    """
    if is_dataclass(value) and not isinstance(value, type):
        pairs = {f.name: getattr(value, f.name) for f in fields(value)}
        return table_of(pairs)
    if isinstance(value, Mapping):
        return {key: table_of(part) for key, part in value.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [table_of(part) for part in value]
    return str(value) if isinstance(value, Path) else value
