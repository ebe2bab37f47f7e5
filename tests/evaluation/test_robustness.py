"""Accuracy under corruptions and shifts: means by hand."""

import pytest
import torch
from torch import nn

from layerticket.data.dataset import Split
from layerticket.evaluation.robustness import corruption_accuracy, relative, shift_accuracy
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


def test_a_shift_beside_the_clean_accuracy():
    found = shift_accuracy(Brightest(), make_data(), painted(6), clean=0.75, **HOW)
    assert found == {
        "accuracy": 0.6, "images": 10, "precision": "fp32", "clean_accuracy": 0.75,
        "relative_accuracy": pytest.approx(0.8),
    }  # fmt: skip
    assert relative(0.1, 0.0) is None
