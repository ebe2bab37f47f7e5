"""Corruptions by digital processing of images (N, C, H, W) in [0, 1]; severities are 1 to 5.

Constants are from the source in ``noise``. Lengths are in pixels and do not scale with image size.
"""

import io
from typing import Any

import numpy as np

from layerticket.data.corruptions.pixels import Array, blurred, displaced, truncated
from layerticket.data.images import pillow

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)  # remaining fraction of the distance to the mean
ELASTIC = (  # amplitude, smoothness, shift of the corners; in units of 32 pixels
    (0, 0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
)
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)  # relative size of the small image
QUALITY = (80, 65, 58, 50, 40)  # of the JPEG
SATURATE = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))  # factor, added


def contrast(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Move every channel towards its mean over the image."""
    means = images.mean(axis=(2, 3), keepdims=True)
    found: Array = (images - means) * np.float32(CONTRAST[severity - 1]) + means
    return found


def elastic_transform(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Move three points around the middle at random, then pixels along a smooth random field."""
    amplitude, smoothness, shift = (32 * value for value in ELASTIC[severity - 1])
    count, _, height, width = images.shape
    corners = draws.uniform(-shift, shift, (count, 3, 2))
    field = draws.uniform(-1, 1, (2, count, height, width)).astype(np.float32)
    rows, columns = _affine(corners, height, width)
    images = displaced(images, rows, columns, edge_twice=False)
    if amplitude == 0:
        return images
    down, right = amplitude * blurred(field, smoothness, mode="reflect", truncate=3)
    y, x = np.mgrid[0:height, 0:width]
    return displaced(images, y + down, x + right, edge_twice=True)


def _affine(moved: Array, height: int, width: int) -> tuple[Array, Array]:
    """Return source rows and columns (N, H, W) when three points around the middle are moved."""
    middle, reach = np.array([height // 2, width // 2]), min(height, width) // 3
    points = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])  # (3, 2)
    ones = np.ones((len(moved), 3, 1))
    back = np.linalg.solve(  # (N, 3, 2), from new to old points
        np.concatenate([points + moved, ones], axis=2), np.broadcast_to(points, moved.shape)
    )
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    grid = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)  # (H * W, 3)
    sources = (grid @ back).reshape(-1, height, width, 2)
    return sources[..., 1], sources[..., 0]


def pixelate(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Shrink every image and enlarge it again, with area averages."""
    share = PIXELATE[severity - 1]
    module = pillow()
    box = module.Resampling.BOX
    height, width = images.shape[2:]
    small = (max(int(width * share), 1), max(int(height * share), 1))

    def coarse(image: Any) -> Any:  # noqa: ANN401 - Pillow is optional, so are its types
        return image.resize(small, box).resize((width, height), box)

    return _one_by_one(images, coarse)


def jpeg_compression(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Compress every image as a JPEG and decode it."""
    module = pillow()

    def stored(image: Any) -> Any:  # noqa: ANN401 - Pillow is optional, so are its types
        target = io.BytesIO()
        image.save(target, "JPEG", quality=QUALITY[severity - 1])
        return module.open(target, formats=("JPEG",))

    return _one_by_one(images, stored)


def _one_by_one(images: Array, change: Any) -> Array:  # noqa: ANN401 - a function of Pillow images
    """Apply a function of Pillow images to every image."""
    module = pillow()
    pixels = np.ascontiguousarray(truncated(images).transpose(0, 2, 3, 1))  # (N, H, W, C)
    flat = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    changed = np.stack([np.asarray(change(module.fromarray(image))) for image in flat])
    back = changed.reshape(pixels.shape).transpose(0, 3, 1, 2)
    return back.astype(np.float32) / np.float32(255)


def saturate(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Change the saturation in HSV; grey pixels have hue 0, which is red."""
    factor, added = SATURATE[severity - 1]
    value = images.max(axis=1, keepdims=True)
    spread = value - images.min(axis=1, keepdims=True)
    saturation = spread / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * np.float32(factor) + np.float32(added), 0, 1)
    red = np.array([0, 1, 1], np.float32).reshape(1, 3, 1, 1)
    below = (value - images) / np.where(
        spread > 0, spread, 1
    )  # distance to the largest channel, 0 to 1
    found: Array = value - value * wanted * np.where(spread > 0, below, red)
    return found
