"""The parts of the manual that are made from the code: command line, study keys, public names."""

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from sphinx.pycode import ModuleAnalyzer

from layerticket.cli.app import PARTS as SUBVERBS
from layerticket.cli.app import VERBS, app
from layerticket.selection import Budget
from layerticket.settings import to_table
from layerticket.study.methods import METHODS, Method, Rules
from layerticket.study.spec import StudyFile

SKIPPED = {"methods", "budgets"}  # sections of their own on the page
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def command_line() -> str:
    """Describe every verb and its options, as `--help` does."""
    parts = []
    for verb, (_, *examples) in VERBS.items():
        for name in [f"{verb} {part}" for part in SUBVERBS.get(verb, ())] or [verb]:
            command = app
            for word in name.split():
                command = command[word]
            text = command.generate_docs(
                output_format="markdown", heading_level=2, usage_name=f"layerticket {name}"
            )
            text = re.sub(r"^## .*", f"## {name}", text, count=1)
            text = re.sub(r" \*\[default: (?:\(\)|\"\"|False)\]\*", "", text)
            text = re.sub(r", --empty-[\w-]+`", "`", text)  # they are switched off
            text = re.sub(r"^ {2,}(?=\S)", "  ", text, flags=re.MULTILINE)
            parts.append(text.replace("```console", "```text").strip())
        parts.append("Examples:\n\n```bash\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(parts)


def study_keys() -> str:
    """Describe every key of a study file: type, default, meaning."""
    parts = ["## The study", *table(StudyFile, skip=SKIPPED)]
    parts += ["## Entries of `budgets`", "Each is exactly one of these:", *table(Budget)]
    sections = {f.name: f.type for f in fields(StudyFile) if is_dataclass(f.type)}
    for name, cls in sections.items():
        parts += [f"## `[{name}]`", *table(cls)]
        for field in fields(cls):
            if is_dataclass(field.type):
                parts += [f"## `[{name}.{field.name}]`", *table(field.type)]
    common = {field.name for field in fields(Method)}
    parts += ["## `[[methods]]`", "Every method may have these keys:", *table(Method)]
    parts += ["`rules` of a method is a table of these:", *table(Rules)]
    for kind, method in METHODS.items():
        parts += [f'### `method = "{kind}"`', first_line(method)]
        if {field.name for field in fields(method)} > common:
            parts += table(method, skip=common)
    return "\n\n".join(parts)


def table(cls: type, skip: Set[str] = frozenset()) -> Iterator[str]:
    """Write the settings of a class as one Markdown table."""
    docs = meanings(cls)
    hints = typing.get_type_hints(cls, include_extras=False)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in fields(cls):
        if field.name not in skip:
            kind = wording(hints[field.name])
            cells = [f"`{field.name}`", kind, default_of(field), docs[field.name]]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    yield "\n".join(rows)


def meanings(cls: type) -> dict[str, str]:
    """Read the text under every field, inherited ones too."""
    found: dict[str, str] = {}
    for one in reversed(inspect.getmro(cls)):
        if is_dataclass(one):
            attributes = ModuleAnalyzer.for_module(one.__module__).find_attr_docs()
            for (owner, name), lines in attributes.items():
                if owner == one.__qualname__:
                    found[name] = " ".join(line.strip() for line in lines if line.strip())
    return found


def default_of(field: Field[Any]) -> str:
    """Spell a default as TOML has it."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "must be given"
    if value is None or value in ("", (), {}):
        return ""
    if is_dataclass(value):
        return "a table"
    text = to_table(value)
    spelled = {True: "true", False: "false"}.get(text) if isinstance(text, bool) else None
    quoted = f'"{text}"' if isinstance(text, str) else str(text).replace("'", '"')
    return f"`{spelled or quoted}`"


def wording(hint: Any) -> str:  # noqa: ANN401 - an annotation
    """Say in words what may stand for a key."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return (
            f"list of {wording(parts[0]).replace('number', 'numbers')}"
            if parts[-1] is Ellipsis
            else "list"
        )
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    if parts:  # of several types: texts stand in a file, functions come from Python
        kinds = [p for p in parts if p is not NoneType and typing.get_origin(p) is not Callable]
        kinds = [p for p in kinds if getattr(p, "__name__", "") != "Callable"]
        return " or ".join(dict.fromkeys(wording(p) for p in kinds))
    return TYPES.get(hint, "table")


def first_line(cls: type) -> str:
    """Return the first sentence of a docstring."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


PARTS: Mapping[str, Callable[[], str]] = {
    "command line": command_line,
    "study keys": study_keys,
}
