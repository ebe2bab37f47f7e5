"""Decodes image files through Pillow, which is optional. Enters: a path. Leaves: uint8 arrays."""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from layerticket.errors import LayerticketError

__all__ = ["pillow", "read_image"]


def pillow() -> Any:  # noqa: ANN401 - an optional module
    """Import Pillow's ``Image`` module.

    Raises:
        LayerticketError: If Pillow is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ModuleNotFoundError as err:
        raise LayerticketError(
            'reading and storing images needs Pillow: pip install "layerticket[cifar]"'
        ) from err


def read_image(
    source: Path | io.BytesIO,
    mode: str = "RGB",
    size: tuple[int, int] | None = None,
    *,
    what: str = "",
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read one PNG or JPEG image.

    Args:
        source: A file, or its bytes.
        mode: "RGB", or "L" for one channel.
        size: Height and width to resize to (bilinear, smoothed); None leaves them.
        what: What complaints call it; the file's path by default.

    Returns:
        (H, W, 3) for "RGB", (H, W) for "L".

    Raises:
        LayerticketError: If the file is damaged or no image.
    """
    module = pillow()
    try:
        with module.open(source, formats=("JPEG", "PNG")) as image:
            found = image.convert(mode)
            if size is not None and found.size != (size[1], size[0]):
                found = found.resize((size[1], size[0]), module.Resampling.BILINEAR)
            return np.array(found)
    except (OSError, ValueError, SyntaxError, module.DecompressionBombError) as err:
        raise LayerticketError(
            f"{what or repr(str(source))} cannot be decoded ({err}); it must be a whole PNG or "
            "JPEG. Get the file again, or take it away."
        ) from err
