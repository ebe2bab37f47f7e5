"""How Sphinx builds the manual: `make docs`. Nothing is executed; the tests run the examples."""

import inspect
import sys
import typing
from dataclasses import is_dataclass
from importlib.metadata import version as installed
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
from generated import PARTS  # noqa: E402 - beside this file

import layerticket  # noqa: E402

project = "layerticket"
author = "The layerticket developers"
project_copyright = author
version = release = installed("layerticket")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"layerticket {version}"
html_copy_source = False
html_show_sphinx = False
html_static_path = []
smartquotes = False  # --data stays --data

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

default_role = (
    "py:obj"  # `find_blocks` in a docstring is a link where there is something to link to
)
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put generated parts where a page has a line ``<!-- generated: NAME -->``."""
    for name, write in PARTS.items():
        mark = f"<!-- generated: {name} -->"
        if mark in source[0]:
            source[0] = source[0].replace(mark, write())


def plain_fields(cls: type) -> None:
    """Leave limits such as "at least 1" out of the types shown: the text below says them."""
    for one in cls.__mro__:
        if is_dataclass(one) and one.__module__.startswith("layerticket"):
            hints = typing.get_type_hints(one)
            one.__annotations__ = {name: hints[name] for name in one.__annotations__}
            build = inspect.unwrap(one.__init__)
            build.__annotations__ = {name: hints.get(name) for name in build.__annotations__}


def google(
    app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]
) -> None:
    """Read a docstring in Google's style; "Wins: the interval lies above" names no type."""
    kind = "function" if what in ("attribute", "property", "data") else what
    lines[:] = GoogleDocstring(lines, Config(), app, kind, name, documented, options).lines()


def setup(app: Sphinx) -> None:
    """Register what is ours."""
    for documented in map(layerticket.__getattr__, layerticket.__all__):
        if isinstance(documented, type):
            plain_fields(documented)
    app.connect("autodoc-process-docstring", google)
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", fill_in)
