"""Reads and resizes image files.

Letters: C channels, H and W pixels.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerticket.data.dataset import Array
from layerticket.errors import LayerticketError, need
from layerticket.files import check_regular

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
Encoded = Path | bytes
"""An encoded image: a file, or its bytes."""


@dataclass(frozen=True, slots=True)
class Form:
    """Channels, bits and size of an image."""

    channels: int
    """1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA)."""
    bits: int
    """8 or 16."""
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def bytes(self) -> int:
        """Bytes of the decoded image."""
        return self.channels * self.height * self.width * self.bits // 8


def pillow() -> Any:  # noqa: ANN401 - an optional module
    """Import Pillow's ``Image`` module.

    Raises:
        LayerticketError: If Pillow is not installed.
    """
    return need("PIL.Image", extra="cifar", why="reading and storing images needs Pillow")


def form_of(source: Encoded, what: str = "") -> Form:
    """Read the form of an image from its header; pixels are not decoded.

    Raises:
        LayerticketError: If it is not an image with 1 to 4 channels of 8 or 16 bits.
    """
    with _opened(source, what) as image:
        _, channels, bits = _kind(image)
        return Form(channels, bits, image.height, image.width)


def read_image(source: Encoded, form: Form, what: str = "") -> Array:
    """Read an image and convert it to a form.

    Pillow converts channels (alpha is dropped, grey is repeated); `resized` changes the size. The
    EXIF orientation is not applied.

    Args:
        source: A file, or its bytes.
        form: Channels, bits and size of the result.
        what: Name in messages; by default the path of the file.

    Returns:
        (C, H, W), uint8 or uint16.

    Raises:
        LayerticketError: If it is damaged, not an image, larger than Pillow allows, or cannot be
            converted to these bits or channels.
    """
    with _opened(source, what) as image:
        mode, channels, bits = _kind(image)
        if bits != form.bits or (bits == 16 and channels != form.channels):
            raise ValueError(
                f"it has {channels} channels of {bits} bits, not {form.channels} of {form.bits}"
            )
        if bits == 16 and channels > 1:
            pixels = _sixteen_bit_colours(image, source)
        else:
            wanted = mode if channels == form.channels else MODES[form.channels]
            picture = image if image.mode == wanted else image.convert(wanted)
            if wanted in ("L", "RGB") and picture.size != (form.width, form.height):
                # Faster than `resized`, with the same result.
                picture = picture.resize((form.width, form.height), pillow().Resampling.BILINEAR)
            found = np.asarray(picture)
            if found.dtype == np.int32 and not 0 <= found.min() <= found.max() <= 65_535:
                raise ValueError("its values do not fit into 16 bits")
            pixels = found.astype(np.uint16 if bits == 16 else np.uint8, copy=False)
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return resized(pixels, (form.height, form.width))


def resized(pixels: Array, size: tuple[int, int]) -> Array:
    """Resize an image with Pillow's bilinear filter, which averages pixels when it shrinks.

    The whole image is stretched to the new size; nothing is cropped.

    Args:
        pixels: (C, H, W), uint8 or uint16.
        size: New height and width.

    Returns:
        (C, new height, new width) of the same type, rounded.
    """
    if pixels.shape[1:] == size:
        return np.ascontiguousarray(pixels)
    module, (height, width) = pillow(), size
    planes = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    found = [
        module.fromarray(plane).resize((width, height), module.Resampling.BILINEAR)
        for plane in map(np.ascontiguousarray, planes)
    ]
    return np.stack([np.rint(np.asarray(plane)) for plane in found]).astype(pixels.dtype)


@contextmanager
def _opened(source: Encoded, what: str) -> Iterator[Any]:
    """Open an image; errors inside become one line that names it."""
    module, name = pillow(), what or repr(str(source))
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        if isinstance(stream, Path):
            check_regular(stream)
        with warnings.catch_warnings():
            warnings.simplefilter("error", module.DecompressionBombWarning)
            image = module.open(stream, formats=FORMATS)
        with image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"it holds {image.n_frames} images, not one")
            yield image
    except LayerticketError:
        raise
    except (module.DecompressionBombError, module.DecompressionBombWarning) as err:
        raise LayerticketError(
            f"{name} has more than {module.MAX_IMAGE_PIXELS:,} pixels, which may be a "
            "decompression bomb; it was not read. Make it smaller, or remove it."
        ) from err
    except module.UnidentifiedImageError as err:  # its text contains a memory address
        raise LayerticketError(
            f"{name} is empty, or not an image of a known format ({', '.join(FORMATS)}). Replace "
            "the file, or remove it."
        ) from err
    except Exception as err:  # a damaged image can fail in any way
        raise LayerticketError(
            f"{name} cannot be read ({' '.join(str(err).split())[:200]}); it must be a complete "
            f"image ({', '.join(FORMATS)}) with 1 to 4 channels. Replace the file, or remove it."
        ) from err


def _kind(image: Any) -> tuple[str, int, int]:  # noqa: ANN401 - Pillow's image
    """Return the mode to decode an opened image in, its channels and bits."""
    mode, raw = image.mode, str(image.tile[0][3]) if image.tile else ""
    if mode in ("RGB", "RGBA") and ";16" in raw:
        if image.format != "PNG":
            raise ValueError("16-bit colours are supported in PNG only")
        return mode, 2 if raw.startswith("LA") else len(mode), 16
    if mode.startswith("I"):
        return mode, 1, 16
    names = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB"}
    mode = names.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ValueError(f"mode {mode} is not supported")
    return mode, len(mode), 8


def _sixteen_bit_colours(image: Any, source: Encoded) -> Array:  # noqa: ANN401 - Pillow's image
    """Decode a 16-bit PNG with several channels, which Pillow reads as 8 bits: (H, W, C)."""
    why = "reading 16-bit colours needs torchvision"
    codecs = need("torchvision.io", extra="torchvision", why=why)
    image.verify()
    content = source if isinstance(source, bytes) else source.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no other library reads 16 bits
        found = codecs.decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return found.permute(1, 2, 0).numpy()  # type: ignore[no-any-return]  # torchvision is untyped
