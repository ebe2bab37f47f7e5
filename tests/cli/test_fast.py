"""Help and refusals come at once: nothing of torch is imported for them."""

import subprocess
import sys

import pytest

VERBS = (
    "blocks",
    "find",
    "train",
    "evaluate",
    "study new",
    "study run",
    "study status",
    "report",
    "demo",
)
CODE = """
import sys
from layerticket.cli.app import main
code = main(sys.argv[1:])
heavy = {"torch", "torchvision", "timm", "transformers", "accelerate"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def call(*words):
    command = [sys.executable, "-c", CODE, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_no_torch(verb):
    done = call(*verb.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: layerticket" in done.stdout


@pytest.mark.parametrize(
    ("verb", "first"),
    [
        ("find", ["Arguments", "Parameters", "How much", "Data", "What stays", "Scoring"]),
        ("train", ["Arguments", "Parameters", "Data", "Training"]),
    ],
)
def test_help_shows_common_options_first(verb, first):
    lines = call(verb, "--help").stdout.splitlines()
    groups = [line.strip("╭╮─ ") for line in lines if line.startswith("╭")]
    assert groups[: len(first)] == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["find", "resnet20", "--remove", "1", "--out", "t", "--criterion", "grap"], "grasp"),
        (["find", "resnet20", "--remove", "0", "--out", "t"], "at least 1"),
        (["find", "resnet20", "--out", "t"], "--save-macs"),
        (["train", "resnet20", "--schedule", "cosin"], "Did you mean 'cosine'"),
        (["evaluate", "x", "--steps", "0"], "--steps is 0; it must be at least 1"),
        (["blocks", "resnet33"], "Did you mean 'resnet32'"),
        (["find", "reznet32", "--remove", "1", "--out", "t"], "Did you mean 'resnet32'"),
        (["train", "resnet18"], "timm:resnet18 or torchvision:resnet18"),
        (["study", "run", "template", "--out", "q"], "layerticket study new FILE"),
        (["study", "run", "qick", "--out", "q"], "quick"),
        (["stdy"], "stdy"),
    ],
)
def test_refusals_import_no_torch(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
