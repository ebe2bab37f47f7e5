"""Recipes: ranges, presets, learning rates worked out by hand, and what a training's name takes."""

import dataclasses
import os
import subprocess
import sys
import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.settings import from_table
from layerticket.training.device import compile_pays
from layerticket.training.recipe import Recipe, he2016, learning_rate_at
from layerticket.training.steps import make_optimizer, parameter_groups


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 0, "must be at least 1"),
        ("epochs", 1.5, "must be a whole number"),
        ("batch_size", 0, "must be at least 1"),
        ("learning_rate", 0, "must be above 0"),
        ("learning_rate", float("nan"), "must be"),
        ("learning_rate", float("inf"), "must be a finite number"),
        ("learning_rate", "0.1", "must be a number"),
        ("momentum", 1, "must be below 1"),
        ("momentum", 0, "nesterov is True, but momentum is 0"),
        ("betas", (0.9, 1.0), "must be below 1"),
        ("betas", (0.9,), "betas"),
        ("weight_decay", -1e-4, "must be at least 0"),
        ("label_smoothing", 1, "must be below 1"),
        ("warmup_epochs", 200, "must be less than epochs, which is 200"),
        ("warmup_epochs", -1, "must be at least 0"),
        ("schedule", "linear", "schedule 'linear' is not known"),
        ("precision", "fp16", "Available: auto, bf16, fp32"),
        ("compile", True, "compile"),
        ("channels_last", 1, "must be true or false"),
        ("clip_norm", 0, "must be above 0"),
        ("ema_decay", 1, "must be below 1"),
        ("mixup", -1, "must be at least 0"),
        ("drop_path", 1, "must be below 1"),
        ("epoch", 3, "epoch"),
    ],
)
def test_refuses_what_cannot_be_trained(field, value, said):
    with pytest.raises(LayerticketError, match=said):
        Recipe(**{field: value})


def test_one_cycle_needs_a_warm_up():
    with pytest.raises(LayerticketError, match="for the schedule onecycle it must be above 0"):
        Recipe(schedule="onecycle", warmup_epochs=0)


def test_is_frozen_and_equal_by_value():
    assert Recipe(learning_rate=1) == Recipe(learning_rate=1.0)
    assert isinstance(Recipe(learning_rate=1).learning_rate, float)
    assert Recipe(betas=[0.9, 0.99]) == Recipe(betas=(0.9, 0.99))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3
    with pytest.raises(LayerticketError, match="at least 1"):
        dataclasses.replace(Recipe(), epochs=-5)


@pytest.mark.parametrize("recipe", [Recipe(), he2016(3), Recipe(schedule="constant")])
def test_toml_gives_the_recipe_back(recipe):
    assert from_table(Recipe, tomllib.loads(str(recipe)), "here") == recipe


STANDARD = {"pad": 4, "flip": True}
BASE = Recipe(epochs=9, weight_decay=0.01)
# For every field another value, alone, and whether the training is another one then.
OTHERS = {
    "epochs": (10, True), "batch_size": (64, True), "optimizer": ("adamw", True),
    "learning_rate": (0.2, True), "momentum": (0.8, True), "nesterov": (False, True),
    "betas": ((0.8, 0.999), False), "weight_decay": (0.0, True), "schedule": ("step", True),
    "warmup_epochs": (0.0, True), "augmentation": ("none", True), "mixup": (0.2, True),
    "cutmix": (0.2, True), "label_smoothing": (0.1, True), "clip_norm": (1.0, True),
    "ema_decay": (0.9, True), "drop_path": (0.0, True), "precision": ("bf16", False),
    "channels_last": (False, True), "compile": ("on", False), "cuda_graph": (False, False),
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_each_field_alone_makes_another_training_or_none(field):
    assert field in OTHERS, "a new field: say here whether it makes another training"
    value, matters = OTHERS[field]
    before = BASE.identity(STANDARD, "fp32")
    other = dataclasses.replace(BASE, **{field: value})
    assert other != BASE
    assert (other.identity(STANDARD, "fp32") != before) is matters
    assert (other.facts() != BASE.facts()) is (matters or field == "precision")


@pytest.mark.parametrize("field", ["momentum", "nesterov", "betas"])
def test_under_adamw_other_fields_are_without_meaning(field):
    base = dataclasses.replace(BASE, optimizer="adamw")
    other = dataclasses.replace(base, **{field: OTHERS[field][0]})
    same = base.identity(STANDARD, "fp32") == other.identity(STANDARD, "fp32")
    assert same is (field != "betas")


def test_what_is_resolved_is_part_of_the_name():
    names = [
        BASE.identity(standard, precision)
        for standard, precision in ((STANDARD, "fp32"), (STANDARD, "bf16"), ({"pad": 1}, "fp32"))
    ]
    assert all(one != two for i, one in enumerate(names) for two in names[:i])


def test_what_is_not_there_is_not_in_the_name():
    plain = Recipe(
        epochs=3, learning_rate=0.1, momentum=0, nesterov=False, weight_decay=0, warmup_epochs=0,
    )  # fmt: skip
    assert plain.identity({"pad": 0, "flip": False}, "fp32") == {
        "epochs": 3, "batch_size": 128, "optimizer": "sgd", "learning_rate": 0.1,
        "schedule": "cosine", "precision": "fp32", "channels_last": True,
    }  # fmt: skip


ALONE = """
import sys, types
from importlib.util import find_spec
package = types.ModuleType("layerticket")  # without what the package itself imports
package.__path__ = find_spec("layerticket").submodule_search_locations
sys.modules["layerticket"] = package
import {module}
sys.exit("torch" in sys.modules)
"""


@pytest.mark.parametrize("module", ["recipe", "checkpoint", "device", "distributed", "trackers"])
def test_choices_import_no_torch(module):
    code = ALONE.format(module=f"layerticket.training.{module}")
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | path).returncode == 0


def test_cosine_by_hand():
    # 4 epochs of 2 steps, 1 epoch of warm-up: w = 2, T = 8; steps 2..7 are sixths of half a wave.
    recipe = Recipe(epochs=4, learning_rate=0.8, warmup_epochs=1)
    rates = [learning_rate_at(recipe, step, 2) for step in range(8)]
    root = 3**0.5 / 2
    halves = [2, 1 + root, 1.5, 1, 0.5, 1 - root]
    assert rates == pytest.approx([0.4, 0.8, *(0.4 * half for half in halves)])


def test_step_by_hand():
    # T = 8: drops at steps 4 and 6.
    recipe = Recipe(epochs=8, schedule="step", warmup_epochs=0)
    rates = [learning_rate_at(recipe, step, 1) for step in range(8)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_constant_by_hand():
    recipe = Recipe(epochs=3, learning_rate=0.4, schedule="constant", warmup_epochs=1)
    assert [learning_rate_at(recipe, step, 2) for step in range(6)] == [0.2] + [0.4] * 5


@pytest.mark.parametrize(("epochs", "steps", "warm"), [(4, 5, 1.0), (10, 7, 3.0), (2, 3, 0.2)])
def test_one_cycle_is_that_of_torch(epochs, steps, warm):
    recipe = Recipe(epochs=epochs, schedule="onecycle", warmup_epochs=warm)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    total = epochs * steps
    share = max(warm * steps, 1 + 1e-9) / total
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=total, pct_start=share, cycle_momentum=False
    )
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total:
            theirs.step()
    ours = [learning_rate_at(recipe, step, steps) for step in range(total)]
    assert ours[1:] == pytest.approx(rates[1:])
    assert ours[0] == pytest.approx(0.1 if warm * steps <= 1 else rates[0])


def test_he2016_is_the_papers_schedule():
    recipe = he2016()
    steps = 45_000 // recipe.batch_size
    assert recipe.epochs * steps == pytest.approx(64_000, rel=0.002)
    assert (recipe.weight_decay, recipe.momentum, recipe.nesterov) == (1e-4, 0.9, False)
    assert he2016(4).epochs == 4
    assert [learning_rate_at(he2016(4), step, 1) for step in (0, 1, 2, 3)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001]
    )


@pytest.mark.parametrize("step", [-1, 8])
def test_steps_outside_the_training_are_refused(step):
    with pytest.raises(LayerticketError, match="from 0 to 7"):
        learning_rate_at(Recipe(epochs=4), step, 2)


@given(
    st.integers(1, 30),
    st.integers(1, 20),
    st.floats(0, 0.99),
    st.sampled_from(["cosine", "step", "constant"]),
)
def test_rises_then_falls_within_the_peak(epochs, steps, warm, schedule):
    recipe = Recipe(epochs=epochs, warmup_epochs=warm * epochs, schedule=schedule)
    rates = [learning_rate_at(recipe, step, steps) for step in range(epochs * steps)]
    assert all(0 < rate <= 0.1 for rate in rates)
    warmed = sum(step < recipe.warmup_epochs * steps for step in range(len(rates)))
    assert rates[:warmed] == sorted(rates[:warmed])
    if schedule == "cosine":
        assert rates[warmed:] == sorted(rates[warmed:], reverse=True)


def test_norms_and_biases_are_not_decayed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[3].weight.requires_grad_(False)
    decayed, free = parameter_groups(model)
    assert [id(p) for p in decayed] == [id(model[0].weight)]
    rest = (model[0].bias, model[1].weight, model[1].bias, model[3].bias)
    assert [id(p) for p in free] == [id(p) for p in rest]
    groups = make_optimizer(model, Recipe(weight_decay=0.25)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0]


def test_nothing_to_train_is_refused():
    with pytest.raises(LayerticketError, match="no trainable parameter"):
        make_optimizer(nn.ReLU(), Recipe())


@pytest.mark.parametrize(
    ("asked", "steps", "compiler", "device", "pays"),
    [
        ("auto", 3_636, "c++", "cpu", True),  # twice the break-even of 1,818
        ("auto", 3_635, "c++", "cpu", False),
        ("auto", 10**6, None, "cpu", False),
        ("auto", 10**6, "c++", "cuda", False),  # compiled steps are not faster there
        ("on", 1, None, "cuda", True),
        ("off", 10**6, "c++", "cpu", False),
    ],
)
def test_auto_compiles_where_the_steps_save_twice_its_time(
    asked, steps, compiler, device, pays, monkeypatch
):
    monkeypatch.setattr("shutil.which", lambda name: compiler if name == "c++" else None)
    assert compile_pays(asked, steps, torch.device(device)) is pays
