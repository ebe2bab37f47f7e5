"""What the corruptions are made of: filters as matrices, resampling, blur along a line.

Letters: N images, C channels, H and W pixels. Images are float32 (N, C, H, W), 1 is white; layers
are (N, H, W). A filter along one axis is linear, so it is kept as a matrix (out, in): made by
running SciPy's filter over the identity, borders included, and applied to all images at once.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

Array = np.ndarray[Any, np.dtype[Any]]
NEGLIGIBLE = 1e-6  # a weight that cannot move an 8-bit value


def truncated(images: Array) -> Array:
    """Cut values to [0, 1] and make them 8 bits, dropping what lies behind the point."""
    return (np.clip(images, 0, 1) * np.float32(255)).astype(np.uint8)


def gray(images: Array) -> Array:
    """Brightness (N, 1, H, W) of images of three channels (ITU-R BT.601); of one, themselves."""
    if images.shape[1] == 1:
        return images
    weights = np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)
    found: Array = (images * weights).sum(axis=1, keepdims=True)
    return found


def separable(images: Array, rows: Array, columns: Array) -> Array:
    """Apply one matrix along H and one along W of (..., H, W)."""
    found: Array = rows @ images @ columns.T
    return found


@functools.cache
def _gaussian_matrix(size: int, sigma: float, mode: str, truncate: float) -> Array:
    """Gaussian filter along an axis of `size` pixels as a matrix (size, size)."""
    if sigma == 0:
        return np.eye(size, dtype=np.float32)
    identity = np.eye(size)
    found = ndimage.gaussian_filter1d(identity, sigma, axis=0, mode=mode, truncate=truncate)
    return np.asarray(found, np.float32)


def blurred(images: Array, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Gaussian blur over H and W of (..., H, W); `mode` and `truncate` as in SciPy."""
    rows, columns = (_gaussian_matrix(n, sigma, mode, truncate) for n in images.shape[-2:])
    return separable(images, rows, columns)


@functools.cache
def zoom_matrix(size: int, factor: float) -> Array:
    """Linear zoom into the middle of an axis as a matrix (size, size); 1 is the identity."""
    cropped = math.ceil(size / factor)
    start = (size - cropped) // 2
    zoom = ndimage.zoom(np.eye(cropped), (factor, 1), order=1)
    trim = (len(zoom) - size) // 2
    matrix = np.zeros((size, size), np.float32)
    matrix[:, start : start + cropped] = zoom[trim : trim + size]
    return matrix


def zoomed(images: Array, factor: float) -> Array:
    """Zoom into the middle of (..., H, W) by a factor of at least 1."""
    rows, columns = (zoom_matrix(n, factor) for n in images.shape[-2:])
    return separable(images, rows, columns)


def displaced(images: Array, rows: Array, columns: Array, *, edge_twice: bool) -> Array:
    """Read images at rows and columns (N, H, W), interpolated linearly, mirrored at the borders.

    Pixel centres are whole numbers. `edge_twice` says whether the mirror stands behind the last
    pixel (d c b a | a b c d) or in it.
    """
    height, width = images.shape[2:]
    if edge_twice:
        scaled = ((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1)
    else:
        scaled = (2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1)
    grid = torch.from_numpy(np.stack(scaled, axis=-1).astype(np.float32))
    source = torch.from_numpy(np.ascontiguousarray(images))
    found = F.grid_sample(
        source, grid, mode="bilinear", padding_mode="reflection", align_corners=not edge_twice
    )
    return np.asarray(found.numpy())


def motion_blurred(images: Array, radius: int, sigma: float, degrees: Array) -> Array:
    """Blur along a line of its own for each image, as ImageMagick's motion blur does.

    Half a Gaussian of ``2 radius + 1`` taps lies along the line; tap i reads the pixel nearest to
    i steps along it (a half goes down), and the border pixel goes on for ever. `degrees` (N,) are
    the directions. ImageMagick keeps the result in 16 bits, rounded, and stores it in 8, where 257
    steps of 16 bits are one of 8 and what is left over is dropped.
    """
    height, width = images.shape[2:]
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    source = torch.from_numpy(np.ascontiguousarray(images)).flatten(2)  # (N, C, H * W)
    found = torch.zeros_like(source)
    for tap, weight in zip(taps, weights, strict=True):
        if weight < NEGLIGIBLE:
            break
        down = np.ceil(tap * np.sin(angle) - 0.5).astype(np.int64)  # (N,)
        right = np.ceil(tap * np.cos(angle) - 0.5).astype(np.int64)
        rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)  # (N, H)
        columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)  # (N, W)
        places = torch.from_numpy(rows[:, :, None] * width + columns[:, None, :]).flatten(1)
        read = source.gather(2, places.unsqueeze(1).expand_as(source))
        found.add_(read, alpha=float(weight))
    sixteen = np.rint(found.view(images.shape).numpy() * np.float32(65535))
    eight: Array = (sixteen // 257).astype(np.float32) / np.float32(255)
    return eight
