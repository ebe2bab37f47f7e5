"""Code that people copy from the README and the docs runs, and its commands exist."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerticket.cli.app import PARTS
from layerticket.criteria import registry

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
PAGES = [page for page in (README, *sorted((REPO / "docs").rglob("*.md"))) if page.is_file()]
SKIP = re.compile(r"<!--\s*skip:\s*\S.*-->")
PROGRAM = "layerticket"


@dataclass(frozen=True)
class Fence:
    """One fenced block: its language, its first code line's number, its text, whether to run it."""

    language: str
    line: int
    text: str
    skipped: bool


def fences(markdown: str) -> list[Fence]:
    found, comment, opened = [], "", None
    for number, line in enumerate(markdown.splitlines(), start=1):
        if opened is None:
            fence = re.match(r"( *)(`{3,})\s*([\w-]*)", line)
            if fence:
                opened, body = (fence, number + 1), []
            elif line.strip():
                comment = line.strip()
        elif line.strip() == opened[0][2]:
            text = "\n".join(code.removeprefix(opened[0][1]) for code in body)
            skipped = SKIP.fullmatch(comment) is not None
            found.append(Fence(opened[0][3], opened[1], text, skipped))
            opened, comment = None, ""
        else:
            body.append(line)
    assert opened is None, f"the block that starts before line {opened[1]} is never closed"
    return found


def python_blocks(markdown: str) -> list[Fence]:
    return [f for f in fences(markdown) if f.language == "python" and not f.skipped]


def commands(markdown: str) -> list[tuple[int, list[str]]]:
    """Line and words of every `layerticket ...` command, up to the first pipe or redirection."""
    found = []
    for fence in fences(markdown):
        if fence.language != "bash":
            continue
        joined = re.sub(r"\\\n\s*", " ", fence.text)
        for line in joined.splitlines():
            code = re.sub(rf"^.* -m {PROGRAM}\.cli +", f"{PROGRAM} ", line)  # under a launcher
            if not code.startswith(PROGRAM + " "):
                continue
            lexer = shlex.shlex(code, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
            end = next(
                (i for i, word in enumerate(words) if re.fullmatch(r"[|<>;&()]+", word)), None
            )
            found.append((fence.line, words[1:end]))
    return found


def run_blocks(page: str, blocks: list[Fence]) -> dict:
    """Run the blocks of one page in one namespace; tracebacks point into the page."""
    namespace = {"__name__": "__main__"}
    for block in blocks:
        exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), namespace)
    return namespace


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(text_of(p))], ids=name_of)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))  # pages may add their own
    run_blocks(str(page), python_blocks(text_of(page)))


def test_readme_shows_python_that_runs():
    if not README.is_file():
        pytest.skip("there is no README.md yet")
    assert python_blocks(text_of(README)), "README.md has no python block that runs"


def help_of(words: list[str], monkeypatch, capsys) -> str:
    from layerticket.cli.app import main

    monkeypatch.setenv("COLUMNS", "250")  # no flag broken over two lines
    monkeypatch.setenv("NO_COLOR", "1")
    capsys.readouterr()
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{name_of(page)}:{line} {' '.join(words[:1])}")
        for page in PAGES
        for line, words in commands(text_of(page))
    ],
)
def test_commands_exist(words, monkeypatch, capsys):
    verb = [] if words[0].startswith("-") else words[:1]
    overview = help_of([], monkeypatch, capsys)
    if verb:
        listed = re.search(rf"^\W*{re.escape(verb[0])}\s", overview, flags=re.MULTILINE)
        assert listed, f"{verb[0]!r} is no verb of {PROGRAM}:\n{overview}"
        verb += words[1:2] if words[0] in PARTS and words[1] in PARTS[words[0]] else []
    known = set(re.findall(r"--[a-z][\w-]*", help_of(verb, monkeypatch, capsys)))
    used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    assert used <= known, f"unknown to `{PROGRAM} {' '.join(verb)}`: {sorted(used - known)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_blocks_are_shell(page):
    for fence in fences(text_of(page)):
        if fence.language == "bash":
            done = subprocess.run(["bash", "-n"], input=fence.text, text=True, capture_output=True)
            assert done.returncode == 0, f"{name_of(page)}:{fence.line}: {done.stderr}"


# The reader of pages itself.

PAGE = """\
Text.
```python
x = 1
```
<!-- skip: needs a GPU -->

```python
raise SystemExit
```
<!-- skip: -->
```python
y = x + 1
```
- item
  ```python
  if y == 2:
      z = __name__
  ```
````markdown
```python
raise SystemExit
```
````
```bash
pip install layerticket
layerticket find resnet20 \\
  --remove=2 --out "my ticket" --json | jq .macs  # a remark
layerticket --version
torchrun --nproc-per-node 2 -m layerticket.cli train a --seed 1
layerticket demo && echo done
```
"""


def test_blocks_share_a_namespace_and_skips_need_a_reason():
    blocks = python_blocks(PAGE)
    assert [(b.line, b.text.count("\n")) for b in blocks] == [(3, 0), (12, 0), (16, 1)]
    namespace = run_blocks("page.md", blocks)
    assert (namespace["x"], namespace["y"], namespace["z"]) == (1, 2, "__main__")


def test_a_failing_block_fails_at_its_line():
    with pytest.raises(ZeroDivisionError) as caught:
        run_blocks("page.md", python_blocks("a\n\n```python\nx = 1\n1 / 0\n```\n"))
    assert caught.traceback[-1].lineno + 1 == 5


def test_commands_are_read_as_a_shell_would():
    assert [words for _, words in commands(PAGE)] == [
        ["find", "resnet20", "--remove=2", "--out", "my ticket", "--json"],
        ["--version"],
        ["train", "a", "--seed", "1"],
        ["demo"],
    ]


def test_an_unclosed_block_is_refused():
    with pytest.raises(AssertionError, match="never closed"):
        fences("```python\nx = 1\n")
