"""Corruptions: shape, range, seed, damage, and each against its definition worked out otherwise."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from layerticket.data import cache
from layerticket.data.corruptions import blur, frost, noise, pixels, recipe, spatter, weather
from layerticket.data.corruptions.recipe import (
    EXTRA,
    SEVERITIES,
    STANDARD,
    all_severities,
    corrupt,
    obstacle,
)
from layerticket.errors import LayerticketError

NAMES = [*("frost_like" if name == "frost" else name for name in STANDARD), *EXTRA]
WITHOUT_CHANCE = {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression",
    "gaussian_blur", "saturate",
}  # fmt: skip
# By their constants these do not grow at every step: elastic trades shift for wobble, saturate
# takes colour away and then adds it, spatter goes from water to mud.
UNEVEN = {"elastic_transform", "saturate", "spatter"}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(recipe, "GROUP", 16)


@pytest.fixture(scope="module")
def images():
    """Coloured shapes on a smooth ground, (24, 3, 32, 32)."""
    draws = np.random.default_rng(1)
    ground = ndimage.gaussian_filter(draws.standard_normal((24, 3, 32, 32)), (0, 0, 4, 4))
    ground = 120 + 250 * ground
    y, x = np.mgrid[:32, :32]
    for image in ground:
        cy, cx, r = draws.uniform(8, 24), draws.uniform(8, 24), draws.uniform(4, 9)
        image[:, (y - cy) ** 2 + (x - cx) ** 2 < r**2] = draws.uniform(0, 255, (3, 1))
    return torch.from_numpy(np.clip(ground, 0, 255).astype(np.uint8))


def gray(value, count=16, channels=3):
    return torch.full((count, channels, 32, 32), value, dtype=torch.uint8)


def unit(images):
    return images.numpy().astype(np.float32) / 255


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption(name, images):
    weak, strong = (corrupt(images, name, severity, seed=3) for severity in (1, 5))
    for found in (weak, strong):
        assert found.shape == images.shape
        assert found.dtype == torch.uint8
    assert torch.equal(strong, corrupt(images, name, 5, seed=3))
    assert torch.equal(strong[:19], corrupt(images[:19], name, 5, seed=3))  # in the second group
    assert torch.equal(strong, corrupt(images, name, 5, seed=4)) == (name in WITHOUT_CHANCE)
    assert (strong != images).float().mean() > 0.05


def lost(images, found):
    """What a corrupted image no longer tells of the image: 1 - correlation, on average."""
    both = torch.stack([images, found]).double().flatten(2)
    both -= both.mean(dim=2, keepdim=True)
    both /= both.norm(dim=2, keepdim=True)
    return 1 - (both[0] * both[1]).sum(dim=1).mean().item()


@pytest.mark.parametrize("name", sorted(set(NAMES) - UNEVEN))
def test_damage_grows_with_severity(name, images):
    damage = [
        lost(images, found) if name == "frost_like" else (found.float() - images).abs().mean()
        for found in (corrupt(images, name, s, seed=0) for s in SEVERITIES)
    ]
    assert damage[0] < damage[2]
    assert damage[0] < damage[4]
    assert damage[4] > 0.9 * max(damage)


def test_spatter_grows_in_water_and_in_mud(images):
    damage = [lost(images, corrupt(images, "spatter", s, seed=0)) for s in SEVERITIES]
    assert damage[0] < damage[1] < damage[2]
    assert damage[3] < damage[4]


def test_groups_do_not_repeat_their_noise():
    found = corrupt(gray(128, 32), "gaussian_noise", 1, seed=0)
    assert not torch.equal(found[:16], found[16:])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_spread_of_the_recipe(severity):
    half = 128 / 255

    def spread(name):  # before truncation moves the mean by half a step
        return (corrupt(gray(128), name, severity, seed=0).float() / 255).std().item()

    assert spread("gaussian_noise") == pytest.approx(noise.GAUSSIAN[severity - 1], rel=0.03)
    assert spread("speckle_noise") == pytest.approx(noise.SPECKLE[severity - 1] * half, rel=0.03)
    rate = noise.SHOT[severity - 1]
    assert spread("shot_noise") == pytest.approx((half / rate) ** 0.5, rel=0.03)
    found = corrupt(gray(128), "impulse_noise", severity, seed=0)
    share = noise.IMPULSE[severity - 1]
    assert (found == 0).float().mean().item() == pytest.approx(share / 2, rel=0.1)
    assert (found == 255).float().mean().item() == pytest.approx(share / 2, rel=0.1)
    assert ((found == 0).sum(1) == 1).any()  # single channel values, not whole pixels


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_are_those_of_scipy(severity, images):
    radius, smoothing = blur.DEFOCUS[severity - 1]
    y, x = np.mgrid[-8:9, -8:9]
    disc = (x**2 + y**2 <= radius**2).astype(float)
    line = np.exp(-np.array([1.0, 0, 1]) / (2 * smoothing**2))
    kernel = ndimage.correlate(disc / disc.sum(), np.outer(line, line) / line.sum() ** 2)
    wanted = ndimage.correlate(images.numpy() / 255, kernel[None, None], mode="mirror")
    found = blur.defocus_blur(unit(images), severity, None)
    assert np.abs(found - wanted).max() < 1e-6
    sigma = blur.GAUSSIAN[severity - 1]
    wanted = ndimage.gaussian_filter(images.numpy() / 255, (0, 0, sigma, sigma), mode="nearest")
    assert np.abs(blur.gaussian_blur(unit(images), severity, None) - wanted).max() < 1e-6


def test_zoom_is_that_of_scipy_cropped_to_the_middle(images):
    image = images[0, 0].numpy().astype(np.float64)
    for factor in (1, 1.03, 1.25, 1.75, 2.25):
        assert np.abs(pixels.zoomed(image, factor) - clipped(image, factor)).max() < 1e-3


def clipped(image, factor):
    """The middle of an image, zoomed by SciPy, as the recipe crops it before and after."""
    cropped = int(np.ceil(32 / factor))
    top = (32 - cropped) // 2
    big = ndimage.zoom(image[top : top + cropped, top : top + cropped], factor, order=1)
    trim = (len(big) - 32) // 2
    return big[trim : trim + 32, trim : trim + 32]


def test_zoom_blur_takes_the_factors_of_the_recipe(images):
    ranges = ((1.06, 7), (1.11, 12), (1.16, 16), (1.21, 21), (1.26, 26))
    for severity, (end, number) in enumerate(ranges, 1):
        factors = np.arange(1, end, 0.01)
        assert blur.ZOOM[severity - 1].tolist() == factors.tolist()
        assert len(factors) == number
        image = images[2, 1].numpy() / 255
        wanted = (image + sum(clipped(image, f) for f in factors)) / (number + 1)
        found = blur.zoom_blur(unit(images[2:3]), severity, None)[0, 1]
        assert np.abs(found - wanted).max() < 1e-6
    assert factors[-1] == 1.2500000000000002
    assert len(ndimage.zoom(np.eye(26), (factors[-1], 1), order=1)) == 33
    assert len(ndimage.zoom(np.eye(26), (1.25, 1), order=1)) == 32


@pytest.mark.parametrize(("edge_twice", "mode"), [(True, "reflect"), (False, "mirror")])
def test_displacement_is_that_of_scipy(edge_twice, mode, images):
    draws = np.random.default_rng(0)
    rows, columns = draws.uniform(-5, 36, (2, 3, 32, 32))
    found = pixels.displaced(unit(images[:3]), rows, columns, edge_twice=edge_twice)
    for i in range(3):
        wanted = ndimage.map_coordinates(
            images[i, 1].numpy() / 255, (rows[i], columns[i]), order=1, mode=mode
        )
        assert np.abs(found[i, 1] - wanted).max() < 1e-4


def test_motion_blur_by_hand():
    point = np.zeros((2, 1, 9, 9), np.float32)
    point[:, :, 4, 4] = 1
    found = pixels.motion_blurred(point, 2, 1.0, np.array([0.0, -90.0]))
    weights = np.exp(-(np.arange(5) ** 2) / 2)
    weights /= weights.sum()
    # 65535 times 0.57035, 0.34593, 0.07719, 0.00633, 0.00019 is 37378, 22671, 5059, 415, 13;
    # of these 145, 88, 19, 1 and 0 are whole steps of 257 (146 and 20 if they were rounded).
    eight = np.array([145, 88, 19, 1, 0])
    assert np.rint(weights * 65535).astype(int).tolist() == [37378, 22671, 5059, 415, 13]
    # At 0 degrees a pixel reads from its right, so the point is smeared to the left.
    assert (255 * found[0, 0, 4, :5][::-1]).tolist() == pytest.approx(eight.tolist())
    assert (255 * found[1, 0, 4:, 4]).tolist() == pytest.approx(eight.tolist())
    for value in (1, 100, 254, 255):  # what does not change keeps its value
        flat = np.full((3, 1, 8, 8), value, np.float32) / np.float32(255)
        found = pixels.motion_blurred(flat, 9, 2.5, np.arange(3.0))
        assert (pixels.truncated(found) == value).all()


def test_glass_takes_values_of_near_pixels_only():
    ramp = torch.arange(1024).remainder(251).to(torch.uint8).view(1, 1, 32, 32).repeat(16, 3, 1, 1)
    found = corrupt(ramp, "glass_blur", 1, seed=0)  # sigma 0.05 blurs nothing
    assert torch.equal(found[:, :, :2], ramp[:, :, :2])
    assert torch.equal(found[:, :, :, :2], ramp[:, :, :, :2])
    near = torch.stack([ramp.roll((dy, dx), (2, 3)) for dy in (0, 1) for dx in (0, 1)])
    taken = (near == found)[..., 2:, 2:]
    assert taken.any(dim=0).all()
    assert taken.float().mean(dim=(1, 2, 3, 4)) == pytest.approx([0.25] * 4, abs=0.02)
    assert torch.equal(found[:, 0], found[:, 2])  # all channels move together


def test_light_by_hand():
    for severity in SEVERITIES:
        added = round(255 * weather.BRIGHTNESS[severity - 1], 6)
        found = corrupt(gray(100), "brightness", severity, seed=0)
        assert found.unique().tolist() == [int(100 + added + 1e-3)]
    red = gray(0)
    red[:, 0], red[:, 1] = 200, 100
    found = corrupt(red, "brightness", 2, seed=0)[0, :, 0, 0].tolist()
    assert found == [225, 112, 0]  # all channels by the factor 225.5 / 200
    assert corrupt(gray(0), "brightness", 3, seed=0).unique().tolist() == [38]
    halves = gray(100)
    halves[:, :, 16:] = 200
    found = corrupt(halves, "contrast", 2, seed=0)  # half as far from 150
    assert sorted(found.unique().tolist()) in ([125, 175], [124, 174], [124, 175], [125, 174])
    assert corrupt(red, "saturate", 2, seed=0)[0, :, 0, 0].tolist() == [200, 190, 180]
    assert corrupt(gray(100), "saturate", 4, seed=0)[0, :, 0, 0].tolist() == [100, 90, 90]


def test_fog_is_a_haze_from_0_to_1_that_keeps_the_brightest_value():
    draws = np.random.default_rng(0)
    haze = weather.plasma(8, 32, 32, 2.0, draws)
    assert haze.min(axis=(1, 2)) == pytest.approx(0)
    assert haze.max(axis=(1, 2)) == pytest.approx(1)
    assert np.abs(np.diff(haze, axis=1)).mean() < 0.5 * np.abs(haze - haze.mean()).mean()
    assert weather.plasma(2, 8, 5, 2.0, draws).shape == (2, 8, 5)
    white = corrupt(gray(255), "fog", 3, seed=0)
    assert white.max() >= 254
    assert white.min() == int(255 / 1.75)


def test_snow_is_white_and_its_layer_falls_twice():
    found = corrupt(gray(50), "snow", 3, seed=0)
    assert (found[:, 0] == found[:, 1]).all()
    assert found.min() >= int(50 * 0.9 + (75 + 127.5) * 0.1) - 1
    assert torch.equal(found, found.flip(2, 3))


def test_frost_by_hand(tmp_path, images):
    for i in range(6):
        Image.new("RGB", (300, 300), (10 * i, 100, 200)).save(tmp_path / f"frost{i}.png")
    found = corrupt(gray(100), "frost", 1, seed=0, frost_dir=tmp_path)
    assert set(found[:, 0].unique().tolist()) <= {100 + 2 * i for i in range(5)}
    assert found[:, 1].unique().tolist() == [120]
    assert found[:, 2].unique().tolist() == [140]
    (tmp_path / "frost0.png").write_bytes(b"no image")
    with pytest.raises(LayerticketError, match=r"frost0.png. is empty, or not an image"):
        corrupt(images, "frost", 1, seed=0, frost_dir=tmp_path)
    with pytest.raises(LayerticketError, match="0 PNG or JPEG"):
        frost.read_photographs(tmp_path / "absent", 32, 32)
    Image.new("RGB", (99, 99)).save(tmp_path / "frost0.png")
    with pytest.raises(LayerticketError, match="too small"):
        frost.read_photographs(tmp_path, 32, 32)
    with pytest.raises(LayerticketError, match="--frost-dir"):
        corrupt(images, "frost", 1, seed=0)


def test_stored_images_are_those_of_pillow(images):
    picture = Image.fromarray(images[5].permute(1, 2, 0).numpy())
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=58)
    stored = np.asarray(Image.open(target))
    coarse = np.asarray(picture.resize((27, 27), Image.BOX).resize((32, 32), Image.BOX))
    for name, wanted in (("jpeg_compression", stored), ("pixelate", coarse)):
        found = corrupt(images, name, 3, seed=0)[5].permute(1, 2, 0).numpy()
        assert np.array_equal(found, wanted)


def test_edges_and_histograms_of_spatter():
    square = np.zeros((2, 16, 16), np.float32)
    square[0, 4:12, 4:12] = 200
    edges = spatter._canny(square)
    assert not edges[1].any()
    assert edges[0, 4:12, 3:5].any(axis=1).all()
    assert not edges[0, 6:10, 6:10].any()
    assert not edges[0, :3].any()
    values = np.array([[[3, 3], [5, 9]], [[7, 7], [7, 7]]], np.uint8)
    assert spatter._equalized(values).tolist() == [[[0, 0], [128, 255]], [[7, 7], [7, 7]]]


def test_water_thicker_than_one_begins_at_0_again(monkeypatch):
    # 0.8, 1.0, 1.1 and 2.1 of 255 are 204, 255, 280 and 535: 204, 255, 24 and 23 in 8 bits.
    layer = np.full((1, 32, 32), 0.8, np.float32)
    layer[:, 8:16], layer[:, 16:24], layer[:, 24:] = 1.0, 1.1001, 2.1
    seen = []
    monkeypatch.setattr(spatter, "blurred", lambda *_: layer.copy())
    monkeypatch.setattr(
        spatter, "_relief", lambda drops: seen.append(drops) or np.ones((1, 32, 32))
    )
    spatter.spatter(unit(gray(0, count=1)), 3, np.random.default_rng(0))
    assert seen[0][0, ::8, 0].tolist() == [204, 255, 24, 23]


def test_images_of_one_channel_and_of_other_sizes():
    small = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    for name in NAMES:
        why = obstacle(name, (1, 8, 8))
        if why:
            with pytest.raises(LayerticketError, match="cannot be applied here"):
                corrupt(small, name, 1, seed=0)
        else:
            assert corrupt(small, name, 5, seed=0).shape == small.shape
    refused = {name for name in NAMES if obstacle(name, (1, 8, 8))}
    assert refused == {"saturate", "spatter", "elastic_transform"}
    wide = torch.randint(0, 256, (3, 3, 20, 40), dtype=torch.uint8)
    assert all(corrupt(wide, name, 3, seed=0).shape == wide.shape for name in NAMES)
    assert all(obstacle(name, (4, 32, 32)) for name in NAMES)


@pytest.mark.parametrize(
    ("name", "severity", "given", "said"),
    [
        ("gausian_noise", 1, gray(0), "Did you mean 'gaussian_noise'"),
        ("fog", 0, gray(0), "allowed are 1 to 5"),
        ("fog", 1, gray(0).float(), "must be torch.uint8"),
        ("fog", 1, gray(0)[:0], "at least one"),
        ("fog", 1, gray(0)[0], "must be torch.uint8"),
    ],
)
def test_refusals(name, severity, given, said):
    with pytest.raises(LayerticketError, match=said):
        corrupt(given, name, severity, seed=0)


def test_corrupted_images_are_kept(images, monkeypatch):
    first = all_severities(images, "fog", seed=11)
    assert first.shape == (5, *images.shape)
    assert torch.equal(first[2], corrupt(images, "fog", 3, seed=11))
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "corrupt", lambda *_, **__: 1 / 0)
        assert torch.equal(first, all_severities(images, "fog", seed=11))
        with pytest.raises(ZeroDivisionError):
            all_severities(images, "fog", seed=12)
        with pytest.raises(ZeroDivisionError):
            all_severities(images[:5], "fog", seed=11)
    kept = next((cache.folder() / "decoded").glob("fog-*"))
    kept.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(first, all_severities(images, "fog", seed=11))
