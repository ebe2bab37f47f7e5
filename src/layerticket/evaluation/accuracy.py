"""Accuracy of a network, and the images that it classifies correctly."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from layerticket.batch import logits_of
from layerticket.data.batches import batches
from layerticket.data.dataset import Array, Dataset, ImageSource
from layerticket.errors import LayerticketError
from layerticket.modules import preserved_modes
from layerticket.training.device import resolve_device, resolve_precision


@dataclass(frozen=True, slots=True)
class Judged:
    """Accuracy of a network, with its answer on each image."""

    accuracy: float
    """Share of the images, in [0, 1]."""
    correct: str
    """One bit per image, as hexadecimal digits; see `packed`."""


def packed(right: Tensor) -> str:
    """Return one bit per image as hexadecimal digits; the first image is the highest bit.

    The last byte is padded with zeros.

    Example:
        >>> packed(torch.tensor([True, False, False, True, True]))
        '98'
    """
    return np.packbits(right.cpu().numpy()).tobytes().hex()


def unpacked(correct: str, images: int) -> Array:
    """Return 0 or 1 for each image, from the text of `packed`: (N,) uint8."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(correct), np.uint8), count=images)


def judged(
    model: nn.Module,
    dataset: Dataset,
    split: ImageSource,
    *,
    batch_size: int = 500,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: str = "auto",
) -> Judged:
    """Compute the accuracy of a network: the share of images whose largest logit is their label.

    Args:
        model: Network from images (N, C, H, W) to logits (N, K); its modes and its device are
            restored at the end.
        dataset: Gives the normalization of images.
        split: Images and labels; used in order, not augmented.
        batch_size: Images per batch; changes memory and speed only.
        precision: As in training: "auto" is bf16 if the hardware supports it, else fp32.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        The accuracy, and which images were classified correctly.

    Raises:
        LayerticketError: If the split is empty, the batch size is below 1, the device is missing,
            or an output of the network is not finite.
    """
    if not len(split):
        raise LayerticketError("the split to evaluate is empty. Choose one with images.")
    if batch_size < 1:
        raise LayerticketError(f"batch_size is {batch_size}, but it must be 1 or more.")
    where = resolve_device(device)
    half = resolve_precision(precision, where) == "bf16"
    right: list[Tensor] = []  # read once, at the end: reading waits for a GPU
    finite = torch.ones((), dtype=torch.bool, device=where)
    with (
        evaluating(model, where),  # outermost: moved weights must stay trainable
        torch.inference_mode(),
        torch.autocast(where.type, torch.bfloat16, enabled=half),
    ):
        for images, labels in batches(
            dataset, split.to(where), batch_size, seed=0, epoch=0, train=False
        ):
            logits = logits_of(model(images))  # (N, K)
            right.append(logits.argmax(dim=1) == labels)
            finite &= logits.isfinite().all()
    if not finite:
        raise LayerticketError(
            "the network gives outputs that are not finite, so its accuracy is meaningless. "
            "Check its weights; train it again with a lower learning_rate."
        )
    found = torch.cat(right)
    return Judged(accuracy=int(found.sum()) / len(split), correct=packed(found))


@contextmanager
def evaluating(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Put a model in evaluation mode, on a device; restore modes and device at the end."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    devices = list(dict.fromkeys(tensor.device for tensor in tensors))
    moved = device is not None and devices not in ([], [device])
    with preserved_modes(model):
        try:
            if moved:
                model.to(device)
            model.eval()
            yield
        finally:
            if moved:
                model.to(devices[0])
