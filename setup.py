"""What pyproject.toml cannot say: the README without links that only work in the repository."""

import re
from pathlib import Path

from setuptools import setup


def portable(markdown: str) -> str:
    """Write links to files as text and leave their pictures out; other links stay.

    Example:
        >>> portable("See [costs](docs/cost.md) and [the paper](https://arxiv.org/abs/2301.10835).")
        'See costs (docs/cost.md) and [the paper](https://arxiv.org/abs/2301.10835).'
    """
    markdown = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", markdown)
    markdown = re.sub(r"\[([^\]]+)\]\(\1\)", r"`\1`", markdown)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]*)\)", r"\1 (\2)", markdown)


if __name__ == "__main__":
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(long_description=portable(readme), long_description_content_type="text/markdown")
