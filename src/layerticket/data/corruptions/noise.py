"""Corruptions that add noise to images (N, C, H, W) in [0, 1]; severities are 1 to 5.

Constants are those of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261), which are
smaller than those of ImageNet-C. Results may leave [0, 1]; the caller clips them.
"""

import numpy as np

from layerticket.data.corruptions.pixels import Array

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation
SHOT = (500, 250, 100, 75, 50)  # photons of a white pixel
IMPULSE = (0.01, 0.02, 0.03, 0.05, 0.07)  # fraction of the values
SPECKLE = (0.06, 0.10, 0.12, 0.16, 0.20)  # standard deviation of a white pixel


def gaussian_noise(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Add a normally distributed number to every value."""
    normal = draws.standard_normal(images.shape, dtype=np.float32)
    found: Array = images + np.float32(GAUSSIAN[severity - 1]) * normal
    return found


def shot_noise(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Replace every value x by Poisson(rate x) / rate."""
    rate = SHOT[severity - 1]
    return draws.poisson(images * rate).astype(np.float32) / np.float32(rate)


def impulse_noise(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Set random values to 0 or 1, with equal probability."""
    share = IMPULSE[severity - 1]
    uniform = draws.random(images.shape, dtype=np.float32)
    salted = np.where(uniform < share, np.float32(1), images)
    return np.where(uniform < share / 2, np.float32(0), salted)


def speckle_noise(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Multiply every value by a normally distributed number with mean 1."""
    normal = draws.standard_normal(images.shape, dtype=np.float32)
    found: Array = images + images * np.float32(SPECKLE[severity - 1]) * normal
    return found
