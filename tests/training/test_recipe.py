"""Recipes: ranges, presets, and learning rates worked out by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.training.recipe import (
    Recipe,
    he2016,
    learning_rate_at,
    make_optimizer,
    parameter_groups,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1),
        ("momentum", 0),  # Nesterov is on
        ("weight_decay", -1e-4),
        ("label_smoothing", 1),
        ("warmup_epochs", 200),
        ("warmup_epochs", -1),
        ("schedule", "linear"),
        ("precision", "fp16"),
        ("compile", True),
    ],
)
def test_refuses_what_cannot_be_trained(field, value):
    with pytest.raises(LayerticketError, match=r"but it must be"):
        Recipe(**{field: value})


def test_is_frozen_and_equal_by_value():
    assert Recipe(learning_rate=1) == Recipe(learning_rate=1.0)
    assert isinstance(Recipe(learning_rate=1).learning_rate, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3


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
    st.sampled_from(["cosine", "step"]),
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
