"""Accuracy under corruptions and shifts: means by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError
from layerticket.evaluation import robustness
from layerticket.evaluation.robustness import (
    Conditions,
    check_evaluations,
    corruption_accuracy,
    relative,
    shift_accuracy,
)
from toy_training import make_data


class Brightest(nn.Module):
    """Calls the brightest channel the class."""

    def forward(self, x):
        return x.mean(dim=(2, 3))


HOW = {"precision": "fp32", "device": "cpu"}


def painted(right, count=10):
    """Images of which the first `right` show their class."""
    images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    images[:right, 1] = 255
    images[right:, 2] = 255
    return Split(images=images, labels=torch.ones(count, dtype=torch.int64))


def test_means_over_corruptions_and_severities():
    data = make_data()
    stacks = {
        "a": lambda: [painted(n) for n in (10, 8, 6, 4, 2)],
        "b": lambda: [painted(n) for n in (5, 5, 5, 5, 0)],
    }
    found = corruption_accuracy(Brightest(), data, stacks, clean=0.8, **HOW)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["relative_accuracy"] == pytest.approx(0.5 / 0.8)
    assert found["severities"] == pytest.approx([0.75, 0.65, 0.55, 0.45, 0.1])
    assert found["corruptions"]["a"]["severities"] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert found["corruptions"]["b"]["accuracy"] == pytest.approx(0.4)
    assert found["corruptions"]["b"]["relative_accuracy"] == pytest.approx(0.5)
    assert (found["images"], found["clean_accuracy"]) == (10, 0.8)
    # of its ten versions, the first image is right in all but the last of b, and so on
    counts = [sum(i < right for right in (10, 8, 6, 4, 2, 5, 5, 5, 5, 0)) for i in range(10)]
    assert list(bytes.fromhex(found["correct_counts"])) == counts == [9, 9, 8, 8, 7, 3, 2, 2, 1, 1]
    assert found["versions"] == 10


def test_a_shift_beside_the_clean_accuracy():
    found = shift_accuracy(Brightest(), make_data(), painted(6), clean=0.75, **HOW)
    assert found == {
        "accuracy": 0.6, "correct": "fc00", "images": 10, "precision": "fp32",
        "clean_accuracy": 0.75, "relative_accuracy": pytest.approx(0.8),
    }  # fmt: skip
    assert relative(0.1, 0.0) is None


NAMES = """
import sys, types
package = types.ModuleType("layerticket")  # the modules alone, whatever the package imports
package.__path__ = [sys.argv[1]]
sys.modules["layerticket"] = package
import layerticket.data.sources
import layerticket.evaluation.energy
import layerticket.evaluation.robustness as robustness
import layerticket.files
robustness.check_evaluations(["test", "cifar10.1", "imagefolder:x", "pgd"])
robustness.Conditions(images=3, attack=robustness.Attack(steps=2))
layerticket.evaluation.energy.Metering(cpu_tdp=100)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


def test_names_and_settings_need_no_torch():
    source = Path(robustness.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", NAMES, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"images": 0}, "images is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"image_size": 0}, "is no size of images"),
        ({"attack": {"steps": 0}}, "steps is 0"),
    ],
)
def test_impossible_conditions_are_refused(wrong, said):
    with pytest.raises(LayerticketError, match=said):
        Conditions(**wrong)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "evaluations are empty"),
        (["test", "test"], "each only once"),
        (["pdg"], "Did you mean 'pgd'"),
        (["cifar10-d"], "Did you mean 'cifar10-"),
    ],
)
def test_names_are_checked_before_any_file(names, said):
    with pytest.raises(LayerticketError, match=said):
        check_evaluations(names)
