"""The words people remember. Changing one changes the interface: CHANGELOG."""

import subprocess
import sys

import layerticket
from layerticket.cli.app import PARTS, VERBS


def test_public_names():
    assert layerticket.__all__ == [
        "Block", "BlockScores", "Blocks", "Budget", "CrossEntropy", "Dataset", "LayerticketError",
        "Recipe", "Selection", "Ticket", "Verdict", "build_model", "compare", "criterion",
        "criterion_names", "find_blocks", "find_ticket", "fit", "judge", "load", "load_data",
        "model_loss", "remove_blocks", "score", "select", "zero_blocks",
    ]  # fmt: skip
    assert all(hasattr(layerticket, name) for name in layerticket.__all__)


def test_verbs():
    assert list(VERBS) == ["blocks", "find", "train", "evaluate", "study", "report", "demo"]
    assert {verb: list(PARTS[verb]) for verb in PARTS} == {"study": ["new", "run", "status"]}


def test_importing_the_package_is_cheap_and_an_unknown_name_an_attribute_error():
    code = (
        "import sys, layerticket\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "assert set(layerticket.__all__) <= set(dir(layerticket))\n"
        "assert not hasattr(layerticket, 'scores')\n"
        "assert layerticket.Budget(remove=1).remove == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
