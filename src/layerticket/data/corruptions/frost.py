"""Frost on the pane: from photographs the user has, or a drawn texture under another name.

The recipe lays crops of five photographs over the images; they are not part of this package. What
is drawn here instead looks like frost to a person and is none of them, so it is called
``frost_like`` everywhere.
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
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # shares of image and frost
PHOTOGRAPHS = 5
SHRINK = 0.2
SIDE = 200  # pixels of a drawn texture


def frost(
    images: Array, severity: int, draws: np.random.Generator, panes: Sequence[Array]
) -> Array:
    """Lay a random crop of a random pane (3, height, width) over every image."""
    share, frozen = FROST[severity - 1]
    channels, height, width = images.shape[1:]
    which = draws.integers(0, len(panes), len(images))
    where = draws.random((len(images), 2))
    layer = np.empty_like(images)
    for i, (pane, place) in enumerate(zip(which, where, strict=True)):
        source = panes[pane]
        room = np.array(source.shape[1:]) - (height, width)
        top, left = (place * np.maximum(room, 1)).astype(int)
        crop = source[:, top : top + height, left : left + width]
        layer[i] = crop if channels == 3 else crop.mean(axis=0)
    return np.float32(share) * images + np.float32(frozen) * layer


def frost_like(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Lay a random crop of a drawn texture over every image, in the shares of the recipe."""
    return frost(images, severity, draws, _drawn())


def read_photographs(folder: Path, height: int, width: int) -> tuple[Array, ...]:
    """Read the first five photographs of frost by name: (3, h, w) float32 in [0, 1] each.

    They are shrunk to a fifth without smoothing, as the recipe does, and refused where a crop of
    `height` by `width` pixels does not fit.
    """
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES)[:PHOTOGRAPHS]
    if len(files) < PHOTOGRAPHS:
        raise LayerticketError(
            f"{str(folder)!r} holds {len(files)} PNG or JPEG files; the frost of the recipe needs "
            f"{PHOTOGRAPHS} photographs. Give their folder, or none for a drawn texture."
        )
    panes = []
    for file in files:
        colours = replace(form_of(file), channels=3, bits=8)
        photograph = torch.from_numpy(read_image(file, colours))[None].float() / 255
        small = F.interpolate(photograph, scale_factor=SHRINK, mode="bilinear")[0].numpy()
        if small.shape[1] < height or small.shape[2] < width:
            raise LayerticketError(
                f"the photograph {file.name!r} is too small: a fifth of it must hold "
                f"{height}x{width} pixels. Give the original photographs."
            )
        panes.append(small)
    return tuple(panes)


@functools.cache
def _drawn() -> tuple[Array, ...]:
    """Draw five textures (3, SIDE, SIDE): needles in many directions on a cloudy ground."""
    draws = np.random.default_rng(20190504)
    tint = np.array([0.86, 0.94, 1.0], np.float32).reshape(3, 1, 1)
    panes = []
    for _ in range(PHOTOGRAPHS):
        ground = draws.standard_normal((SIDE, SIDE))
        cloud = _scaled(ndimage.gaussian_filter(ground, 12, mode="wrap"))
        needles = np.zeros((SIDE, SIDE))
        for degrees in draws.uniform(0, 180, 8):
            fine = ndimage.gaussian_filter(
                draws.standard_normal((2 * SIDE, 2 * SIDE)), (0.6, 7), mode="wrap"
            )
            turned = ndimage.rotate(fine, degrees, reshape=False, order=1, mode="wrap")
            middle = turned[SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE]
            needles = np.maximum(needles, _scaled(middle) ** 2)
        panes.append((tint * _scaled(0.5 * cloud + needles)).astype(np.float32))
    return tuple(panes)


def _scaled(values: Array) -> Array:
    """Scale values to [0, 1]."""
    found: Array = (values - values.min()) / (values.max() - values.min())
    return found
