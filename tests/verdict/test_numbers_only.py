"""The room knows numbers only: of the package errors, settings and display, and no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import layerticket.verdict

ROOM = Path(layerticket.verdict.__file__).parent
ALLOWED = tuple(f"layerticket.{name}" for name in ("display", "errors", "settings", "verdict"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}.{node.names[0].name}"


def test_it_imports_no_room_of_the_package():
    files = sorted(ROOM.glob("*.py"))
    assert len(files) > 3
    for path in files:
        own = [name for name in imported(path) if name.startswith("layerticket")]
        assert not [name for name in own if not name.startswith(ALLOWED)], path.name


def test_it_imports_no_torch():
    code = (
        "import sys, layerticket.verdict.judge, layerticket.verdict.pairs\n"
        "assert 'torch' not in sys.modules and 'scipy.stats' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
