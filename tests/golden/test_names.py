"""The words people remember. Changing one changes the interface: CHANGELOG."""

import layerticket
from layerticket.cli.app import PARTS, VERBS


def test_public_names():
    assert layerticket.__all__ == [
        "Block", "BlockScores", "Blocks", "Budget", "CrossEntropy", "LayerticketError",
        "Selection", "Ticket", "criterion", "criterion_names", "find_blocks", "find_ticket",
        "model_loss", "remove_blocks", "score", "select", "zero_blocks",
    ]  # fmt: skip
    assert all(hasattr(layerticket, name) for name in layerticket.__all__)


def test_verbs():
    assert list(VERBS) == ["blocks", "find", "train", "evaluate", "study", "report", "demo"]
    assert {verb: list(parts) for verb, parts in PARTS.items()} == {"study": ["run", "status"]}
