"""What a trained network can be judged on, by name; all of it is checked before any of it runs.

Enters: names, the data of a run, conditions. Leaves: `Evaluation` values, each with the settings
its figures depend on and a function that measures them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerticket.data import Dataset
from layerticket.data.corruptions import EXTRA, STANDARD
from layerticket.data.folders import read_folder, read_hub
from layerticket.data.shifts import PUBLISHED, SHIFTS, find_published, read_shift
from layerticket.data.splits import fingerprint
from layerticket.errors import LayerticketError, unknown_name
from layerticket.evaluation import ATTACKS, attacked_accuracy, shift_accuracy
from layerticket.evaluation.autoattack import require_autoattack
from layerticket.study.evaluating.conditions import (
    Conditions,
    Evaluation,
    Measure,
    evaluation,
    first_images,
)
from layerticket.study.evaluating.corrupted import published, regenerated

__all__ = ["EVALUATIONS", "prepare"]

CORRUPTIONS = {"corruptions": STANDARD, "corruptions-extra": EXTRA}
FILES = {f"{data}-c": STANDARD for data in PUBLISHED} | {
    f"{data}-c-extra": EXTRA for data in PUBLISHED
}
FOLDER, HUB = "imagefolder:", "hf:"
EVALUATIONS = (
    "test",
    *CORRUPTIONS,
    *FILES,
    *SHIFTS,
    f"{FOLDER}PATH",
    f"{HUB}NAME",
    *ATTACKS,
)


def prepare(
    names: Sequence[str], dataset: Dataset, conditions: Conditions
) -> tuple[Evaluation, ...]:
    """Look up what networks are to be judged on, and read and check every file it needs.

    Args:
        names: As in `EVALUATIONS`.
        dataset: The data of the networks.
        conditions: See there.

    Returns:
        One evaluation for each name, in order.

    Raises:
        LayerticketError: If a name is unknown, given twice or makes no sense for the data, or a
            file or an optional package is absent or damaged.
    """
    if not names or len(set(names)) != len(names):
        raise LayerticketError(
            f"evaluations are {', '.join(names) or 'empty'}; give at least one, and none twice. "
            f"Available: {', '.join(EVALUATIONS)}."
        )
    for name in names:
        if name not in EVALUATIONS and not name.startswith((FOLDER, HUB)):
            raise unknown_name("evaluation", name, EVALUATIONS)
    return tuple(_prepared(name, dataset, conditions) for name in names)


def _prepared(name: str, dataset: Dataset, conditions: Conditions) -> Evaluation:
    """Look one evaluation up."""
    test = first_images(dataset.test, conditions.images)
    if name == "test":
        return evaluation(
            name, {"set": fingerprint(test), "title": dataset.title}, _test(len(test))
        )
    if name in ATTACKS:
        return _attack(name, dataset, conditions)
    if name in CORRUPTIONS:
        return regenerated(name, CORRUPTIONS[name], dataset, test, conditions)
    if name in FILES:
        data = name.partition("-")[0]
        _belongs(name, data, dataset)
        folder = find_published(data, conditions.folders)
        if folder is None:
            return regenerated(name, FILES[name], dataset, test, conditions)
        return published(name, FILES[name], folder, dataset, len(test))
    if name in SHIFTS:
        _belongs(name, "cifar10", dataset)
        other, title = read_shift(name, conditions.folders, dataset.classes), SHIFTS[name].title
    elif name.startswith(FOLDER):
        title = name.removeprefix(FOLDER)
        other = read_folder(Path(title).expanduser(), dataset, resize=conditions.resize)
    else:
        title = name.removeprefix(HUB)
        other = read_hub(title, dataset, resize=conditions.resize)
    other = first_images(other, conditions.images)
    return evaluation(
        name,
        {"set": fingerprint(other), "title": title},
        lambda model, precision, device, clean: shift_accuracy(
            model, dataset, other, clean=clean, precision=precision, device=device
        ),
    )


def _test(images: int) -> Measure:
    """The clean accuracy itself, which every evaluation is given."""
    return lambda _model, precision, _device, clean: {
        "accuracy": clean,
        "images": images,
        "precision": precision,
    }


def _belongs(name: str, data: str, dataset: Dataset) -> None:
    """Refuse images whose classes are not those of the data."""
    if dataset.name != data:
        raise LayerticketError(
            f"{name!r} is made for networks trained on {data!r}; this one was trained on "
            f"{dataset.name!r}. Use corruptions, an attack, imagefolder:PATH or hf:NAME."
        )


def _attack(name: str, dataset: Dataset, conditions: Conditions) -> Evaluation:
    """Prepare an attack on the first test images."""
    attack = conditions.attack
    kind = next(known for known in ATTACKS if known == name)
    few = min(attack.attack_images, conditions.images or attack.attack_images)
    split = first_images(dataset.test, few)
    relevant: dict[str, Any] = {"epsilons_255": list(attack.epsilons), "seed": conditions.seed}
    if kind == "pgd":
        relevant |= {"steps": attack.steps, "restarts": attack.restarts}
    if kind == "autoattack":
        require_autoattack(dataset.classes)
        relevant["preset"] = attack.autoattack
    return evaluation(
        name,
        {"set": fingerprint(split), "title": f"first {len(split)} test images", **relevant},
        lambda model, _precision, device, _clean: attacked_accuracy(
            model, dataset, split, kind, attack, seed=conditions.seed, device=device
        ),
    )
