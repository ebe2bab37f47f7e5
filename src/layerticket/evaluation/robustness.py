"""Accuracy on corrupted and shifted images, beside the clean one. Leaves: JSON values."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from torch import nn

from layerticket.data.dataset import Dataset, ImageSource
from layerticket.evaluation.accuracy import accuracy

Precision = Literal["auto", "bf16", "fp32"]


def relative(shifted: float, clean: float) -> float | None:
    """Share of the clean accuracy that is left; None where nothing is right on clean images."""
    return shifted / clean if clean > 0 else None


def shift_accuracy(
    model: nn.Module,
    dataset: Dataset,
    split: ImageSource,
    *,
    clean: float,
    precision: Precision,
    device: str,
) -> dict[str, Any]:
    """Judge a network on images of another source.

    Args:
        model: Network.
        dataset: Gives the normalization it was trained with.
        split: The other images.
        clean: Its accuracy on the test images, in [0, 1].
        precision: As in `accuracy`.
        device: As in `accuracy`.

    Returns:
        ``accuracy``, ``images``, ``precision``, ``clean_accuracy`` and ``relative_accuracy``.
    """
    found = accuracy(model, dataset, split, precision=precision, device=device)
    return {
        "accuracy": found,
        "images": len(split),
        "precision": precision,
        "clean_accuracy": clean,
        "relative_accuracy": relative(found, clean),
    }


def corruption_accuracy(
    model: nn.Module,
    dataset: Dataset,
    stacks: Mapping[str, Callable[[], Sequence[ImageSource]]],
    *,
    clean: float,
    precision: Precision,
    device: str,
) -> dict[str, Any]:
    """Judge a network on every corruption at every severity.

    Args:
        model: Network.
        dataset: Gives the normalization it was trained with.
        stacks: Corruption -> makes or reads its images, one split for each severity.
        clean: Its accuracy on the same images uncorrupted, in [0, 1].
        precision: As in `accuracy`.
        device: As in `accuracy`.

    Returns:
        ``accuracy``, the mean over corruptions and severities; ``severities``, the mean over the
        corruptions at each; ``corruptions`` with the mean and each severity of all of them; and
        the keys of `shift_accuracy`. ``images`` counts one severity of one corruption.
    """
    found: dict[str, dict[str, Any]] = {}
    images = 0
    for name, splits in stacks.items():
        parts = splits()
        images = len(parts[0])
        steps = [accuracy(model, dataset, s, precision=precision, device=device) for s in parts]
        mean = fmean(steps)
        found[name] = {
            "accuracy": mean,
            "severities": steps,
            "relative_accuracy": relative(mean, clean),
        }
    overall = fmean(entry["accuracy"] for entry in found.values())
    columns = zip(*(entry["severities"] for entry in found.values()), strict=True)
    return {
        "accuracy": overall,
        "images": images,
        "precision": precision,
        "clean_accuracy": clean,
        "relative_accuracy": relative(overall, clean),
        "severities": [fmean(column) for column in columns],
        "corruptions": found,
    }
