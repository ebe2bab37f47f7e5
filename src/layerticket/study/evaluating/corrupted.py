"""Corrupted test images as evaluations: made here, or read from the published files."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from layerticket.data import Dataset, Split
from layerticket.data.corruptions import SEVERITIES, all_severities, obstacle
from layerticket.data.corruptions.frost import read_photographs
from layerticket.data.images import pillow
from layerticket.data.shifts import PUBLISHED, Corrupted, open_published
from layerticket.data.splits import fingerprint
from layerticket.errors import LayerticketError
from layerticket.evaluation import corruption_accuracy
from layerticket.study.evaluating.conditions import Conditions, Evaluation, evaluation

__all__ = ["published", "regenerated"]


def regenerated(
    name: str, wanted: Sequence[str], dataset: Dataset, test: Split, conditions: Conditions
) -> Evaluation:
    """Prepare corruptions made from the test images.

    Args:
        name: Of the evaluation.
        wanted: Corruptions; without photographs, frost_like stands for frost.
        dataset: The data of the networks.
        test: Images to corrupt.
        conditions: Seed, and the folder of the photographs.

    Raises:
        LayerticketError: If none of them applies, or something they need is absent.
    """
    shape = tuple(test.images.shape[1:])
    frost = conditions.frost_dir
    if frost is not None:
        read_photographs(frost, shape[1], shape[2])
    names = ["frost_like" if n == "frost" and frost is None else n for n in wanted]
    obstacles = {n: obstacle(n, shape) for n in names}
    possible = [n for n in names if not obstacles[n]]
    if not possible:
        raise LayerticketError(
            f"{name!r} cannot be made from images of shape {shape}: {obstacles[names[0]]}."
        )
    if {"pixelate", "jpeg_compression"} & set(possible):
        pillow()

    def split(corruption: str) -> list[Split]:
        stack = all_severities(
            test.images, corruption, seed=conditions.seed, frost_dir=frost
        )  # (5, N, C, H, W)
        return [Split(images=part, labels=test.labels) for part in stack]

    settings = {
        "set": fingerprint(test),
        "title": _title(dataset, shape),
        "made_from": dataset.title,
        "seed": conditions.seed,
        "corruptions": possible,
        "not_applicable": {n: why for n, why in obstacles.items() if why},
        "frost_photographs": frost is not None,
    }
    return _corruptions(name, settings, {n: partial(split, n) for n in possible}, dataset)


def published(
    name: str, wanted: Sequence[str], folder: Path, dataset: Dataset, images: int
) -> Evaluation:
    """Prepare the corruptions of published files.

    Args:
        name: Of the evaluation.
        wanted: Corruptions.
        folder: Of the files.
        dataset: The data of the networks.
        images: How many of each severity to judge on.

    Raises:
        LayerticketError: If a file is absent, truncated or of other data.
    """
    channels, height, width = dataset.test.images.shape[1:]
    files: Corrupted = open_published(
        folder, wanted, len(dataset.test), (channels, height, width), dataset.classes
    )

    def split(corruption: str) -> list[Split]:
        return [files.severity(corruption, severity, images) for severity in SEVERITIES]

    title = PUBLISHED[dataset.name]
    settings = {"set": files.fingerprint(), "title": title, "images": images}
    return _corruptions(name, settings, {n: partial(split, n) for n in wanted}, dataset)


def _corruptions(
    name: str,
    settings: Mapping[str, Any],
    stacks: Mapping[str, Callable[[], Sequence[Split]]],
    dataset: Dataset,
) -> Evaluation:
    return evaluation(
        name,
        settings,
        lambda model, precision, device, clean: corruption_accuracy(
            model, dataset, stacks, clean=clean, precision=precision, device=device
        ),
    )


def _title(dataset: Dataset, shape: tuple[int, ...]) -> str:
    """Say that these are not the published images, and whether the constants fit their size."""
    how = "regenerated"
    if shape[1:] != (32, 32):
        how += f"; constants of 32x32 images, not scaled to {shape[1]}x{shape[2]}"
    return f"{PUBLISHED.get(dataset.name, 'CIFAR-10-C')} recipe ({how})"
