"""Code that people copy from the README and the docs runs, and its commands exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gallery import GALLERY, fences, python_blocks, run_blocks, shown, with_output
from layerticket.cli.app import PARTS
from layerticket.criteria import registry

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
PAGES = [page for page in (README, *sorted((REPO / "docs").rglob("*.md"))) if page.is_file()]
PROGRAM = "layerticket"


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


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(text_of(p))], ids=name_of)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))  # pages may add their own
    _, printed = run_blocks(str(page), python_blocks(text_of(page)))
    if page.parent == GALLERY:  # it shows what it prints and draws, up to rounding elsewhere
        assert list(map(without_numbers, printed)) == list(
            map(without_numbers, shown(text_of(page)))
        )
        drawn = {path.name for path in tmp_path.glob("*.png")}
        assert drawn
        assert drawn == set(re.findall(r"\]\((.*)\)", text_of(page)))
        assert all((GALLERY / name).stat().st_size < 100_000 for name in drawn)


def without_numbers(text):
    return re.sub(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?", "#", text)


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
    namespace, _ = run_blocks("page.md", blocks)
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


def test_what_blocks_print_is_put_behind_them_and_replaced_the_next_time():
    page = "# A\n\n```python\nprint(1)\n```\n\n```python\nx = 2\n```\nEnd.\n"
    blocks = python_blocks(page)
    once = with_output(page, run_blocks("page.md", blocks)[1], "Took 1 s.")
    assert shown(once) == ["1\n", ""]
    assert once.endswith("End.\n\n<!-- took -->\n\nTook 1 s.\n")
    again = with_output(once, ["3\n4\n", ""], "Took 2 s.")
    assert shown(again) == ["3\n4\n", ""]
    assert "Took 1 s." not in again
    assert "```\n\n```python\nx = 2" in again
