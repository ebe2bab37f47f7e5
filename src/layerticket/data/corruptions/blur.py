"""Corruptions that blur images (N, C, H, W) in [0, 1]; severities are 1 to 5.

Constants are from the source in ``noise``. Lengths are in pixels and do not scale with image size.
"""

import functools

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from layerticket.data.corruptions.pixels import Array, blurred, motion_blurred, truncated, zoomed

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius, smoothing
GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))  # sigma, rounds of shuffling
MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, sigma
# By rounding, the authors' ranges include 1.06 and 1.11, and their last factor is
# 1.2500000000000002, which enlarges 26 pixels to 33 instead of 32.
ZOOM = tuple(np.arange(1, end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26))
GAUSSIAN = (0.4, 0.6, 0.7, 0.8, 1.0)  # sigma


@functools.cache
def disc(radius: float, smoothing: float) -> Array:
    """Return the disc of the defocus blur, smoothed by a 3x3 Gaussian: (7, 7), sum 1."""
    y, x = np.mgrid[-3:4, -3:4]
    sharp = (x**2 + y**2 <= radius**2).astype(np.float64)
    line = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * smoothing**2))
    line /= line.sum()
    smooth = ndimage.correlate(sharp / sharp.sum(), np.outer(line, line), mode="constant")
    return np.asarray(smooth, np.float32)


def defocus_blur(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Spread every pixel over a disc; borders are mirrored at the outermost pixel."""
    kernel = torch.from_numpy(disc(*DEFOCUS[severity - 1]))[None, None]
    planes = torch.from_numpy(images.reshape(-1, 1, *images.shape[2:]))
    found = F.conv2d(F.pad(planes, (3, 3, 3, 3), mode="reflect"), kernel)
    return np.asarray(found.numpy()).reshape(images.shape)


def glass_blur(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Blur, replace every pixel by a neighbour at random, blur again.

    Each pixel, except in the first two rows and columns, is replaced by itself or its neighbour
    above, to the left, or above left, with equal probability. The authors' program was meant to
    exchange the two pixels. As published it copies, because a NumPy view reads what was just
    written; it runs from the last pixel to the first, so all pixels can be replaced at once.
    """
    sigma, rounds = GLASS[severity - 1]
    count, _, height, width = images.shape
    mixed = truncated(blurred(images, sigma)).reshape(*images.shape[:2], -1)
    rows, columns = np.mgrid[0:height, 0:width]
    moved = (rows >= 2) & (columns >= 2)
    for _ in range(rounds):
        up, left = draws.integers(0, 2, (2, count, height, width), dtype=np.int8)
        places = (rows - up * moved) * width + columns - left * moved  # (N, H, W)
        mixed = np.take_along_axis(mixed, places.reshape(count, 1, -1), axis=2)
    return blurred(mixed.reshape(images.shape).astype(np.float32) / np.float32(255), sigma)


def motion_blur(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Blur along a line with a random direction of -45 to 45 degrees."""
    radius, sigma = MOTION[severity - 1]
    return motion_blurred(images, radius, sigma, draws.uniform(-45, 45, len(images)))


def zoom_blur(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Average the image and copies that are zoomed into its middle in steps of 1 %."""
    factors = ZOOM[severity - 1]
    total = images.copy()
    for factor in factors:
        total += zoomed(images, float(factor))
    return total / np.float32(len(factors) + 1)


def gaussian_blur(images: Array, severity: int, _: np.random.Generator) -> Array:
    """Blur with a Gaussian."""
    return blurred(images, GAUSSIAN[severity - 1])
