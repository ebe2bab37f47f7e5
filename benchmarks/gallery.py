"""Run the examples of docs/gallery, and write their output, figures and times into their pages.

``make gallery`` runs all of them, each in a separate process on one thread. The tests run them too
and compare the output with the page, except numbers.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
NOTEBOOK = GALLERY / "first_ticket.ipynb"
SKIP = re.compile(r"<!--\s*skip:\s*\S.*-->")
PRINTED = "<!-- printed -->"
TOOK = "<!-- took -->"


@dataclass(frozen=True)
class Fence:
    """One fenced block of a Markdown page."""

    language: str
    line: int
    """Number of its first line of code, from 1."""
    text: str
    skipped: bool
    """Whether a comment ``<!-- skip: reason -->`` precedes it."""
    printed: bool = False
    """Whether it is the output of the block before it."""

    @property
    def end(self) -> int:
        """Number of its closing line."""
        return self.line + len(self.text.splitlines())


def fences(markdown: str) -> list[Fence]:
    """Find the fenced blocks of a page, also those inside list entries."""
    found, comment, opened = [], "", None
    body: list[str] = []
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
            found.append(Fence(opened[0][3], opened[1], text, skipped, comment == PRINTED))
            opened, comment = None, ""
        else:
            body.append(line)
    assert opened is None, f"the block that starts before line {opened[1]} is never closed"
    return found


def python_blocks(markdown: str) -> list[Fence]:
    """Find the blocks of a page that are to be run."""
    return [f for f in fences(markdown) if f.language == "python" and not f.skipped]


def run_blocks(page: str, blocks: list[Fence]) -> tuple[dict, list[str]]:
    """Run the blocks of one page in one namespace; tracebacks have the lines of the page.

    Returns:
        The namespace, and the output of each block.
    """
    namespace, printed = {"__name__": "__main__"}, []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), namespace)
        printed.append(stdout.getvalue())
    return namespace, printed


def shown(markdown: str) -> list[str]:
    """Return the output that a page shows for each of its blocks, or ""."""
    texts = []
    for fence in fences(markdown):
        if fence.language == "python" and not fence.skipped:
            texts.append("")
        elif fence.printed:
            texts[-1] = fence.text + "\n"
    return texts


def with_output(markdown: str, printed: list[str], took: str) -> str:
    """Write the output of the blocks, and the time that they took, into the page."""
    markdown = re.sub(rf"{PRINTED}\n\n```text\n(?:.*\n)*?```\n\n?", "", markdown)
    lines = markdown.splitlines()
    for block, text in reversed(list(zip(python_blocks(markdown), printed, strict=True))):
        if text:
            lines[block.end : block.end] = ["", PRINTED, "", "```text", *text.splitlines(), "```"]
    page = re.sub(rf"\n*{TOOK}\n(?:.|\n)*", "", "\n".join(lines).rstrip())
    return f"{page}\n\n{TOOK}\n\n{took}\n"


def machine() -> str:
    """Describe the machine and the versions."""
    from layerticket.study.record import environment

    at = environment()
    return f"{at['cpu']}; Python {at['python']}, PyTorch {at['torch']}"


def shrink(picture: Path, into: Path) -> None:
    """Copy a PNG file with 256 colours; it is about a tenth as large."""
    from PIL import Image

    Image.open(picture).convert("RGB").quantize(256).save(into, optimize=True)


def refresh(name: str) -> None:
    """Run one page and write its output, figures and time."""
    page = (GALLERY / name).with_suffix(".md")
    markdown = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        began, cpu = time.perf_counter(), time.process_time()
        _, printed = run_blocks(str(page), python_blocks(markdown))
        cpu, clock = time.process_time() - cpu, time.perf_counter() - began
        for picture in Path().glob("*.png"):
            shrink(picture, GALLERY / picture.name)
    took = f"Took {cpu:.1f} s of CPU time on one thread, imports included ({machine()})."
    page.write_text(with_output(markdown, printed, took), encoding="utf-8")
    print(f"{name}: {cpu:.1f} s of CPU time, {clock:.1f} s by the clock")


def run_notebook(path: Path, folder: str | Path) -> "NotebookNode":
    """Run a notebook as Jupyter does, in a folder; a cell that fails raises."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()
    return notebook


def refresh_notebook() -> None:
    """Run the notebook and write its output, without times and the name of its folder."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = run_notebook(NOTEBOOK, folder)
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata.language_info = {"name": "python"}
    text = nbformat.writes(notebook).replace(f"{folder}/", "")
    NOTEBOOK.write_text(text + "\n", encoding="utf-8")


def main(names: list[str]) -> None:
    """Refresh the named pages, or all of them, each in a separate process."""
    if names == [NOTEBOOK.stem]:
        return refresh_notebook()
    if len(names) == 1:
        return refresh(names[0])
    for page in sorted(GALLERY.glob("*.md")):
        if python_blocks(page.read_text(encoding="utf-8")) and (not names or page.stem in names):
            refresh_apart(page.stem)
    if not names:
        refresh_apart(NOTEBOOK.stem)
    return None


def refresh_apart(name: str) -> None:
    """Run this program for one name in a separate process, on one thread."""
    command = [sys.executable, __file__, name]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main(sys.argv[1:])
