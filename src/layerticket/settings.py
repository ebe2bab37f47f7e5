"""Declare settings once, and check them in the same way everywhere.

A class decorated with `settings` is a frozen dataclass whose annotations define what is allowed.
The constructor, `dataclasses.replace`, files and the command line all use this check.
"""

import functools
import json
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AllowInfNan,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import core_schema

from layerticket.errors import LayerticketError, unknown_name

T = TypeVar("T")

Flag = Annotated[bool, Strict()]
"""true or false; not 0, 1 or a text."""
Text = Annotated[str, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
"""A finite number, whole or not; no text and no boolean."""
Positive = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0)]
NotNegative = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0)]
Share = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0, lt=1)]
"""From 0 to below 1."""
Confidence = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0, lt=1)]


def check_margin(given: float) -> float:
    """Raise for a margin of accuracies of 0.5 or more, probably meant as percentage points.

    Raises:
        LayerticketError: If it is 0.5 or more.
    """
    if given >= 0.5:
        raise LayerticketError(
            f"{given:g} is too large for a margin of accuracies, which are fractions: 0.005 is "
            "half a percentage point. Give less than 0.5."
        )
    return given


Margin = Annotated[NotNegative, AfterValidator(check_margin)]
"""A difference of accuracies, as a fraction from 0 to below 0.5."""
Count = Annotated[int, Strict(), Field(ge=1, le=2**53)]
"""A whole number from 1."""
Whole = Annotated[int, Strict(), Field(ge=0, le=2**53)]
"""A whole number from 0."""
Few = Annotated[int, Strict(), Field(ge=1, le=1000)]
"""From 1 to 1,000, for things that are planned or done one by one."""
Many = Annotated[int, Strict(), Field(ge=1, le=100_000)]
"""From 1 to 100,000, for things that take long, such as epochs."""
Side = Annotated[int, Strict(), Field(ge=1, le=65_536)]
"""Number of channels, or of pixels along one axis of an image."""
LARGEST_INPUT = 2**28
"""Maximum number of values in one input (1 GB)."""


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise if the shape of one input is too large for memory.

    Raises:
        LayerticketError: If its sides multiply to more than `LARGEST_INPUT`.
    """
    if math.prod(shape) > LARGEST_INPUT:
        raise LayerticketError(
            f"{name} is {shape}, {math.prod(shape):,} values per input; at most {LARGEST_INPUT:,} "
            "are allowed."
        )


def _known_device(given: str) -> str:
    """Raise unless a text is a device name; whether the device exists is checked later."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", given):
        raise LayerticketError(f"{_shortly(given)} is not a device. Use auto, cpu, cuda or cuda:N.")
    return given


DeviceName = Annotated[str, Strict(), AfterValidator(_known_device)]
"""auto, cpu, cuda or cuda:N."""


MOST_BYTES = 2**50


def bytes_of(given: object) -> int:
    """Return an amount of memory in bytes: a number or text, without or with a unit (2GiB, 900MB).

    Raises:
        LayerticketError: If it is not an amount of memory.

    Example:
        >>> bytes_of("1.5KiB")
        1536
    """
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MOST_BYTES:
        return given
    found = re.fullmatch(
        r"([0-9]{1,18}(?:\.[0-9]{1,9})?) *(?:([kKMGT]?)(i?)B)?", str(given).strip()
    )
    if isinstance(given, str) and found and float(found[1]):
        number, prefix, binary = found.groups()
        unit = (1024 if binary else 1000) ** " KMGT".index((prefix or " ").upper())
        if float(number) * unit <= MOST_BYTES:
            return int(float(number) * unit)
    raise LayerticketError(
        f"{_shortly(given)} is not an amount of memory. Give bytes, or a number with kB, MB, GB, "
        "KiB, MiB or GiB; at most 1024 TiB."
    )


def size_of(given: object) -> tuple[int, int]:
    """Read height and width of images, or one number for both.

    Raises:
        LayerticketError: If it is something else.

    Example:
        >>> size_of(64), size_of("64,48"), size_of([64, 48])
        ((64, 64), (64, 48), (64, 48))
    """
    numbers = _numbers(given)
    if len(numbers) not in (1, 2):
        raise LayerticketError(
            f"{_shortly(given)} is no size of images. Give height and width: 64,48; or one number "
            "for both."
        )
    return numbers[0], numbers[-1]


def shape_of(given: object) -> tuple[int, int, int]:
    """Read channels, height and width of images.

    Raises:
        LayerticketError: If it is something else.

    Example:
        >>> shape_of("3,32,32")
        (3, 32, 32)
    """
    numbers = _numbers(given)
    if len(numbers) != 3:
        raise LayerticketError(
            f"{_shortly(given)} is no shape of images. Give channels,height,width: 3,32,32."
        )
    check_shape(numbers, "the shape of an input")
    return numbers[0], numbers[1], numbers[2]


def _numbers(given: object) -> tuple[int, ...]:
    """Read sides of images: one, a list, or a text with commas; empty: something else."""
    parts = given
    if isinstance(given, str):
        parts = [int(n) if n.strip().isdecimal() else n for n in re.split("[,x]", given[:60])]
    listed = tuple(parts) if isinstance(parts, (list, tuple)) else (parts,)
    return listed if all(type(n) is int and 1 <= n <= 65_536 for n in listed) else ()


def range_of(given: object) -> tuple[int, int]:
    """Read the pixel values of black and white: a pair, or a text "0,4095".

    Raises:
        LayerticketError: If it is something else.
    """
    pair = re.fullmatch(r" *(\d{1,6}) *, *(\d{1,6}) *", given) if isinstance(given, str) else None
    values = tuple(map(int, pair.groups())) if pair else given
    if isinstance(values, (list, tuple)) and len(values) == 2:
        low, high = values
        if type(low) is type(high) is int and 0 <= low < high:
            return low, high
    raise LayerticketError(
        f"{_shortly(given)} is no range of pixel values. Give those of black and white: 0,4095."
    )


if typing.TYPE_CHECKING:
    Bytes = int
    Size = tuple[int, int]
    Shape = tuple[int, int, int]
    Range = tuple[int, int]
else:
    Bytes = Annotated[int | str, PlainValidator(bytes_of)]
    """An amount of memory in bytes, or with a unit, such as "2GiB"."""
    Size = Annotated[str, PlainValidator(size_of)]
    """Height and width in pixels: 64, "64,48" or [64, 48]."""
    Shape = Annotated[str, PlainValidator(shape_of)]
    """Channels, height and width: "3,32,32"."""
    Range = Annotated[str, PlainValidator(range_of)]
    """Pixel values of black and white: "0,4095"."""


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turn a class into a frozen dataclass that checks its fields by their annotations.

    Fields are given by name. Lists become tuples, and texts become paths, as annotated. A
    `__post_init__` gets checked values and may raise a LayerticketError for combinations.

    Raises:
        LayerticketError: From the constructor and from `dataclasses.replace`, with the given and
            the allowed values.

    Example:
        >>> @settings
        ... class Cut:
        ...     blocks: Count = 1
        >>> Cut(blocks=0)
        Traceback (most recent call last):
        ...
        layerticket.errors.LayerticketError: blocks is 0; it must be at least 1.
    """
    made = dataclass(frozen=True, kw_only=True)(cls)
    build = made.__init__

    def checked(self: object, *unnamed: object, **values: object) -> None:
        if unnamed:
            raise LayerticketError(f"{cls.__name__} takes its settings by name, not {unnamed!r}.")
        checks = _checks(made)  # type: ignore[arg-type]  # classes are hashable
        for name in values:
            if name not in checks:
                raise unknown_name(f"{cls.__name__} setting", name, checks)
        for field in fields(made):  # type: ignore[arg-type]  # a dataclass
            if field.name not in values and field.default is field.default_factory is MISSING:
                raise LayerticketError(f"{field.name} is missing. Give {field.name}.")
        build(self, **{name: _checked(name, checks[name], value) for name, value in values.items()})

    checked.__wrapped__ = build  # type: ignore[attr-defined]  # signature and help read it
    made.__init__ = checked  # type: ignore[method-assign]
    # As a field of other settings: an object of the class, or a table for one.
    made.__get_pydantic_core_schema__ = classmethod(  # type: ignore[attr-defined]
        lambda cls, *_: core_schema.no_info_plain_validator_function(
            lambda given: given if isinstance(given, cls) else cls(**_table(given))
        )
    )
    return made


@functools.cache
def _checks(cls: type) -> dict[str, TypeAdapter[Any]]:
    """Return a checker for each field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True, localns=_LATER)
    return {field.name: _adapter(hints[field.name]) for field in fields(cls)}


_LATER: Mapping[str, Any] = {"Replacement": Any}  # named in annotations of rooms before it


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - an annotation
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:  # a class that pydantic does not know
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def checked(name: str, hint: Any, value: object) -> Any:  # noqa: ANN401 - an annotation
    """Check one value by an annotation, as a field of settings is.

    Args:
        name: What it is, for messages.
        hint: The annotation.
        value: What was given.

    Returns:
        The value, lists as tuples and texts as paths where the annotation says so.

    Raises:
        LayerticketError: Saying what was given and what is allowed.

    Example:
        >>> checked("seeds", Count, 0)
        Traceback (most recent call last):
        ...
        layerticket.errors.LayerticketError: seeds is 0; it must be at least 1.
    """
    return _checked(name, _adapter(hint), value)


def _checked(name: str, check: TypeAdapter[Any], value: object) -> Any:  # noqa: ANN401
    try:
        found = check.validate_python(value)
    except ValidationError as err:
        raise LayerticketError(first_problem(name, err)) from None
    paths = found if isinstance(found, tuple) else (found,)
    if any(isinstance(path, Path) and "\0" in str(path) for path in paths):
        raise LayerticketError(f"{name} has a null byte. Remove it.")
    return found


def _table(given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise LayerticketError(f"{given!r} is not a table of keys and values.")
    return given


def from_table(cls: type[T], table: object, where: str) -> T:
    """Return the settings of a table in a file; every key is checked.

    Args:
        cls: A class decorated with `settings`.
        table: Values by field name, as a TOML or JSON parser returns them.
        where: File and table, for messages.

    Raises:
        LayerticketError: If a key is unknown or missing, or a value is invalid.

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


Digest = Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{64}\z")]
"""A SHA-256, as 64 hexadecimal digits."""
Name = Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,250}\z")]
"""Name of a folder or file of ours: no separator, and no dot first."""
Inside = Annotated[
    str, Strict(), Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\z")
]
"""Relative path inside the folder of the record."""


def restored(
    cls: type[T], record: object, where: str, given: Mapping[str, object] | None = None
) -> T:
    """Build a dataclass from a record; every field is checked by its annotation.

    A record may have been written by another version or by hand: a correct checksum does not prove
    that its values are valid. Lists become tuples; nothing else is converted.

    Args:
        cls: The dataclass.
        record: JSON values by field name; fields with a default may be missing.
        where: File, and place in it, for messages.
        given: Fields that are already built; they may be missing in the record.

    Raises:
        LayerticketError: If a field is missing, unknown or has a wrong value.

    Example:
        >>> @dataclass
        ... class Point:
        ...     x: Count
        >>> restored(Point, {"x": "1"}, "point.json")
        Traceback (most recent call last):
        ...
        layerticket.errors.LayerticketError: point.json: x is '1'; it must be a whole number.
    """
    given = given or {}
    if not isinstance(record, Mapping):
        raise LayerticketError(f"{where} is {_shortly(record)}; it must be a table of keys.")
    checks = _checks(cls)  # type: ignore[arg-type]  # classes are hashable
    if odd := [name for name in record if name not in checks and name not in given]:
        raise LayerticketError(
            f"{where}: key {str(odd[0])[:60]!r} is not known; another version wrote it, or it was "
            "edited by hand."
        )
    for field in fields(cls):  # type: ignore[arg-type]  # a dataclass
        lacking = field.default is MISSING and field.default_factory is MISSING
        if lacking and field.name not in record and field.name not in given:
            raise LayerticketError(f"{where}: key {field.name!r} is missing.")
    made = {
        name: _json_checked(f"{where}: {name}", checks[name], value)
        for name, value in record.items()
        if name not in given
    }
    return cls(**made, **given)


def checked_json(name: str, hint: Any, value: object) -> Any:  # noqa: ANN401 - an annotation
    """Check a JSON value by an annotation: no conversion, except lists to tuples.

    Raises:
        LayerticketError: With the given and the allowed values.
    """
    return _json_checked(name, _adapter(hint), value)


def _json_checked(name: str, check: TypeAdapter[Any], value: object) -> Any:  # noqa: ANN401
    try:
        return check.validate_json(json.dumps(value, ensure_ascii=True), strict=True)
    except ValidationError as err:
        raise LayerticketError(first_problem(name, err)) from None
    except (ValueError, TypeError, RecursionError) as err:
        raise LayerticketError(f"{name} is {_shortly(value)}, not a JSON value.") from err


def to_table(value: object) -> Any:  # noqa: ANN401 - a table, a list or a plain value
    """Return settings as tables and lists for TOML; None values are left out.

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


def first_problem(name: str, err: ValidationError) -> str:
    """Return a message on the first wrong setting: what was given and what is allowed."""
    problem = err.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"] if not re.search(r"[\[(-]", str(part))]
    name = ".".join([name, *path])
    kind, given, limits = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "literal_error":
        return str(unknown_name(name, str(given), _choices(str(limits["expected"]))))
    if kind == "value_error":  # raised by a class of ours further down
        return f"{name}: {limits['error']}"
    wording: Mapping[str, Callable[[], str]] = {
        "greater_than_equal": lambda: f"at least {_shortly(limits['ge'])}",
        "greater_than": lambda: f"above {_shortly(limits['gt'])}",
        "less_than_equal": lambda: f"at most {_shortly(limits['le'])}",
        "less_than": lambda: f"below {_shortly(limits['lt'])}",
        "int_type": lambda: "a whole number",
        "float_type": lambda: "a number",
        "finite_number": lambda: "a finite number",
        "string_type": lambda: "a text",
        "bool_type": lambda: "true or false",
        "tuple_type": lambda: "a list",
        "dict_type": lambda: "a table of keys and values",
        "dataclass_type": lambda: "a table of keys and values",
        "path_type": lambda: "a text with a path",
        "string_pattern_mismatch": lambda: "a name or digest as we write them",
        "missing": lambda: "there",
        "unexpected_keyword_argument": lambda: "left out",
        "none_required": lambda: "null",
    }
    allowed = wording[kind]() if kind in wording else problem["msg"].lower()
    shown = _shortly(given)
    return f"{name} is {shown}; it must be {allowed}."


def _choices(expected: str) -> list[str]:
    """Return the words of pydantic's "'a', 'b' or 'c'"."""
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _shortly(value: object) -> str:
    """Return a value as text of at most 60 characters."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"  # Python cannot print the longest
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
