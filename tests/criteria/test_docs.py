"""The page of criteria has a card for every criterion, and its table is the registry's."""

import re
from pathlib import Path

import pytest

from layerticket.criteria.registry import criterion_names, get_criterion

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "criteria.md"
PARTS = ["Measures", "Formula", "Cost", "Fails"]
RANKED = ("grasp", "pls", "snip", "synflow")  # whose rankings hang on more than the formula


def table() -> str:
    rows = ["| name | order | reads | normalization | source |", "|---|---|---|---|---|"]
    for known in map(get_criterion, criterion_names()):
        reads, modes = ", ".join(known.uses) or "nothing", ", ".join(known.normalization)
        rows.append(f"| `{known.name}` | {known.order} | {reads} | {modes} | {known.cites} |")
    return "\n".join(rows)


def test_the_table_is_that_of_the_registry():
    found = re.search(r"<!-- table: .*? -->\n\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[1].strip() == table(), f"put this table there:\n{table()}"


@pytest.mark.parametrize("name", criterion_names())
def test_every_criterion_has_a_card(name):
    page = PAGE.read_text(encoding="utf-8")
    cards = re.findall(rf"^### {name}\n\n(.*?)(?=\n#|\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert len(cards) == 1
    found = re.findall(r"^\*\*(\w+)\*\*", cards[0], flags=re.MULTILINE)
    assert found == [*PARTS, *(["Decides"] if name in RANKED else [])]
