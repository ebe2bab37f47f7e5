"""Spatter: drops of water, or mud, on the lens; one of the four extra corruptions.

Constants as in ``noise``. The recipe shades the water with OpenCV; its steps (Canny edges, distance
to them, equalized histogram, relief) are written here for all images at once, after the published
definitions. The distance is exact, where OpenCV's is an approximation with 5x5 steps. As in the
recipe, water thicker than 1 begins at 0 again when it is made 8 bits (severity 3).
"""

import numpy as np
from scipy import ndimage

from layerticket.data.corruptions.pixels import Array, blurred

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
SPATTER = (  # mean, deviation, blur, threshold, strength (mud: blur), whether mud
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1.0, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
)
WATER = np.array([175, 238, 238], np.float32).reshape(3, 1, 1) / np.float32(255)
MUD = np.array([63, 42, 20], np.float32).reshape(3, 1, 1) / np.float32(255)
WEAK, STRONG = 50, 150  # Canny's thresholds on |dx| + |dy|
FAR = 20.0  # pixels; distances are cut there
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)[None]
TAN_22 = 0.4142135623730951
APART = np.zeros((3, 3, 3), bool)  # neighbours within an image, none across images
APART[1] = True


def spatter(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Lay drops of water (severities 1 to 3) or mud (4 and 5) over the images."""
    mean, deviation, blur, threshold, strength, mud = SPATTER[severity - 1]
    count, _, height, width = images.shape
    normal = draws.standard_normal((count, height, width), dtype=np.float32)
    liquid = blurred(np.float32(mean) + np.float32(deviation) * normal, blur)
    liquid[liquid < threshold] = 0
    if mud:
        cover = blurred((liquid > threshold).astype(np.float32), strength)
        cover[cover < 0.8] = 0
        cover = cover[:, None]
        muddy: Array = images * (1 - cover) + MUD * cover
        return muddy
    drops = (liquid * 255).astype(np.int64).astype(np.uint8)  # above 255 it goes on from 0
    shaded = drops * _relief(drops)
    peak = shaded.max(axis=(1, 2), keepdims=True)
    light = np.float32(strength) * shaded / np.where(peak > 0, peak, 1)
    wet: Array = images + light[:, None] * WATER
    return wet


def _relief(drops: Array) -> Array:
    """Shade drops (N, H, W) uint8 by how far each pixel lies from an edge: float32, 0 to 255."""
    edges = _canny(drops.astype(np.float32))
    distance = ndimage.distance_transform_edt(~edges, sampling=(1e6, 1, 1))
    near = _mean3(np.minimum(distance, FAR).astype(np.float32)).astype(np.uint8)
    lit = ndimage.correlate(_equalized(near).astype(np.float32), RELIEF, mode="mirror")
    return np.rint(_mean3(np.clip(lit, 0, 255)))


def _mean3(values: Array) -> Array:
    """Mean over 3x3 pixels, mirrored in the border pixel."""
    found: Array = ndimage.uniform_filter(values, (0, 3, 3), mode="mirror")
    return found


def _canny(gray: Array) -> Array:
    """Edges (N, H, W) of images with values 0 to 255: ridges of a strong gradient."""
    across, down = _sobel(gray, along=2), _sobel(gray, along=1)
    size = np.abs(across) + np.abs(down)
    framed = np.pad(size, ((0, 0), (1, 1), (1, 1)))

    def beside(dy: int, dx: int) -> Array:
        return framed[:, 1 + dy : 1 + dy + gray.shape[1], 1 + dx : 1 + dx + gray.shape[2]]

    flat = np.abs(down) < TAN_22 * np.abs(across)
    steep = np.abs(down) > np.abs(across) / TAN_22
    rising = across * down < 0
    ridge = np.where(
        flat,
        (size > beside(0, -1)) & (size >= beside(0, 1)),
        np.where(
            steep,
            (size > beside(-1, 0)) & (size >= beside(1, 0)),
            np.where(
                rising,
                (size > beside(-1, 1)) & (size > beside(1, -1)),
                (size > beside(-1, -1)) & (size > beside(1, 1)),
            ),
        ),
    )
    candidates = ridge & (size > WEAK)
    groups, number = ndimage.label(candidates, structure=APART)
    strong = np.zeros(number + 1, bool)
    strong[groups[candidates & (size > STRONG)]] = True
    strong[0] = False
    found: Array = strong[groups]
    return found


def _sobel(gray: Array, along: int) -> Array:
    """Difference along one axis (1 or 2), smoothed 1-2-1 along the other; borders repeated."""
    found = ndimage.correlate1d(gray, [-1, 0, 1], axis=along, mode="nearest")
    smooth: Array = ndimage.correlate1d(found, [1, 2, 1], axis=3 - along, mode="nearest")
    return smooth


def _equalized(values: Array) -> Array:
    """Spread the histogram of each image (N, H, W) uint8 over 0 to 255; a flat image stays."""
    count, total = len(values), values[0].size
    places = values.reshape(count, -1) + 256 * np.arange(count)[:, None]
    counts = np.bincount(places.ravel(), minlength=256 * count).reshape(count, 256)
    lowest = values.reshape(count, -1).min(axis=1)
    first = np.take_along_axis(counts, lowest[:, None].astype(np.int64), axis=1)  # (N, 1)
    scale = 255 / np.maximum(total - first, 1)
    table = np.clip(np.rint((counts.cumsum(axis=1) - first) * scale), 0, 255)
    table = np.where(first == total, np.arange(256), table).astype(np.uint8)
    return np.take_along_axis(table, values.reshape(count, -1).astype(np.int64), axis=1).reshape(
        values.shape
    )
