"""Twenty steps of the default recipes, bit for bit as recorded.

`tests/golden/training_curve.json` was recorded with one thread in fp32, before the loop was
rewritten. Where a change of the loop moves a bit, TRAINING_REVISION is raised and the file is
recorded anew.
"""

import json
from pathlib import Path

import pytest
import torch

from layerticket.data.sources import load_data
from layerticket.models.load import build_model
from layerticket.tensors import load_tensors, tensor_digest
from layerticket.training.checkpoint import CHECKPOINT
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import TRAINING_REVISION, Recipe, he2016
from layerticket.training.steps import Trainer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "training_curve.json").read_text())
QUIET = Where(device="cpu", progress=False)
RECIPES = {
    "default": Recipe(epochs=2, precision="fp32"),
    "he2016": Recipe(
        epochs=2, nesterov=False, weight_decay=1e-4, schedule="step", warmup_epochs=0,
        precision="fp32",
    ),
}  # fmt: skip


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def curve(recipe, folder, monkeypatch, **options):
    losses, step = [], Trainer.step

    def noted(self, images, labels, rate):
        losses.append(float(step(self, images, labels, rate)))
        return torch.tensor(losses[-1])

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", noted)
        model = build_model("resnet20", classes=10, channels=1, seed=0)
        fit(model, load_data("digits"), recipe, seed=0, folder=folder, where=QUIET, **options)
    tensors, _ = load_tensors(folder / CHECKPOINT)
    return losses, tensor_digest(tensors)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", RECIPES)
def test_the_default_recipes_take_the_steps_of_the_first_edition(name, tmp_path, monkeypatch):
    assert TRAINING_REVISION == 1, "record the curve anew, and say so in the changelog"
    losses, end = curve(RECIPES[name], tmp_path / "whole", monkeypatch)
    assert len(losses) == 20
    assert losses == pytest.approx(GOLDEN[name]["losses"], rel=0.02)
    recorded_on = (GOLDEN["torch"], GOLDEN["capability"])
    if (torch.__version__, torch.backends.cpu.get_cpu_capability()) != recorded_on:
        pytest.skip(f"bits are those of {recorded_on}; here the curve was compared to 2 %")
    assert losses == GOLDEN[name]["losses"]
    assert end == GOLDEN[name]["end"]


@pytest.mark.usefixtures("one_thread")
def test_the_same_bits_after_an_interruption(tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    recipe = RECIPES["default"]
    _, whole = curve(recipe, tmp_path / "whole", monkeypatch)
    calls = iter([lambda _: 0.5, stop])
    with pytest.raises(KeyboardInterrupt):
        curve(recipe, tmp_path / "cut", monkeypatch, validate=lambda model: next(calls)(model))
    losses, end = curve(recipe, tmp_path / "cut", monkeypatch)
    assert len(losses) == 10
    assert end == whole


def test_he2016_is_the_recipe_recorded():
    assert he2016(2).identity({}, "fp32") == RECIPES["he2016"].identity({}, "fp32")
