"""One image file: what it holds, how it becomes whole numbers, how it is resized.

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
"""An image as it is stored: a file, or its bytes."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an image is, or is to be made of."""

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
        """Bytes of one image, decoded."""
        return self.channels * self.height * self.width * self.bits // 8


def pillow() -> Any:  # noqa: ANN401 - an optional module
    """Import Pillow's ``Image`` module.

    Raises:
        LayerticketError: If Pillow is not installed.
    """
    return need("PIL.Image", extra="cifar", why="reading and storing images needs Pillow")


def form_of(source: Encoded, what: str = "") -> Form:
    """Read what an image is from its header; its pixels are not decoded.

    Raises:
        LayerticketError: If it is no image of 1 to 4 channels of 8 or 16 bits.
    """
    with _opened(source, what) as image:
        _, channels, bits = _kind(image)
        return Form(channels, bits, image.height, image.width)


def read_image(source: Encoded, form: Form, what: str = "") -> Array:
    """Read one image and give it a form.

    Other channels are converted by Pillow: alpha is dropped, grey is repeated. The orientation that
    a camera notes beside the pixels is not applied. Another size is resized, see `resized`.

    Args:
        source: A file, or its bytes.
        form: Channels, bits and size to give it.
        what: What messages call it; the file's path by default.

    Returns:
        (C, H, W), uint8 or uint16.

    Raises:
        LayerticketError: If it is damaged, no image, larger than Pillow allows, or does not have
            so many bits or channels.
    """
    with _opened(source, what) as image:
        mode, channels, bits = _kind(image)
        if bits != form.bits or (bits == 16 and channels != form.channels):
            raise ValueError(
                f"{channels} channels of {bits} bits, where {form.channels} of {form.bits} are "
                "wanted"
            )
        if bits == 16 and channels > 1:
            pixels = _sixteen_bit_colours(image, source)
        else:
            wanted = mode if channels == form.channels else MODES[form.channels]
            picture = image if image.mode == wanted else image.convert(wanted)
            if wanted in ("L", "RGB") and picture.size != (form.width, form.height):
                # The same numbers as by `resized`, channel by channel, in less time.
                picture = picture.resize((form.width, form.height), pillow().Resampling.BILINEAR)
            found = np.asarray(picture)
            if found.dtype == np.int32 and not 0 <= found.min() <= found.max() <= 65_535:
                raise ValueError("its values do not fit into 16 bits")
            pixels = found.astype(np.uint16 if bits == 16 else np.uint8, copy=False)
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return resized(pixels, (form.height, form.width))


def resized(pixels: Array, size: tuple[int, int]) -> Array:
    """Resize an image by Pillow's bilinear filter, which averages over what it makes smaller.

    The image is stretched to the new size as a whole; nothing is cut off.

    Args:
        pixels: (C, H, W), uint8 or uint16.
        size: New height and width.

    Returns:
        (C, new height, new width) of the same type, rounded.
    """
    if pixels.shape[1:] == size:
        return np.ascontiguousarray(pixels)
    module, (height, width) = pillow(), size
    limit = np.iinfo(pixels.dtype).max
    channels = [
        module.fromarray(channel.astype(np.float32)).resize(
            (width, height), module.Resampling.BILINEAR
        )
        if limit > 255
        else module.fromarray(channel).resize((width, height), module.Resampling.BILINEAR)
        for channel in map(np.ascontiguousarray, pixels)
    ]
    return np.stack([np.rint(np.asarray(one)) for one in channels]).astype(pixels.dtype)


@contextmanager
def _opened(source: Encoded, what: str) -> Iterator[Any]:
    """Open an image; whatever is wrong with it becomes one line that names it."""
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
                raise ValueError(f"it holds {image.n_frames} pictures, not one")
            yield image
    except LayerticketError:
        raise
    except (module.DecompressionBombError, module.DecompressionBombWarning) as err:
        raise LayerticketError(
            f"{name} has more than {module.MAX_IMAGE_PIXELS:,} pixels, which may be an attack; it "
            "was not read. Make it smaller, or take it away."
        ) from err
    except module.UnidentifiedImageError as err:  # its own text names an address in memory
        raise LayerticketError(
            f"{name} is empty, or not an image of a known format ({', '.join(FORMATS)}). Replace "
            "the file, or remove it."
        ) from err
    except Exception as err:  # a damaged image can fail in any way
        raise LayerticketError(
            f"{name} cannot be read ({' '.join(str(err).split())[:200]}); it must be a whole image "
            f"({', '.join(FORMATS)}) of 1 to 4 channels. Get the file again, or take it away."
        ) from err


def _kind(image: Any) -> tuple[str, int, int]:  # noqa: ANN401 - Pillow's image
    """Mode to decode an opened image in, its channels and bits."""
    mode, raw = image.mode, str(image.tile[0][3]) if image.tile else ""
    if mode in ("RGB", "RGBA") and ";16" in raw:
        if image.format != "PNG":
            raise ValueError("16-bit colours are read from PNG only")
        return mode, 2 if raw.startswith("LA") else len(mode), 16
    if mode.startswith("I"):
        return mode, 1, 16
    names = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB"}
    mode = names.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ValueError(f"pixels of mode {mode}")
    return mode, len(mode), 8


def _sixteen_bit_colours(image: Any, source: Encoded) -> Array:  # noqa: ANN401 - Pillow's image
    """Decode a PNG of 16 bits and several channels, which Pillow reads in 8: (H, W, C) uint16."""
    why = "reading 16-bit colours needs torchvision"
    codecs = need("torchvision.io", extra="torchvision", why=why)
    image.verify()
    content = source if isinstance(source, bytes) else source.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no other library reads 16 bits
        found = codecs.decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return found.permute(1, 2, 0).numpy()  # type: ignore[no-any-return]  # torchvision is untyped
