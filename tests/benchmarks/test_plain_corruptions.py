"""The plain version of the corruptions, image by image, is an oracle for those of the package."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import plain_corruptions
from layerticket.data.corruptions import recipe

WITHOUT_CHANCE = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
}
WITH_CHANCE = plain_corruptions.CORRUPTIONS.keys() - WITHOUT_CHANCE


@pytest.fixture(scope="module")
def images():
    """Smooth coloured images with one square each, (48, 3, 32, 32)."""
    draws = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(draws.standard_normal((48, 3, 32, 32)), (0, 0, 4, 4))
    values = 120 + 250 * smooth
    for image in values:
        top, left = draws.integers(2, 16, 2)
        image[:, top : top + 12, left : left + 12] = draws.uniform(0, 255, (3, 1, 1))
    return torch.from_numpy(np.clip(values, 0, 255).astype(np.uint8))


def both(images, name, severity):
    """The images corrupted by the package and plainly, (N, H, W, C) int64."""
    ours = recipe.corrupt(images, name, severity, seed=0).numpy().transpose(0, 2, 3, 1)
    draws = np.random.default_rng(1)
    plain = [
        plain_corruptions.corrupted(image, name, severity, draws)
        for image in images.numpy().transpose(0, 2, 3, 1)
    ]
    return ours.astype(np.int64), np.stack(plain).astype(np.int64)


def test_all_standard_corruptions_are_written_plainly():
    standard = {"frost_like" if name == "frost" else name for name in recipe.STANDARD}
    assert plain_corruptions.CORRUPTIONS.keys() == standard


@pytest.mark.parametrize("name", sorted(WITHOUT_CHANCE))
def test_without_chance_both_agree_within_one_step(name, images):
    for severity in recipe.SEVERITIES:
        ours, plain = both(images[:8], name, severity)
        assert np.abs(ours - plain).max() <= 1


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", sorted(WITH_CHANCE))
def test_with_chance_both_have_the_same_mean_and_deviation(name, severity, images, monkeypatch):
    monkeypatch.setattr(recipe, "GROUP", len(images))
    given = images.numpy().transpose(0, 2, 3, 1).astype(np.int64)
    ours, plain = both(images, name, severity)
    for figure in (np.mean, np.std):
        first, second = (figure(found - given, axis=(1, 2, 3)) for found in (ours, plain))
        error = (first - second).std(ddof=1) / len(images) ** 0.5
        assert abs((first - second).mean()) < 3.5 * error
        assert error < (6 if name in ("fog", "frost_like", "snow") else 1)  # of 255
