"""The table "Where does it go?" of CONTRIBUTING.md names files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([^|]+) \| `([\w/.]+)` \| `(\w+)` \|$", flags=re.MULTILINE)
ROWS = ROW.findall((REPO / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def defined(path):
    """Names a file defines, methods of its classes included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def test_the_table_is_there():
    assert len(ROWS) >= 12


@pytest.mark.parametrize(("wish", "file", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_every_row_leads_somewhere(wish, file, name):
    path = REPO / "src" / "layerticket" / file
    assert path.is_file(), f"{wish}: there is no {file}"
    assert name in defined(path), f"{wish}: {file} defines no {name}"
