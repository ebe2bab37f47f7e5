"""Corruptions by weather and light of images (N, C, H, W) in [0, 1]; severities are 1 to 5.

Constants are from the source in ``noise``. Lengths are in pixels and do not scale with image size.
"""

import numpy as np

from layerticket.data.corruptions.pixels import Array, gray, motion_blurred, truncated, zoomed

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
SNOW = (  # mean, deviation, zoom, threshold, radius and sigma of the blur, weight of the image
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # amount, decay per step
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)  # added to the largest channel
ROUGHNESS = 100.0  # of the coarsest step; no effect, since fog is scaled to [0, 1]


def snow(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Whiten the image; add a layer of blurred flakes, and the same layer turned by 180 degrees."""
    mean, deviation, zoom, threshold, radius, sigma, weight = SNOW[severity - 1]
    count, _, height, width = images.shape
    normal = draws.standard_normal((count, 1, height, width), dtype=np.float32)
    flakes = zoomed(np.float32(mean) + np.float32(deviation) * normal, zoom)
    flakes[flakes < threshold] = 0
    flakes = truncated(flakes).astype(np.float32) / np.float32(255)
    fallen = motion_blurred(flakes, int(radius), sigma, draws.uniform(-135, -45, count))
    white = np.maximum(images, gray(images) * np.float32(1.5) + np.float32(0.5))
    whitened = np.float32(weight) * images + np.float32(1 - weight) * white
    found: Array = whitened + fallen + fallen[:, :, ::-1, ::-1]
    return found


def fog(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Add fractal haze; the result is scaled to keep the brightest value of the image."""
    amount, decay = FOG[severity - 1]
    count, _, height, width = images.shape
    haze = plasma(count, height, width, decay, draws)[:, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    hazy: Array = (images + np.float32(amount) * haze) / (brightest + np.float32(amount))
    hazy *= brightest
    return hazy


def plasma(count: int, height: int, width: int, decay: float, draws: np.random.Generator) -> Array:
    """Draw fractal height maps (height, width) with the diamond-square algorithm on a torus.

    Every step sets the points between the known ones to the mean of four neighbours plus
    ``w u``, u uniform in [-w, w]; w starts at 100 and is divided by `decay` when the step halves.
    Each map is scaled to [0, 1] before it is cropped; float32.
    """
    side = 1 << (max(height, width) - 1).bit_length()
    ground = np.zeros((count, side, side))
    step, rough = side, ROUGHNESS

    def between(total: Array) -> Array:
        found: Array = total / 4 + rough * draws.uniform(-rough, rough, total.shape)
        return found

    while step >= 2:
        half = step // 2
        corners = ground[:, ::step, ::step]
        sides = corners + np.roll(corners, -1, axis=1)
        ground[:, half::step, half::step] = between(sides + np.roll(sides, -1, axis=2))
        middles = ground[:, half::step, half::step]
        flat = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        ground[:, ::step, half::step] = between(flat)
        steep = middles + np.roll(middles, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        ground[:, half::step, ::step] = between(steep)
        step, rough = half, rough / decay
    ground -= ground.min(axis=(1, 2), keepdims=True)
    ground /= ground.max(axis=(1, 2), keepdims=True)
    return ground[:, :height, :width].astype(np.float32)


def brightness(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Increase the value in HSV: multiply all channels by the factor of the largest one."""
    value = images.max(axis=1, keepdims=True)
    raised = np.minimum(value + np.float32(BRIGHTNESS[severity - 1]), 1)
    factor: Array = raised / np.where(value > 0, value, 1)
    found: Array = np.where(value > 0, images * factor, raised)
    return found
