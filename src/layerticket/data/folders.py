"""A user's own labelled images: a folder for each class, or a Hugging Face data set."""

import io
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerticket.data.dataset import Array, Dataset, Split, check_labels
from layerticket.errors import LayerticketError, need
from layerticket.files import check_regular

SUFFIXES = (".png", ".jpg", ".jpeg")
HUB = ("huggingface.co", 443)
PATIENCE = 3.0  # seconds to find out that there is no network


def pillow() -> Any:  # noqa: ANN401 - an optional module
    """Import Pillow's ``Image`` module.

    Raises:
        LayerticketError: If Pillow is not installed.
    """
    return need("PIL.Image", extra="cifar", why="reading and storing images needs Pillow")


def read_image(
    source: Path | io.BytesIO,
    mode: str = "RGB",
    size: tuple[int, int] | None = None,
    *,
    what: str = "",
) -> Array:
    """Read one PNG or JPEG image.

    Args:
        source: A file, or its bytes.
        mode: "RGB", or "L" for one channel.
        size: Height and width to resize to (bilinear, smoothed); None leaves them.
        what: What messages call it; the file's path by default.

    Returns:
        (H, W, 3) for "RGB", (H, W) for "L"; uint8.

    Raises:
        LayerticketError: If the file is damaged or no image.
    """
    module = pillow()
    if isinstance(source, Path):
        check_regular(source)
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


def read_folder(folder: Path, like: Dataset, *, resize: bool) -> Split:
    """Read a folder that holds one folder of PNG or JPEG files for each class.

    Class folders named by whole numbers are those labels; otherwise there must be one for each
    class, and they count in the order of their names, as in torchvision.

    Args:
        folder: The folder.
        like: What the network was trained on: shape and number of classes.
        resize: Whether images of other sizes are resized; otherwise they are refused.

    Raises:
        LayerticketError: If there is nothing to read, the classes do not fit, or an image is
            damaged or of another size.
    """
    if not folder.is_dir():
        raise LayerticketError(f"the image folder {str(folder)!r} does not exist. Give another.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    numbered = [name for name in names if re.fullmatch("[0-9]{1,9}", name)]
    if names and numbered == names and all(int(name) < like.classes for name in names):
        numbers = [int(name) for name in names]
    elif len(names) == like.classes and not numbered:
        numbers = list(range(like.classes))
    else:
        raise LayerticketError(
            f"{str(folder)!r} holds {len(names)} folders, but the network knows {like.classes} "
            f"classes. Give one folder for each class, or folders named 0 to {like.classes - 1}, "
            "not both."
        )
    files = [
        (file, label)
        for name, label in zip(names, numbers, strict=True)
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    images = ((file, str(file)) for file, _ in files)
    return _split(images, [label for _, label in files], like, str(folder), resize=resize)


def read_hub(name: str, like: Dataset, *, resize: bool) -> Split:
    """Read a labelled data set of Hugging Face: a local folder, or a name of the Hub.

    Args:
        name: Path of a folder or ``owner/name``; ``@SPLIT`` behind it, ``@test`` by default.
        like: What the network was trained on: shape and number of classes.
        resize: Whether images of other sizes are resized; otherwise they are refused.

    Raises:
        LayerticketError: If `datasets` is not installed, there is no network, or images and
            labels are not to be found or do not fit.
    """
    source, _, part = name.partition("@")
    datasets = need("datasets", extra="datasets", why="Hugging Face data sets need datasets")
    if not Path(source).is_dir() and not _reachable():
        raise LayerticketError(
            f"{source!r} is no folder, and the Hugging Face Hub cannot be reached. Check the path, "
            "or go online."
        )
    try:
        table = datasets.load_dataset(source, split=part or "test")
    except Exception as err:  # the library raises its own and many others
        raise LayerticketError(
            f"the data set {source!r} cannot be read ({' '.join(str(err).split())[:200]}). "
            "Check name and split (hf:NAME@SPLIT)."
        ) from err
    images, labels = (
        [name for name, kind in table.features.items() if isinstance(kind, wanted)]
        for wanted in (datasets.Image, datasets.ClassLabel)
    )
    if len(images) != 1 or len(labels) != 1:
        raise LayerticketError(
            f"{source!r} has {len(images)} columns of images and {len(labels)} of class labels; "
            "it needs one of each."
        )
    cells = table.cast_column(images[0], datasets.Image(decode=False))[images[0]]
    files = (
        (
            Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"]),
            f"image {row} of {source!r}",
        )
        for row, cell in enumerate(cells)
    )
    return _split(files, [int(value) for value in table[labels[0]]], like, source, resize=resize)


def _split(
    files: Iterable[tuple[Path | io.BytesIO, str]],
    labels: list[int],
    like: Dataset,
    where: str,
    *,
    resize: bool,
) -> Split:
    """Read images that come with what messages call them, and put them together with labels."""
    channels, height, width = like.shape
    numbers = torch.tensor(labels, dtype=torch.int64)
    check_labels(numbers, like.classes, repr(where))
    pixels = []
    for source, what in files:
        mode = "L" if channels == 1 else "RGB"
        image = read_image(source, mode, (height, width) if resize else None, what=what)
        if image.shape[:2] != (height, width):
            raise LayerticketError(
                f"{what} has {image.shape[0]}x{image.shape[1]} pixels, the network was trained on "
                f"{height}x{width}. Allow resizing (--resize), or give other images."
            )
        pixels.append(image.reshape(height, width, -1))
    if not pixels:
        raise LayerticketError(f"{where!r} holds no PNG or JPEG images. Give another.")
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Split(images=images, labels=numbers)


def _reachable() -> bool:
    """Whether the Hub answers; the library itself would try for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        socket.create_connection(HUB, timeout=PATIENCE).close()
    except OSError:
        return False
    return True
