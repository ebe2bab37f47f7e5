"""Augmentation by name, mixing and stochastic depth: right by hand, and the same bits again."""

import dataclasses

import pytest
import torch
from torch import nn

from layerticket.data.batches import Mixing, batches, mixed
from layerticket.data.dataset import UNCHANGED
from layerticket.data.sources import Reading
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.training.device import Where
from layerticket.training.drop_path import DropPath, drop_paths
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from toy_training import make_data, make_model

QUIET = Where(device="cpu", progress=False)
RECIPE = Recipe(epochs=3, batch_size=16, precision="fp32")
BOTH = Mixing(mixup=0.5, cutmix=1.0)


def passed(data, **options):
    return list(
        batches(
            data, data.train, 16, seed=3, train=True, **{"epoch": 1, "drop_last": True} | options
        )
    )


def equal(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


# Mixing


def test_mixup_by_hand():
    # Beta(1, 1) is uniform, so the share is the second draw itself: 0.25 of one, 0.75 of other.
    one = torch.full((1, 1, 2, 2), 4.0), torch.tensor([[1.0, 0.0]])
    other = torch.full((1, 1, 2, 2), 8.0), torch.tensor([[0.0, 1.0]])
    images, targets = mixed(one, other, Mixing(mixup=1.0), [0.0, 0.25, 0.0, 0.0])
    assert images.tolist() == [[[[7.0, 7.0], [7.0, 7.0]]]]
    assert targets.tolist() == [[0.25, 0.75]]


def test_cutmix_by_hand():
    # Share 0.75 leaves a rectangle of side sqrt(0.25) = 1/2: 2 of 4 pixels, around row 0, column 2.
    # Of rows -1 and 0 one is inside: 1 x 2 of 16 pixels are pasted, 14/16 are left.
    one = torch.zeros(1, 1, 4, 4), torch.tensor([[1.0, 0.0]])
    other = torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 1.0]])
    images, targets = mixed(one, other, Mixing(cutmix=1.0), [0.9, 0.75, 0.0, 0.5])
    assert images[0, 0].tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert targets.tolist() == [[0.875, 0.125]]
    assert not one[0].any(), "the images given must stay"


@pytest.mark.parametrize(("which", "blended"), [(0.2, False), (0.8, True)])
def test_with_both_every_batch_draws_one(which, blended):
    one, other = ((torch.full((1, 1, 4, 4), v), torch.zeros(1, 2)) for v in (0.0, 1.0))
    images, _ = mixed(one, other, Mixing(mixup=1.0, cutmix=1.0), [which, 0.5, 0.5, 0.5])
    assert (len(images.unique()) == 1) is blended


def test_an_image_is_mixed_with_the_one_before_it():
    data = dataclasses.replace(make_data(), augment=UNCHANGED)
    plain, blended = passed(data), passed(data, mixing=Mixing(mixup=0.5))
    for (images, labels), (got, targets) in zip(plain, blended, strict=True):
        partner, classes = images.roll(1, 0), labels.roll(1)
        share = float(targets[labels != classes][0, labels[labels != classes][0]])
        torch.testing.assert_close(got, images * share + partner * (1 - share))
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(labels)))


def test_parts_of_mixed_batches_are_those_of_the_whole():
    data = make_data()
    whole = passed(data, mixing=BOTH)
    for part in ((0, 5), (5, 16), (7, 8)):
        here = passed(data, mixing=BOTH, part=part)
        assert equal(here, [(i[slice(*part)], t[slice(*part)]) for i, t in whole])


def test_mixing_changes_neither_order_nor_crops():
    data = make_data()
    plain, weak = passed(data), passed(data, mixing=Mixing(cutmix=1.0))
    same = [(one == other).float().mean() for (one, _), (other, _) in zip(plain, weak, strict=True)]
    assert 0 < sum(same) / len(same) < 1


# One by one


@pytest.mark.parametrize("policy", ["trivialaugment", "randaugment"])
def test_the_number_of_readers_changes_no_bit(policy):
    data = make_data(40)
    alone = passed(dataclasses.replace(data, reading=Reading(readers=0)), policy=policy)
    helped = passed(dataclasses.replace(data, reading=Reading(readers=2)), policy=policy)
    assert equal(alone, helped)
    assert not equal(alone, passed(data))
    assert not equal(alone, passed(data, policy=policy, epoch=2))
    half = passed(data, policy=policy, part=(4, 9))
    assert equal(half, [(images[4:9], labels[4:9]) for images, labels in alone])


def test_what_is_done_to_an_image_follows_from_its_row():
    data = dataclasses.replace(make_data(40), augment=UNCHANGED, reading=Reading(readers=0))
    seen = {}
    for size in (16, 8):  # other batches, other neighbours
        order = torch.cat([labels for _, labels in passed(data, policy="randaugment")])
        images = [i for i, _ in batches(data, data.train, size, seed=3, epoch=1, train=True,
                                        policy="randaugment")]  # fmt: skip
        seen[size] = torch.cat(images)
        assert len(order) == 32
    assert torch.equal(seen[16], seen[8])


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(4)
    expected = torch.rand(3)
    for readers in (0, 1):
        data = dataclasses.replace(make_data(32), reading=Reading(readers=readers))
        torch.manual_seed(4)
        passed(data, policy="trivialaugment")
        assert torch.equal(torch.rand(3), expected)


def test_other_images_than_the_policies_are_made_for_are_refused(tmp_path):
    data, recipe = make_data(), dataclasses.replace(RECIPE, augmentation="trivialaugment")
    wide = {
        name: dataclasses.replace(
            getattr(data, name), images=getattr(data, name).images.to(torch.uint16)
        )
        for name in ("train", "validation", "test")
    }
    odd = dataclasses.replace(data, value_range=(0, 4095), **wide)
    with pytest.raises(LayerticketError, match=r"8 bits and 1 or 3 channels.*uint16"):
        fit(make_model(), odd, recipe, seed=0, folder=tmp_path, where=QUIET)


# Whole trainings

CHOICES = {
    "mixed": {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
    "policy": {"augmentation": "trivialaugment", "mixup": 0.2},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_resumes_to_the_same_bits(tmp_path, choice):
    def stop(_):
        raise KeyboardInterrupt

    recipe = dataclasses.replace(RECIPE, **CHOICES[choice])
    data = dataclasses.replace(make_data(), reading=Reading(readers=1))
    models = {name: make_model() for name in ("whole", "cut")}
    fit(models["whole"], data, recipe, seed=5, folder=tmp_path / "whole", where=QUIET)
    calls = iter([lambda _: 0.5, stop])
    with pytest.raises(KeyboardInterrupt):
        fit(
            models["cut"], data, recipe, seed=5, folder=tmp_path / "cut", where=QUIET,
            validate=lambda model: next(calls)(model),
        )  # fmt: skip
    data = dataclasses.replace(data, reading=Reading(readers=0))
    fit(models["cut"], data, recipe, seed=5, folder=tmp_path / "cut", where=QUIET)
    for one, other in zip(models["whole"].parameters(), models["cut"].parameters(), strict=True):
        assert torch.equal(one, other)


# Stochastic depth


def test_drop_path_by_hand():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    found = layer(torch.ones(4000, 2, 3))
    per_image = found.flatten(1)
    assert torch.equal(per_image.min(1).values, per_image.max(1).values)
    assert found.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(layer.eval()(torch.ones(5, 2)), torch.ones(5, 2))


def rates(model):
    return [module.rate for module in model.modules() if isinstance(module, DropPath)]


def test_rates_grow_from_the_first_block_to_the_last():
    vit = build_model("timm:vit_tiny_patch16_224,depth=3", classes=3, channels=3, seed=0)
    names = [type(module) for module in vit.modules()]
    with drop_paths(vit, 0.2):
        assert rates(vit) == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert [type(module) for module in vit.modules()] == names


@pytest.mark.parametrize(
    ("name", "places"), [("timm:resnet10t", 4), ("torchvision:convnext_tiny", 18)]
)
def test_finds_the_places_of_other_networks(name, places):
    model = build_model(name, classes=3, channels=3, seed=0)
    before = [(n, type(module).__name__) for n, module in model.named_modules()]
    with drop_paths(model, 0.3):
        assert len(rates(model)) == places
        assert rates(model)[0] == 0
        assert rates(model)[-1] == pytest.approx(0.3)
        model(torch.zeros(2, 3, 32, 32))
    assert [(n, type(module).__name__) for n, module in model.named_modules()] == before
    model(torch.zeros(2, 3, 32, 32))


def test_zero_is_a_choice_and_none_is_as_built():
    name = "timm:vit_tiny_patch16_224,depth=2,drop_path_rate=0.5"
    model = build_model(name, classes=3, channels=3, seed=0)
    built = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert max(built) == pytest.approx(0.5)
    with drop_paths(model, None):
        assert not rates(model)
    with drop_paths(model, 0.0):
        assert set(rates(model)) == {0.0}
        assert not [
            m
            for m in model.modules()
            if type(m).__name__ == "DropPath" and not isinstance(m, DropPath)
        ]


def test_a_network_without_places_is_refused(tmp_path):
    recipe = dataclasses.replace(RECIPE, drop_path=0.1)
    with pytest.raises(
        LayerticketError, match=r"drop_path is 0\.1, but the network has no drop-path layers"
    ):
        fit(make_model(), make_data(), recipe, seed=0, folder=tmp_path, where=QUIET)


def test_training_with_drop_path_differs_and_leaves_the_network_as_it_was(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 8), nn.Linear(4, 3)
            self.one, self.two = Branch(), Branch()

        def forward(self, images):
            return self.head(self.two(self.one(self.stem(images).flatten(1))))

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop_path = nn.Linear(4, 4), nn.Identity()

        def forward(self, inputs):
            return inputs + self.drop_path(self.layer(inputs))

    ends = []
    for rate in (None, 0.0, 0.5):
        torch.manual_seed(0)
        model, recipe = Net(), dataclasses.replace(RECIPE, drop_path=rate, channels_last=False)
        fit(model, make_data(), recipe, seed=5, folder=tmp_path / str(rate), where=QUIET)
        assert isinstance(model.one.drop_path, nn.Identity)
        ends.append(model.two.layer.weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
