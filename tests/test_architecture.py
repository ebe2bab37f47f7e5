"""The promises of docs/architecture.md that a machine can hold: order of imports, safety."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = "layerticket"
# A room imports from rooms before it, never from one after it.
ROOMS = [
    "errors",
    "files",
    "settings",
    "display",
    "progress",
    "tensors",
    "batch",
    "modules",
    "counting",
    "models",
    "surgery",
    "blocks",
    "criteria",
    "scoring",
    "selection",
    "ticket",
    "data",
    "training",
    "lottery",
    "baselines",
    "evaluation",
    "export",
    "verdict",
    "study",
    "report",
    "comparison",
    "cli",
]
MAY_PRINT = {"report", "cli"}
LOADS_PICKLES = {
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
}
FACADE = "__init__"


def room_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def strangers(root: Path) -> Iterator[str]:
    for path in sorted(root.iterdir()):
        known = path.stem if path.suffix == ".py" else path.name
        if known not in {*ROOMS, FACADE, "py.typed", "__pycache__"}:
            yield f"{path.name}: not in the list of rooms; add it to ROOMS where it belongs"


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "."
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def imports_against_the_order(tree: ast.AST, room: str) -> Iterator[tuple[int, str]]:
    for line, name in imported_modules(tree):
        package, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if not package:
            yield line, "relative import; write the full name"
        elif package != PACKAGE or room == FACADE:
            continue
        elif target not in ROOMS:
            yield (
                line,
                f"{room} imports {name!r}, which lies in no room; import from the room it is of",
            )
        elif room in ROOMS and ROOMS.index(target) > ROOMS.index(room):
            yield line, f"{room} imports {target}, which comes after it"


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name it stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def reads_only_tensors(call: ast.Call) -> bool:
    """Whether a call states ``weights_only=True``, which runs no code of a file."""
    return any(
        one.arg == "weights_only" and getattr(one.value, "value", None) is True
        for one in call.keywords
    )


def forbidden_calls(tree: ast.AST, room: str) -> Iterator[tuple[int, str]]:
    stands_for = aliases(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        called = stands_for.get(first, first) + dot + rest
        if called == "print" and room not in MAY_PRINT:
            yield node.lineno, "print(); only report and cli may, use logging"
        if called in LOADS_PICKLES and not (called == "torch.load" and reads_only_tensors(node)):
            yield node.lineno, f"{called}() runs code from a file; use safetensors or JSON"


def violations(root: Path) -> list[str]:
    """Every broken promise under `root`, as 'file:line: what'."""
    found = list(strangers(root))
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source, filename=str(path))
        room = room_of(path, root)
        where = path.relative_to(root).as_posix()
        for line, what in (
            *imports_against_the_order(tree, room),
            *forbidden_calls(tree, room),
        ):
            found.append(f"{where}:{line}: {what}")
    return found


def test_the_package_keeps_its_promises():
    found = violations(REPO / "src" / PACKAGE)
    assert not found, "\n" + "\n".join(found)


def test_the_document_lists_every_room_in_order():
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", text, flags=re.MULTILINE)
    assert listed == [room for room in ROOMS if room in listed]
    root = REPO / "src" / PACKAGE
    present = {room for room in ROOMS if (root / room).is_dir() or (root / f"{room}.py").is_file()}
    assert present <= set(listed), f"no row in docs/architecture.md: {present - set(listed)}"


# The checker itself: a small tree that keeps every promise, then one broken promise at a time.

GOOD = {
    "__init__.py": "from layerticket.cli.app import main\n__all__ = ['main']\n",
    "py.typed": "",
    "blocks.py": "import torch\nfrom layerticket.errors import E\n__all__ = []\n",
    "cli/__init__.py": "import layerticket.blocks\n__all__ = []\nprint('cli may')\n",
    "cli/find.py": "from layerticket.cli.app import x\nfrom layerticket import ticket\n",
    "data/__init__.py": '"""Only a docstring."""\n',
    "errors.py": "x = 1\n",
}
ALL = "__all__ = []\n"
BROKEN = {
    "stranger file": ("utils.py", ALL, "utils.py: not in the list"),
    "stranger folder": ("core/x.py", ALL, "core: not in the list"),
    "later room": ("blocks.py", ALL + "from layerticket.cli.app import main", "imports cli, which"),
    "later, dotted": ("errors.py", ALL + "import layerticket.data.x as d", "imports data, which"),
    "later, by name": (
        "counting.py",
        ALL + "from layerticket import study",
        "imports study, which",
    ),
    "inside a function": (
        "data/x.py",
        ALL + "def f():\n    from layerticket.training import g\n    g()",
        "x.py:3: data imports training",
    ),
    "import_module": (
        "batch.py",
        ALL + "import importlib\nimportlib.import_module('layerticket.cli.app')",
        "batch.py:3: batch imports cli",
    ),
    "facade": ("scoring.py", ALL + "import layerticket as lt", "lies in no room"),
    "facade, by name": ("scoring.py", ALL + "from layerticket import score", "lies in no room"),
    "relative": ("cli/x.py", ALL + "from . import find", "relative import"),
    "relative in facade": ("__init__.py", ALL + "from .errors import E", "relative import"),
    "print": ("surgery.py", ALL + "print('x')", "surgery.py:2: print()"),
    "torch.load": ("ticket.py", ALL + "import torch\ntorch.load('x')", "torch.load() runs code"),
    "torch.load of all": (
        "ticket.py",
        ALL + "import torch\ntorch.load('x', weights_only=False)",
        "torch.load() runs code",
    ),
    "renamed torch": ("ticket.py", ALL + "import torch as t\nt.load('x')", "torch.load() runs"),
    "from pickle": ("cli/x.py", ALL + "from pickle import load as l\nl(1)", "pickle.load() runs"),
}


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_checker_accepts_a_good_tree(tmp_path):
    assert violations(build(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("name", "text", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_checker_finds_the_one_broken_promise(tmp_path, name, text, expected):
    found = violations(build(tmp_path, {**GOOD, name: text}))
    assert len(found) == 1, found
    assert expected in found[0]
