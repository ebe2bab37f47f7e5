"""How many labels a network gets right. Enters: a model and a split. Leaves: one fraction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from layerticket.batch import logits_of
from layerticket.data.batches import batches
from layerticket.data.dataset import Dataset, ImageSource
from layerticket.errors import LayerticketError
from layerticket.training.device import resolve_device, resolve_precision


def accuracy(
    model: nn.Module,
    dataset: Dataset,
    split: ImageSource,
    *,
    batch_size: int = 500,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: str = "auto",
) -> float:
    """Share of the images whose largest logit is that of their label.

    Args:
        model: Network from images (N, C, H, W) to logits (N, K); its modes and its device are
            brought back at the end.
        dataset: Tells how images are normalised.
        split: Images and labels to judge by; taken in order, not augmented.
        batch_size: Images at a time; changes memory and speed, not the meaning.
        precision: As in training: "auto" is bf16 where the hardware has it, else fp32.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        Accuracy, in [0, 1].

    Raises:
        LayerticketError: If the split is empty, the batch size is below 1, the device is absent,
            or the network gives outputs that are not finite.
    """
    if not len(split):
        raise LayerticketError("the split to evaluate is empty. Choose one that holds images.")
    if batch_size < 1:
        raise LayerticketError(f"batch_size is {batch_size}, but it must be 1 or more.")
    where = resolve_device(device)
    half = resolve_precision(precision, where) == "bf16"
    hits = torch.zeros((), dtype=torch.int64, device=where)  # read once: reading waits for a GPU
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
            hits += (logits.argmax(dim=1) == labels).sum()
            finite &= logits.isfinite().all()
    if not finite:
        raise LayerticketError(
            "the network gives outputs that are not finite, so its accuracy means nothing. "
            "Check its weights; train it again with a lower learning_rate."
        )
    return int(hits) / len(split)


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Lend the model in eval mode on the device."""
    modes = {module: module.training for module in model.modules()}
    home = next((tensor.device for tensor in model.state_dict().values()), device)
    try:
        model.to(device).eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        model.to(home)
