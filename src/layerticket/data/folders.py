"""A user's own labelled images: a folder for each class, or a Hugging Face data set.

Enters: a path or a name, and what the network was trained on. Leaves: a split that fits it.
"""

import importlib
import io
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerticket.data.dataset import Dataset, Split
from layerticket.errors import LayerticketError


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


SUFFIXES = (".png", ".jpg", ".jpeg")
HUB = ("huggingface.co", 443)
PATIENCE = 3.0  # seconds to find out that there is no network


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
    numbers = _labels_of(names, like.classes, folder)
    channels, height, width = like.test.images.shape[1:]
    pixels, labels = [], []
    for name, label in zip(names, numbers, strict=True):
        for file in sorted(f for f in (folder / name).iterdir() if f.suffix.lower() in SUFFIXES):
            mode = "L" if channels == 1 else "RGB"
            image = read_image(file, mode, (height, width) if resize else None)
            _check_size(str(file), image.shape[:2], (height, width))
            pixels.append(image)
            labels.append(label)
    return _split(pixels, labels, str(folder))


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
    datasets = _datasets()
    if not Path(source).is_dir():
        _reachable(source)
    try:
        table = datasets.load_dataset(source, split=part or "test")
    except Exception as err:  # the library raises its own and many others
        raise LayerticketError(
            f"the data set {source!r} cannot be read ({' '.join(str(err).split())[:200]}). "
            "Check name and split (hf:NAME@SPLIT)."
        ) from err
    image, label = _columns(source, table.features, datasets)
    table = table.cast_column(image, datasets.Image(decode=False))
    channels, height, width = like.test.images.shape[1:]
    mode, size = ("L" if channels == 1 else "RGB"), (height, width)
    pixels = []
    for row, cell in enumerate(table[image]):
        where = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"])
        what = f"image {row} of {source!r}"
        found = read_image(where, mode, size if resize else None, what=what)
        _check_size(what, found.shape[:2], size)
        pixels.append(found)
    labels = [int(value) for value in table[label]]
    if labels and not 0 <= min(labels) <= max(labels) < like.classes:
        raise LayerticketError(
            f"labels of {source!r} go from {min(labels)} to {max(labels)}; the network knows 0 to "
            f"{like.classes - 1}. Give a data set of the same classes."
        )
    return _split(pixels, labels, source)


def _labels_of(names: list[str], classes: int, folder: Path) -> list[int]:
    """Number the class folders."""
    if names and all(name.isdecimal() and int(name) < classes for name in names):
        return [int(name) for name in names]
    if len(names) != classes:
        raise LayerticketError(
            f"{str(folder)!r} holds {len(names)} folders, but the network knows {classes} classes. "
            f"Give one folder for each class, or folders named 0 to {classes - 1}."
        )
    return list(range(classes))


def _check_size(what: str, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if tuple(found) != wanted:
        raise LayerticketError(
            f"{what} has {found[0]}x{found[1]} pixels, the network was trained on "
            f"{wanted[0]}x{wanted[1]}. Allow resizing (--resize), or give other images."
        )


def _split(pixels: list[np.ndarray[Any, Any]], labels: list[int], where: str) -> Split:
    """Put images (H, W) or (H, W, 3) and labels together."""
    if not pixels:
        raise LayerticketError(f"{where!r} holds no PNG or JPEG images. Give another.")
    stack = torch.from_numpy(np.stack(pixels))
    images = stack[:, None] if stack.ndim == 3 else stack.permute(0, 3, 1, 2).contiguous()
    return Split(images=images, labels=torch.tensor(labels, dtype=torch.int64))


def _datasets() -> Any:  # noqa: ANN401 - an optional module
    """Import the library, or say how to install it."""
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as err:
        if err.name != "datasets":
            raise
        raise LayerticketError(
            'Hugging Face data sets need datasets: pip install "layerticket[datasets]"'
        ) from err


def _reachable(source: str) -> None:
    """Refuse at once where the library would try again for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("1", "true", "yes", "on"):
        try:
            socket.create_connection(HUB, timeout=PATIENCE).close()
            return
        except OSError:
            pass
    raise LayerticketError(
        f"{source!r} is no folder, and the Hugging Face Hub cannot be reached. Check the path, or "
        "go online."
    )


def _columns(source: str, features: Any, datasets: Any) -> tuple[str, str]:  # noqa: ANN401
    """Find the one column of images and the one of labels."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise LayerticketError(
            f"{source!r} has {len(images)} columns of images and {len(labels)} of class labels; "
            "it needs one of each."
        )
    return images[0], labels[0]
