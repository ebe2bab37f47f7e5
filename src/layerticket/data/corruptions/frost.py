"""The frost corruption: with the photographs of the recipe, or with generated textures.

The five photographs are not part of this package. The corruption with generated textures gives
other results, so it has another name: ``frost_like``.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from layerticket.data.corruptions.pixels import Array
from layerticket.data.images import SUFFIXES, form_of, read_image
from layerticket.errors import LayerticketError

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # weights of image and frost
PHOTOGRAPHS = 5
SHRINK = 0.2
SIDE = 200  # pixels of a generated texture


def frost(
    images: Array, severity: int, draws: np.random.Generator, textures: Sequence[Array]
) -> Array:
    """Add a random crop of a random texture (3, height, width) to every image."""
    image_weight, frost_weight = FROST[severity - 1]
    channels, height, width = images.shape[1:]
    numbers = draws.integers(0, len(textures), len(images))
    positions = draws.random((len(images), 2))
    layer = np.empty_like(images)
    for i, (number, position) in enumerate(zip(numbers, positions, strict=True)):
        texture = textures[number]
        room = np.array(texture.shape[1:]) - (height, width)
        top, left = (position * np.maximum(room, 1)).astype(int)
        crop = texture[:, top : top + height, left : left + width]
        layer[i] = crop if channels == 3 else crop.mean(axis=0)
    return np.float32(image_weight) * images + np.float32(frost_weight) * layer


def frost_like(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Add a random crop of a generated texture to every image, with the weights of the recipe."""
    return frost(images, severity, draws, _generated())


def read_photographs(folder: Path, height: int, width: int) -> tuple[Array, ...]:
    """Read the first five photographs of a folder, sorted by name: (3, h, w) float32 in [0, 1].

    They are shrunk to a fifth without smoothing, as in the recipe.

    Raises:
        LayerticketError: If there are fewer, or a crop of `height` by `width` pixels does not fit.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES)[:PHOTOGRAPHS]
    if len(files) < PHOTOGRAPHS:
        raise LayerticketError(
            f"{str(folder)!r} holds {len(files)} PNG or JPEG files; the frost of the recipe needs "
            f"{PHOTOGRAPHS} photographs. Give their folder, or none for generated textures."
        )
    textures = []
    for file in files:
        colours = replace(form_of(file), channels=3, bits=8)
        photograph = torch.from_numpy(read_image(file, colours))[None].float() / 255
        small = F.interpolate(photograph, scale_factor=SHRINK, mode="bilinear")[0].numpy()
        if small.shape[1] < height or small.shape[2] < width:
            raise LayerticketError(
                f"the photograph {file.name!r} is too small: a fifth of it must hold "
                f"{height}x{width} pixels. Give the original photographs."
            )
        textures.append(small)
    return tuple(textures)


@functools.cache
def _generated() -> tuple[Array, ...]:
    """Generate five textures (3, SIDE, SIDE): needles in many directions on clouds."""
    draws = np.random.default_rng(20190504)
    tint = np.array([0.86, 0.94, 1.0], np.float32).reshape(3, 1, 1)
    textures = []
    for _ in range(PHOTOGRAPHS):
        clouds = draws.standard_normal((SIDE, SIDE))
        clouds = _scaled(ndimage.gaussian_filter(clouds, 12, mode="wrap"))
        needles = np.zeros((SIDE, SIDE))
        for degrees in draws.uniform(0, 180, 8):
            fine = ndimage.gaussian_filter(
                draws.standard_normal((2 * SIDE, 2 * SIDE)), (0.6, 7), mode="wrap"
            )
            turned = ndimage.rotate(fine, degrees, reshape=False, order=1, mode="wrap")
            middle = turned[SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE]
            needles = np.maximum(needles, _scaled(middle) ** 2)
        textures.append((tint * _scaled(0.5 * clouds + needles)).astype(np.float32))
    return tuple(textures)


def _scaled(values: Array) -> Array:
    """Scale values to [0, 1]."""
    found: Array = (values - values.min()) / (values.max() - values.min())
    return found
