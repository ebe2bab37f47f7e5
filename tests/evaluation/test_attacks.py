"""Attacks: exact on linear networks, inside their budget, ordered by strength, without a trace."""

import copy
import dataclasses
import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError
from layerticket.evaluation.attacks import (
    PixelModel,
    attacked_accuracy,
    fgsm,
    pgd,
    suspicions,
    under_attack,
)
from layerticket.evaluation.robustness import ATTACKS, Attack
from toy_training import make_data, make_model

CPU = torch.device("cpu")
DATA = make_data()


class Linear(nn.Module):
    """Two logits, +-(w x + b), of images 1x1x2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -1.0]))
        self.b = nn.Parameter(torch.tensor(-0.8))

    def forward(self, x):
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([-z, z], dim=1)


def test_fgsm_is_exact_on_a_linear_network():
    # z = 3 x0 - x1 - 0.8; class 1 falls when z - epsilon (3 + 1) < 0.
    pixels = torch.tensor([[0.5, 0.3], [0.5, 0.5], [0.4, 0.3]]).view(3, 1, 1, 2)  # z .4 .2 .1
    labels = torch.ones(3, dtype=torch.int64)
    for attack in (
        lambda e: fgsm(Linear(), pixels, labels, e)[0],
        lambda e: pgd(Linear(), pixels, labels, e, steps=7, start=torch.zeros_like(pixels))[0],
    ):
        assert attack(0.04)[0].flatten().tolist() == pytest.approx([0.46, 0.34])
        for epsilon, survivors in ((0.02, [1, 1, 1]), (0.04, [1, 1, 0]), (0.06, [1, 0, 0])):
            found = Linear()(attack(epsilon)).argmax(dim=1)
            assert found.tolist() == survivors


def test_pgd_remembers_what_any_iterate_broke():
    class Bump(nn.Module):
        """Wrong between 0.63 and 0.69 only, most of all at 0.66."""

        def forward(self, x):
            z = 0.03 - (x.flatten(1)[:, 0] - 0.66).abs()
            return torch.stack([-z, z], dim=1)

    # In steps of 0.125, up to 0.7 at most: 0.52, 0.645 (wrong), 0.7, 0.575, 0.7 (right again).
    pixels, zero = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    start = torch.full_like(pixels, 0.1)
    last, whole = pgd(Bump(), pixels, zero, 0.2, steps=4, start=start)
    assert last.item() == pytest.approx(0.7)
    assert Bump()(last).argmax() == 0
    assert not whole
    assert pgd(Bump(), pixels, zero, 0.04, steps=4, start=start)[1]


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 1.0])
def test_changes_stay_in_the_budget_and_images_in_0_to_1(epsilon):
    images, labels = DATA.test.images.float() / 255, DATA.test.labels
    start = torch.rand_like(images) * 2 - 1
    with under_attack(make_model(), DATA, CPU) as network:
        for found in (
            fgsm(network, images, labels, epsilon)[0],
            pgd(network, images, labels, epsilon, steps=3, start=start)[0],
        ):
            assert (found - images).abs().max() <= epsilon + 1e-6
            assert found.min() >= 0
            assert found.max() <= 1


def test_pixels_are_normalized_inside():
    from layerticket.data.batches import batches

    model = make_model().eval()
    ((normalized, _),) = batches(DATA, DATA.test, 30, seed=0, epoch=0, train=False)
    found = PixelModel(model, DATA)(DATA.test.images.float() / 255)
    assert torch.allclose(found, model(normalized), atol=1e-5)


def attacked(kind, model=None, data=DATA, **options):
    attack = Attack(**({"epsilons": (4, 48, 64), "steps": 5} | options))
    return attacked_accuracy(model or trained(), data, data.test, kind, attack, device="cpu")


def trained():
    """The toy network after a few steps: right on most images, each class by 100 levels."""
    return copy.deepcopy(trained_once())


@functools.cache
def trained_once():
    model = make_model()
    images = (DATA.train.images.float() / 255 - 0.3) / 0.2
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(images), DATA.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_stronger_attacks_never_do_worse():
    model = trained()
    found = {kind: attacked(kind, model) for kind in ("noise", "fgsm", "pgd")}
    for result in found.values():
        assert result["clean_accuracy"] > 0.8
        shares = [budget["accuracy"] for budget in result["budgets"]]
        assert shares == sorted(shares, reverse=True)
        assert result["accuracy"] == shares[-1]
        assert result["epsilon_255"] == 64
        assert bin(int(result["correct"], 16)).count("1") == round(30 * shares[-1])
        assert result["warnings"] == []
    for noise, one, many in zip(*(r["budgets"] for r in found.values()), strict=True):
        assert noise["accuracy"] >= one["accuracy"] >= many["accuracy"]
        assert many["fgsm_accuracy"] == one["accuracy"]
        assert many["noise_accuracy"] == noise["accuracy"]
    assert found["fgsm"]["accuracy"] < found["noise"]["accuracy"]
    more = attacked("pgd", model, restarts=3)
    assert more["accuracy"] <= found["pgd"]["accuracy"]
    assert attacked("pgd", model) == found["pgd"]  # the same seed


def test_the_batch_size_changes_nothing():
    model, attack = trained(), Attack(epsilons=(4,), steps=3)
    one, two = (
        attacked_accuracy(model, DATA, DATA.test, "pgd", attack, device="cpu", batch_size=size)
        for size in (7, 30)
    )
    assert one == two


@pytest.mark.parametrize("kind", ATTACKS)
def test_nothing_of_the_model_and_no_random_state_is_changed(kind):
    if kind == "autoattack":
        pytest.importorskip("pyautoattack")
    model = four_classes()
    model[0].weight.requires_grad_(False)
    model[-1].weight.grad = torch.ones_like(model[-1].weight)
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    attack = Attack(epsilons=(2,), steps=2, autoattack="cheap")
    few = Split(images=DATA.test.images[:4], labels=DATA.test.labels[:4])
    attacked_accuracy(model, DATA, few, kind, attack, device="cpu")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, False] + [True] * 5
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 4
    assert model[-1].weight.grad.eq(1).all()
    assert all(p.grad is None for p in list(model.parameters())[:-2])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert states[2] == random.getstate()


def four_classes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make_model()
        model[-1] = nn.Linear(8, 4)
    return model


def test_autoattack_is_at_least_as_strong_as_pgd():
    pytest.importorskip("pyautoattack")
    data = dataclasses.replace(DATA, classes=4)
    model = four_classes()
    source = trained()
    model.load_state_dict(
        {k: v for k, v in source.state_dict().items() if k[0] != "6"}, strict=False
    )
    with torch.no_grad():
        model[-1].weight[:3], model[-1].bias[:3] = source[-1].weight, source[-1].bias
        model[-1].weight[3], model[-1].bias[3] = 0, -9.0
    few = Split(images=DATA.test.images[:8], labels=DATA.test.labels[:8])
    attack = Attack(epsilons=(48, 64), autoattack="cheap")
    weak, strong = (
        attacked_accuracy(model, data, few, kind, attack, device="cpu")
        for kind in ("pgd", "autoattack")
    )
    for one, other in zip(weak["budgets"], strong["budgets"], strict=True):
        assert other["accuracy"] <= one["accuracy"]
    assert strong["accuracy"] < strong["clean_accuracy"]


class Masked(nn.Module):
    """Rounds its input, so that the gradient is zero, in front of a network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 5).round() / 5)


def test_masked_gradients_are_told():
    result = attacked("pgd", Masked(trained()), epsilons=(16, 48))
    assert result["budgets"][0]["zero_gradient_share"] == 1
    assert any("gradients are masked: zero on 100.0%" in line for line in result["warnings"])


def test_what_a_weaker_attack_or_a_smaller_budget_broke_stays_broken(monkeypatch):
    def blind(network, images, labels, epsilon, **_):
        return images, torch.full_like(labels, epsilon > 10 / 255, dtype=torch.bool)

    monkeypatch.setattr("layerticket.evaluation.attacks.pgd", blind)
    above = attacked("pgd", epsilons=(48,))
    (figures,) = above["budgets"]
    assert figures["alone_accuracy"] == above["clean_accuracy"]
    assert above["accuracy"] == figures["fgsm_accuracy"] < above["clean_accuracy"]
    assert "fgsm breaks" in above["warnings"][0]
    both = attacked("pgd", epsilons=(4, 48))
    assert both["accuracy"] == 0 < both["budgets"][1]["alone_accuracy"]
    assert any("fewer images with more budget" in line for line in both["warnings"])


def test_signs_of_masked_gradients():
    fine = {
        "epsilon_255": 8.0, "accuracy": 0.2, "alone_accuracy": 0.2, "noise_accuracy": 0.9,
        "fgsm_accuracy": 0.3, "zero_gradient_share": 0.0, "regained_share": 0.0,
    }  # fmt: skip
    assert suspicions("pgd", [fine]) == []
    for change, said in (
        ({"fgsm_accuracy": 0.1}, "fgsm breaks 10.0% more images than pgd at 8/255"),
        ({"noise_accuracy": 0.1}, "noise breaks 10.0% more"),
        ({"zero_gradient_share": 0.5}, "zero on 50.0%"),
        ({"regained_share": 0.05}, "pgd breaks fewer images with more budget"),
    ):
        (line,) = suspicions("pgd", [fine | change])
        assert said in line


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"attack_images": 0}, "attack_images is 0"),
        ({"epsilons": ()}, "budgets above 0"),
        ({"epsilons": (1, 0)}, "budgets above 0"),
        ({"epsilons": (256,)}, "up to 255"),
        ({"autoattack": "fast"}, "Available: cheap, standard"),
    ],
)
def test_impossible_attacks_are_refused(wrong, said):
    with pytest.raises(LayerticketError, match=said):
        Attack(**wrong)


def test_refuses_what_means_nothing():
    empty = Split(images=DATA.test.images[:0], labels=DATA.test.labels[:0])
    with pytest.raises(LayerticketError, match="no images to attack"):
        attacked_accuracy(make_model(), DATA, empty, "fgsm", Attack())
    with pytest.raises(LayerticketError, match="at least 4 classes"):
        attacked("autoattack")
