"""The spatter corruption: drops of water, or mud, on the lens.

Constants are from the source in ``noise``. The recipe shades the water with OpenCV. Its steps
(Canny edges, distance transform, histogram equalization, relief) are written here for all images at
once, from their published definitions. Distances are exact; OpenCV approximates them. As in the
recipe, water thicker than 1 overflows when it is converted to 8 bits (severity 3).
"""

import numpy as np
from scipy import ndimage

from layerticket.data.corruptions.pixels import Array, blurred

# source: https://arxiv.org/abs/1903.12261 and the authors' recipe for CIFAR-10 (2018)
SPATTER = (  # mean, deviation, blur, threshold, strength (mud: second blur), is mud
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1.0, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
)
WATER = np.array([175, 238, 238], np.float32).reshape(3, 1, 1) / np.float32(255)
MUD = np.array([63, 42, 20], np.float32).reshape(3, 1, 1) / np.float32(255)
WEAK, STRONG = 50, 150  # Canny's thresholds on |dx| + |dy|
FAR = 20.0  # pixels; larger distances are clipped
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)[None]
TAN_22 = 0.4142135623730951
APART = np.zeros((3, 3, 3), bool)  # neighbours of a pixel, in its own image only
APART[1] = True


def spatter(images: Array, severity: int, draws: np.random.Generator) -> Array:
    """Add drops of water (severities 1 to 3) or mud (4 and 5) to the images."""
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
    drops = (liquid * 255).astype(np.int64).astype(np.uint8)  # overflows above 255
    shaded = drops * _relief(drops)
    peak = shaded.max(axis=(1, 2), keepdims=True)
    light = np.float32(strength) * shaded / np.where(peak > 0, peak, 1)
    wet: Array = images + light[:, None] * WATER
    return wet


def _relief(drops: Array) -> Array:
    """Shade drops (N, H, W) uint8 by the distance of each pixel to an edge: float32, 0 to 255."""
    edges = _canny(drops.astype(np.float32))
    distance = ndimage.distance_transform_edt(~edges, sampling=(1e6, 1, 1))
    near = _mean3(np.minimum(distance, FAR).astype(np.float32)).astype(np.uint8)
    lit = ndimage.correlate(_equalized(near).astype(np.float32), RELIEF, mode="mirror")
    return np.rint(_mean3(np.clip(lit, 0, 255)))


def _mean3(values: Array) -> Array:
    """Average over 3x3 pixels, with borders mirrored at the outermost pixel."""
    found: Array = ndimage.uniform_filter(values, (0, 3, 3), mode="mirror")
    return found


def _canny(gray: Array) -> Array:
    """Return the Canny edges (N, H, W) of images with values 0 to 255."""
    across, down = _sobel(gray, along=2), _sobel(gray, along=1)
    size = np.abs(across) + np.abs(down)
    framed = np.pad(size, ((0, 0), (1, 1), (1, 1)))

    def neighbour(dy: int, dx: int) -> Array:
        return framed[:, 1 + dy : 1 + dy + gray.shape[1], 1 + dx : 1 + dx + gray.shape[2]]

    flat = np.abs(down) < TAN_22 * np.abs(across)
    steep = np.abs(down) > np.abs(across) / TAN_22
    rising = across * down < 0
    ridge = np.where(
        flat,
        (size > neighbour(0, -1)) & (size >= neighbour(0, 1)),
        np.where(
            steep,
            (size > neighbour(-1, 0)) & (size >= neighbour(1, 0)),
            np.where(
                rising,
                (size > neighbour(-1, 1)) & (size > neighbour(1, -1)),
                (size > neighbour(-1, -1)) & (size > neighbour(1, 1)),
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
    """Apply the Sobel filter along axis 1 or 2, with repeated borders."""
    found = ndimage.correlate1d(gray, [-1, 0, 1], axis=along, mode="nearest")
    smooth: Array = ndimage.correlate1d(found, [1, 2, 1], axis=3 - along, mode="nearest")
    return smooth


def _equalized(values: Array) -> Array:
    """Equalize the histogram of each image (N, H, W) uint8; a constant image is unchanged."""
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
