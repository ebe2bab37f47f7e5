"""The manual is made from the code: every option, key and public name has its place in it."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest

import layerticket
from layerticket.cli.app import PARTS, VERBS
from layerticket.selection import Budget
from layerticket.study.methods import METHODS
from layerticket.study.spec import StudyFile
from layerticket.training.recipe import Recipe

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generated():
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_and_option_is_described(generated, monkeypatch, capsys):
    from layerticket.cli.app import main

    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("NO_COLOR", "1")
    sections = dict(
        re.findall(r"^## (.+)\n\n((?:.|\n)*?)(?=^## |\Z)", generated.command_line(), re.M)
    )
    verbs = [f"{verb} {part}".strip() for verb in VERBS for part in PARTS.get(verb, [""])]
    assert list(sections) == verbs
    for verb in verbs:
        capsys.readouterr()
        assert main([*verb.split(), "--help"]) == 0
        offered = re.findall(r"^[│*\s]+(--[a-z][\w-]*)", capsys.readouterr().out, re.M)
        assert "--json" in offered
        # Where a terminal is narrow, the negative form of a flag begins a line of its own.
        offered = [name for name in offered if not name.startswith("--no-")]
        assert offered == re.findall(r"^\* `(--[a-z][\w-]*)", sections[verb], re.M), verb


def test_every_key_of_a_study_is_described(generated):
    text = generated.study_keys()
    keys = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    declared = {
        f.name for cls in (StudyFile, Recipe, Budget, *METHODS.values()) for f in fields(cls)
    }
    assert declared - {"methods", "budgets"} <= keys
    assert "| `epochs` | whole number | `200` | Passes over the training images. |" in text
    assert "| `title` | text | must be given |" in text
    assert re.search(r"^\| `\w+` \|.*\|  \|$", text, flags=re.MULTILINE) is None, "no meaning"


def test_every_public_name_is_in_the_api():
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^\.\. auto(?:function|class|exception):: (?:layerticket\.)?(\w+)$",
        page,
        flags=re.MULTILINE,
    )
    assert sorted(shown) == layerticket.__all__


def test_every_page_of_the_start_is_in_the_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(f"start/{page.stem}" in index for page in (DOCS / "start").glob("*.md"))
