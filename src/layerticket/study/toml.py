"""Read, change (`--set`) and write study files; list the studies shipped with the package."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomli_w

from layerticket.data.sources import Reading
from layerticket.errors import LayerticketError
from layerticket.evaluation.robustness import Conditions
from layerticket.files import write_atomically
from layerticket.selection import Budget
from layerticket.settings import from_table, to_table
from layerticket.study.methods import methods_of, table_of_method, with_seeds
from layerticket.study.spec import StudyFile, name_of
from layerticket.training.device import Metering
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers

SECTIONS: Mapping[str, type] = {
    "recipe": Recipe,
    "reading": Reading,
    "conditions": Conditions,
    "energy": Metering,
    "tracking": Trackers,
}
SHIPPED = Path(__file__).resolve().parent / "shipped"
TEMPLATE = Path(__file__).resolve().parent / "template.toml"


def shipped_studies() -> tuple[str, ...]:
    """Return the names of the studies shipped with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def study_path(file: str | Path) -> Path:
    """Return the path of a study file, given a path or the name of a shipped study.

    Raises:
        LayerticketError: If neither exists.

    Example:
        >>> study_path("quick").name
        'quick.toml'
    """
    path = Path(file).expanduser()
    if path.is_file():
        return path
    if str(file) in shipped_studies():
        return SHIPPED / f"{file}.toml"
    if str(file) == TEMPLATE.stem:
        raise LayerticketError(
            "the template is not a study. Write it to a file with `layerticket study new FILE`, "
            "edit it, and run that file."
        )
    raise LayerticketError(
        f"there is no study file {str(file)!r}. Give the path of a TOML file, or a shipped study: "
        f"{', '.join(shipped_studies())}."
    )


def write_template(path: Path) -> None:
    """Write a study file with every key explained, for the user to edit.

    Raises:
        LayerticketError: If the path exists already, or cannot be written.
    """
    if path.exists():
        raise LayerticketError(f"{path} exists already. Give a new file, or delete it first.")
    if not path.parent.is_dir():
        raise LayerticketError(f"there is no folder {str(path.parent)!r} for {path.name!r}.")
    write_atomically(path, TEMPLATE.read_bytes())


def read_study(file: str | Path, changes: Sequence[str] = ()) -> StudyFile:
    """Read a study file or a shipped study.

    Args:
        file: Path of a TOML file, or the name of a shipped study, e.g. quick.
        changes: Settings to change, as ``recipe.epochs=4``; the value is TOML or plain text.

    Returns:
        The study.

    Raises:
        LayerticketError: If the file cannot be read, a key is unknown or missing, or a value is
            invalid; the message gives the file, the key and the nearest valid name.
    """
    path = study_path(file)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise LayerticketError(f"{path} cannot be read as TOML: {err}.") from err
    for change in changes:
        _change(table, change)
    return study_of(table, str(file))


def study_of(table: Mapping[str, Any], where: str = "study") -> StudyFile:
    """Return the study that tables describe.

    Args:
        table: As parsed from TOML.
        where: Name of the source, for messages.

    Raises:
        LayerticketError: If a key is unknown or missing, or a value is invalid.
    """
    table = with_seeds(table, where)
    methods = table.get("methods", [])
    if not isinstance(methods, list):
        raise LayerticketError(
            f"{where}: methods is {methods!r}, but it must be [[methods]] tables."
        )
    for name, cls in SECTIONS.items():
        if isinstance(table.get(name), Mapping):
            table[name] = from_table(cls, table[name], f"{where}: {name}")
    if isinstance(budgets := table.get("budgets"), list):
        names = [f"{where}: budgets[{i}]" for i in range(len(budgets))]
        table["budgets"] = [from_table(Budget, *one) for one in zip(budgets, names, strict=True)]
    made = [methods_of(one, f"{where}: methods[{i}]") for i, one in enumerate(methods)]
    table["methods"] = tuple(itertools.chain(*made))
    return from_table(StudyFile, table, where)


def study_table(study: StudyFile) -> dict[str, Any]:
    """Return a study as tables with every setting; unset ones are left out.

    Python functions and data sets stand there by their names, a batch not at all.
    """
    plain = {f.name: getattr(study, f.name) for f in fields(study) if f.name != "methods"}
    plain |= {"models": [name_of(model) for model in study.models], "fit": name_of(study.fit)}
    plain["data"] = study.data if isinstance(study.data, str) else getattr(study.data, "name", "")
    methods = [table_of_method(method) for method in study.methods]
    return {**to_table(plain), "methods": methods}


def study_text(study: StudyFile) -> str:
    """Return a study as TOML text; `read_study` reads the same study from it."""
    return tomli_w.dumps(study_table(study))


def _change(table: dict[str, Any], change: str) -> None:
    """Set one value in nested tables and lists; missing tables are created."""
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise LayerticketError(
            f"--set {change!r} is not a setting; write KEY=VALUE or TABLE.KEY=VALUE."
        )
    place: Any = table
    for key in keys[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else _item(place, key, change)
    if isinstance(place, list):
        place[_index(place, keys[-1], change)] = _value(text)
    elif isinstance(place, dict):
        place[keys[-1]] = _value(text)
    else:
        raise LayerticketError(f"--set {change!r}: {'.'.join(keys[:-1])} has no keys.")


def _item(place: Any, key: str, change: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return one entry of a list."""
    if not isinstance(place, list):
        raise LayerticketError(f"--set {change!r}: there is no {key!r} in {place!r}.")
    return place[_index(place, key, change)]


def _index(place: list[Any], key: str, change: str) -> int:
    """Return the index of an entry."""
    if not key.isdecimal() or int(key) >= len(place):
        raise LayerticketError(
            f"--set {change!r}: {key!r} is not an index of a list of {len(place)}, from 0."
        )
    return int(key)


def _value(text: str) -> Any:  # noqa: ANN401 - as in a TOML file
    """Parse a value as TOML; if that fails, return it as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
