"""compare(): a paired study from Python, with a recipe and with a training of one's own."""

import json

import pytest
import torch

import toy_study
from layerticket.comparison import compare
from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.training.recipe import Recipe


def network(num_classes, in_channels):
    return toy_study.Net(num_classes, in_channels)


def own(model, seed, folder):
    """A training that knows neither epochs nor data: weights are counted, nothing learns."""
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.01)
    convolutions = sum(isinstance(one, torch.nn.Conv2d) for one in model.modules())
    return {"accuracy": 0.5 + 0.001 * seed + 0.01 * convolutions}


def test_a_training_of_ones_own_is_compared_over_seeds(tmp_path):
    found = compare(
        network, methods=["synflow", "last"], out=tmp_path / "own", fit=own, seeds=3,
        input_shape=(3, 8, 8), classes=3,
    )  # fmt: skip
    one = found.verdict("synflow")
    assert (one.n, one.seeds) == (3, (0, 1, 2))
    assert -0.05 < one.difference.mean < 0
    assert one.difference.std == pytest.approx(0, abs=1e-12)
    assert {row.status for row in found.rows} == {"done"}
    assert len(found.ticket("synflow", 1).removed) == 1
    assert str(found) == json.loads((tmp_path / "own" / "study.json").read_text())["verdict"]
    with pytest.raises(LayerticketError, match="Did you mean"):
        found.verdict("synflo")
    with pytest.raises(LayerticketError, match="has no ticket for seed 9"):
        found.ticket("synflow", 9)


def test_a_recipe_is_a_study_like_any_other(tmp_path):
    found = compare(
        "resnet20", methods=["snip"], out=tmp_path / "study", budget=Budget(remove=2), seeds=[7],
        recipe=Recipe(epochs=1, batch_size=256, precision="fp32"),
    )  # fmt: skip
    assert found.verdict("snip").n == 1
    assert "one seed" in str(found) or "1 seed" in str(found)
