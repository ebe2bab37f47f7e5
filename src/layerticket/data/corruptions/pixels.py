"""Filters that the corruptions share: Gaussian blur, zoom, displacement, motion blur.

Letters: N images, C channels, H and W pixels. Images are float32 (N, C, H, W), 1 is white; layers
are (N, H, W). A linear filter along one axis is computed as a matrix (out, in), by applying SciPy's
filter to the identity matrix, and then multiplied with all images at once.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

Array = np.ndarray[Any, np.dtype[Any]]
NEGLIGIBLE = 1e-6  # smaller weights cannot change an 8-bit value


def truncated(images: Array) -> Array:
    """Clip values to [0, 1] and convert them to 8 bits, rounding down."""
    return (np.clip(images, 0, 1) * np.float32(255)).astype(np.uint8)


def gray(images: Array) -> Array:
    """Return the luma (N, 1, H, W) of RGB images (ITU-R BT.601); grey images are returned as is."""
    if images.shape[1] == 1:
        return images
    weights = np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)
    found: Array = (images * weights).sum(axis=1, keepdims=True)
    return found


@functools.cache
def _gaussian_matrix(size: int, sigma: float, mode: str, truncate: float) -> Array:
    """Return the matrix (size, size) of a Gaussian filter along an axis."""
    if sigma == 0:
        return np.eye(size, dtype=np.float32)
    identity = np.eye(size)
    found = ndimage.gaussian_filter1d(identity, sigma, axis=0, mode=mode, truncate=truncate)
    return np.asarray(found, np.float32)


def blurred(images: Array, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Apply a Gaussian blur to (..., H, W); `mode` and `truncate` are those of SciPy."""
    rows, columns = (_gaussian_matrix(n, sigma, mode, truncate) for n in images.shape[-2:])
    found: Array = rows @ images @ columns.T
    return found


@functools.cache
def _zoom_matrix(size: int, factor: float) -> Array:
    """Return the matrix (size, size) of a linear zoom into the middle of an axis."""
    cropped = math.ceil(size / factor)
    start = (size - cropped) // 2
    zoom = ndimage.zoom(np.eye(cropped), (factor, 1), order=1)
    trim = (len(zoom) - size) // 2
    matrix = np.zeros((size, size), np.float32)
    matrix[:, start : start + cropped] = zoom[trim : trim + size]
    return matrix


def zoomed(images: Array, factor: float) -> Array:
    """Zoom into the middle of (..., H, W); the factor is at least 1."""
    rows, columns = (_zoom_matrix(n, factor) for n in images.shape[-2:])
    found: Array = rows @ images @ columns.T
    return found


def displaced(images: Array, rows: Array, columns: Array, *, edge_twice: bool) -> Array:
    """Sample images at rows and columns (N, H, W) with linear interpolation and mirrored borders.

    Pixel centres are whole numbers. `edge_twice` is whether the mirror image repeats the border
    pixel (d c b a | a b c d).
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
    """Blur each image along a line in direction `degrees` (N,), like ImageMagick's motion blur.

    The kernel is half a Gaussian with ``2 radius + 1`` taps. Tap i reads the pixel nearest to i
    steps along the line (halves are rounded down); the border pixel is repeated. As in ImageMagick,
    the result is rounded to 16 bits and then divided by 257, rounding down, for 8 bits.
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
