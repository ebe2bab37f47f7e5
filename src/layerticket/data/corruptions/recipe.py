"""Corrupts images by name and severity; the same seed gives the same images.

Images are processed in groups of `GROUP`, each with its own random numbers. The last group is
filled with repeated images, so an image does not depend on the images after it.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layerticket.data import cache
from layerticket.data.corruptions import blur, digital, noise, weather
from layerticket.data.corruptions.frost import frost, frost_like, read_photographs
from layerticket.data.corruptions.pixels import Array, truncated
from layerticket.data.corruptions.spatter import spatter
from layerticket.errors import LayerticketError, unknown_name

Corruption = Callable[[Array, int, np.random.Generator], Array]

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)
GROUP = 100
REVISION = 3  # increased when the same seed gives other images

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost_like": frost_like,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter,
    "saturate": digital.saturate,
}
SMALLEST = {
    "elastic_transform": 16,
    "pixelate": 8,
    "jpeg_compression": 8,
}  # pixels of the smaller side
COLOURED = ("saturate", "spatter")


def obstacle(name: str, shape: Sequence[int]) -> str:
    """Return why a corruption cannot be applied to images of a shape (C, H, W); empty if it can.

    Example:
        >>> obstacle("saturate", (1, 8, 8))
        'it changes colours, and images of 1 channel have none'
    """
    channels, side = shape[0], min(shape[1:])
    if channels not in (1, 3):
        return f"it is defined for 1 or 3 channels, not {channels}"
    if channels == 1 and name in COLOURED:
        return "it changes colours, and images of 1 channel have none"
    least = SMALLEST.get(name, 4)
    if side < least:
        return f"its lengths are for images of 32x32 pixels; it needs at least {least}x{least}"
    return ""


def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int, frost_dir: Path | None = None
) -> Tensor:
    """Corrupt images by the CIFAR-10-C recipe.

    The constants are those of CIFAR-10-C for 32x32 pixels and do not scale with image size. Values
    are clipped to [0, 255] and rounded down, as in the published files. The published files have no
    seed, so the results have their distribution, but are not equal to them.

    Args:
        images: (N, C, H, W) uint8, on the CPU.
        name: One of `STANDARD` or `EXTRA`, or ``frost_like``; ``frost`` needs `frost_dir`.
        severity: 1 to 5.
        seed: Decides all random numbers; 0 or more.
        frost_dir: Folder with the recipe's photographs of frost.

    Returns:
        (N, C, H, W) uint8; image i depends only on the seed, on i and on the images before it.

    Raises:
        LayerticketError: If a name or severity is unknown, the images have another type or shape,
            or the corruption cannot be applied to them.

    References:
        Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", ICLR 2019. arXiv:1903.12261. Differs from the authors' program: motion blur
        without ImageMagick, an exact distance in spatter; see also `glass_blur`.
    """
    corruption = _corruption(name, images, severity, frost_dir)
    source, found = images.numpy(), np.empty(images.shape, np.uint8)
    for group, start in enumerate(range(0, len(source), GROUP)):
        part = source[start : start + GROUP]
        filled = part[np.arange(GROUP) % len(part)].astype(np.float32) / np.float32(255)
        draws = _generator(seed, name, severity, group)
        found[start : start + GROUP] = truncated(corruption(filled, severity, draws))[: len(part)]
    return torch.from_numpy(found)


def all_severities(
    images: Tensor, name: str, *, seed: int, frost_dir: Path | None = None
) -> Tensor:
    """Corrupt images at all five severities; the result (5, N, C, H, W) uint8 is cached."""
    sha = hashlib.sha256(repr((REVISION, name, seed, tuple(images.shape))).encode())
    sha.update(images.contiguous().numpy().data)
    for file in sorted(frost_dir.glob("*")) if name == "frost" and frost_dir else ():
        sha.update(file.read_bytes() if file.is_file() else b"")
    key = f"{name}-{sha.hexdigest()[:32]}"
    cached = cache.load(key)
    if cached is None:
        parts = [corrupt(images, name, s, seed=seed, frost_dir=frost_dir) for s in SEVERITIES]
        cached = {"images": torch.stack(parts)}
        cache.save(key, cached)
    return cached["images"]


def _corruption(name: str, images: Tensor, severity: int, frost_dir: Path | None) -> Corruption:
    """Return a corruption, after checking that it can be applied."""
    if name not in CORRUPTIONS and name != "frost":
        raise unknown_name("corruption", name, (*CORRUPTIONS, "frost"))
    if severity not in SEVERITIES:
        raise LayerticketError(f"severity is {severity}; allowed are 1 to 5.")
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise LayerticketError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; they must be torch.uint8 "
            "of shape (N, C, H, W), at least one."
        )
    why = obstacle(name, images.shape[1:])
    if why:
        raise LayerticketError(f"corruption {name!r} cannot be applied here: {why}.")
    if name != "frost":
        return CORRUPTIONS[name]
    if frost_dir is None:
        raise LayerticketError(
            "corruption 'frost' needs the photographs of the recipe. Give their folder "
            "(--frost-dir), or use frost_like, which generates its textures."
        )
    photographs = read_photographs(frost_dir, images.shape[2], images.shape[3])
    return lambda x, s, draws: frost(x, s, draws, photographs)


def _generator(*key: str | int) -> np.random.Generator:
    """Return a random number generator that is seeded by `key` only."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
