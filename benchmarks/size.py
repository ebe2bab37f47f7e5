"""Print how much code there is in src, for `make size`. Standard library only."""

import ast
import io
import tokenize
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"


def count(files):
    """Add up files, lines, lines of code, uses of Any, noqa, functions with many parameters."""
    total = dict.fromkeys(("files", "lines", "code lines", "Any", "# noqa", "> 8 parameters"), 0)
    for path in files:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        total["files"] += 1
        total["lines"] += len(text.splitlines())
        total["code lines"] += len(code_lines(text, tree))
        total["# noqa"] += text.count("# noqa")
        total["Any"] += sum(getattr(node, "id", None) == "Any" for node in ast.walk(tree))
        total["> 8 parameters"] += sum(
            len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) > 8
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        )
    return total


def code_lines(text, tree):
    """Return the numbers of the lines with more than comments, docstrings and imports."""
    aside = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    aside |= {tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in aside:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        text_alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text_alone or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


if __name__ == "__main__":
    for name, figure in count(sorted(SRC.rglob("*.py"))).items():
        print(f"{name:>16}  {figure:,}")
