"""How a setting is declared once and checked the same way everywhere.

A class marked with `settings` is a frozen dataclass whose annotations say what is allowed. The
constructor, `dataclasses.replace`, a table of a file and the command line all meet that one check.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic.dataclasses
from pydantic import AllowInfNan, ConfigDict, Field, Strict, ValidationError

from layerticket.errors import LayerticketError, unknown_name

T = TypeVar("T")

Flag = Annotated[bool, Strict()]
"""true or false; not 0, 1 or a text."""
Text = Annotated[str, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
"""A finite number; whole ones stand for fractions, texts and booleans do not."""
Positive = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0)]
NotNegative = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0)]
Share = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0, lt=1)]
"""From 0 to below 1."""
Confidence = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0, lt=1)]
Count = Annotated[int, Strict(), Field(ge=1, lt=2**53)]
"""A whole number from 1."""
Whole = Annotated[int, Strict(), Field(ge=0, lt=2**53)]
"""A whole number from 0."""


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its fields by their annotations.

    Fields are given by name. Lists become tuples and texts paths where the annotation says so; a
    `__post_init__` sees checked values and may refuse combinations with a LayerticketError.

    Raises:
        LayerticketError: From the constructor and from `dataclasses.replace`: what was given, what
            is allowed.

    Example:
        >>> @settings
        ... class Cut:
        ...     blocks: Count = 1
        >>> Cut(blocks=0)
        Traceback (most recent call last):
        ...
        layerticket.errors.LayerticketError: blocks is 0; it must be at least 1.
    """
    made = pydantic.dataclasses.dataclass(
        cls,
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True),
    )
    build = made.__init__

    def checked(self: object, *args: object, **values: object) -> None:
        try:
            build(self, *args, **values)
        except ValidationError as err:
            raise LayerticketError(_first_problem(err, made)) from None

    checked.__wrapped__ = build  # type: ignore[attr-defined]  # signature and help read it
    made.__init__ = checked  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def from_table(cls: type[T], table: object, where: str) -> T:
    """Make settings of a table in a file; every key is checked.

    Args:
        cls: A class marked with `settings`.
        table: Values by name of the field, as a TOML or JSON parser returns them.
        where: File and table, for messages.

    Raises:
        LayerticketError: If a key is unknown or missing, or a value is refused.

    Example:
        >>> from layerticket.selection import Budget
        >>> from_table(Budget, {"remove": 2}, "study.toml: budgets").remove
        2
    """
    if not isinstance(table, Mapping):
        raise LayerticketError(f"{where} is {table!r}; it must be a table of keys and values.")
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # a dataclass
    for key in table:
        if key not in known:
            raise unknown_name(f"{where}: key", str(key), known)
    try:
        return cls(**table)
    except LayerticketError as err:
        raise LayerticketError(f"{where}: {err}") from err


def to_table(value: object) -> Any:  # noqa: ANN401 - a table, a list or a plain value
    """Turn settings into tables and lists as TOML has them; what is None is left out.

    Example:
        >>> from layerticket.selection import Budget
        >>> to_table(Budget(remove=2))
        {'remove': 2}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return to_table({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return {key: to_table(part) for key, part in value.items() if part is not None}
    if isinstance(value, (list, tuple)):
        return [to_table(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _first_problem(err: ValidationError, cls: type) -> str:
    """Say what was given and what is allowed, for the first field that is wrong."""
    problem = err.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "is-"))]
    name = ".".join(path) or cls.__name__
    kind, given, limits = problem["type"], problem["input"], problem.get("ctx", {})
    if kind in ("missing", "missing_keyword_only_argument"):
        return f"{name} is missing. Give {name}."
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [field.name for field in fields(cls)]
        return str(unknown_name(f"{cls.__name__} setting", name, known))
    if kind == "literal_error":
        return str(unknown_name(name, str(given), _choices(str(limits["expected"]))))
    if kind == "value_error":  # raised by a class of ours further down
        return f"{name}: {limits['error']}" if path else str(limits["error"])
    wording: Mapping[str, Callable[[], str]] = {
        "greater_than_equal": lambda: f"at least {limits['ge']:g}",
        "greater_than": lambda: f"above {limits['gt']:g}",
        "less_than_equal": lambda: f"at most {limits['le']:g}",
        "less_than": lambda: f"below {limits['lt']:g}",
        "int_type": lambda: "a whole number",
        "float_type": lambda: "a number",
        "finite_number": lambda: "a finite number",
        "string_type": lambda: "a text",
        "bool_type": lambda: "true or false",
        "tuple_type": lambda: "a list",
        "dict_type": lambda: "a table of keys and values",
        "dataclass_type": lambda: "a table of keys and values",
        "path_type": lambda: "a text with a path",
    }
    allowed = wording[kind]() if kind in wording else problem["msg"].lower()
    shown = repr(given) if len(repr(given)) <= 60 else f"{repr(given)[:57]}..."
    return f"{name} is {shown}; it must be {allowed}."


def _choices(expected: str) -> list[str]:
    """Take the words out of pydantic's "'a', 'b' or 'c'"."""
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(", ")]
