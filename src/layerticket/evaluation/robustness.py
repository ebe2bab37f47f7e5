"""Robustness evaluations by name: distribution shifts, corruptions, attacks.

Names and settings are defined here, and importing this module does not import PyTorch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from layerticket.data.sources import PUBLISHED, SHIFTS
from layerticket.errors import LayerticketError, unknown_name
from layerticket.settings import Count, Few, Number, Size, Whole, settings

if TYPE_CHECKING:
    from torch import nn

    from layerticket.data.dataset import Dataset, ImageSource
    from layerticket.evaluation.accuracy import Judged

Precision = Literal["auto", "bf16", "fp32"]
Kind = Literal["noise", "fgsm", "pgd", "autoattack"]

REVISION = 1  # increase it if the same settings should give other results
ATTACKS: tuple[Kind, ...] = ("noise", "fgsm", "pgd", "autoattack")
REGENERATED = ("corruptions", "corruptions-extra")
FILES = tuple(f"{data}-c{extra}" for extra in ("", "-extra") for data in PUBLISHED)
FOLDER, HUB = "imagefolder:", "hf:"
EVALUATIONS = (
    "test",
    *REGENERATED,
    *FILES,
    *SHIFTS,
    f"{FOLDER}PATH",
    f"{HUB}NAME",
    *ATTACKS,
)


@settings
class Attack:
    """Settings of attacks."""

    epsilons: tuple[Number, ...] = (1.0, 2.0, 8.0)
    """Budgets in the maximum norm, in units of 1/255."""
    steps: Few = 20
    """Steps of PGD."""
    restarts: Few = 1
    """Random starts of PGD."""
    attack_images: Count = 1000
    """Number of test images to attack; AutoAttack takes up to 8,000 passes per batch."""
    autoattack: Literal["standard", "cheap"] = "standard"
    """standard: the whole ensemble; cheap: only its two variants of PGD."""

    def __post_init__(self) -> None:
        if not self.epsilons or not all(0 < epsilon <= 255 for epsilon in self.epsilons):
            raise LayerticketError(
                f"epsilons are {self.epsilons}; give budgets above 0 and up to 255, in 1/255."
            )
        object.__setattr__(self, "epsilons", tuple(sorted({float(e) for e in self.epsilons})))


@settings
class Conditions:
    """Files, number of images, and settings of attacks."""

    shift_dir: tuple[Path, ...] = ()
    """Folders with published files of shifted and corrupted images."""
    frost_dir: Path | None = None
    """Folder with the photographs of frost for the corruption recipe."""
    image_size: Size | None = None
    """Height and width, those of the network, that a user's own images are resized to."""
    images: Count | None = None
    """Number of images of every set, taken from the start; None: all."""
    seed: Whole = 0
    """Seed of corruptions, noise and starts of attacks."""
    attack: Attack = Attack()
    """Settings of attacks."""


Measure = Callable[["nn.Module", Precision, str, "Judged"], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """One evaluation, checked and ready to run."""

    name: str
    settings: Mapping[str, Any]
    """Everything that its results depend on, except the network."""
    measure: Measure
    """(network, precision, device, its answers on clean images) -> results."""


def check_evaluations(names: Sequence[str]) -> None:
    """Raise if a name of an evaluation is unknown or given twice; no file is read."""
    if not names or len(set(names)) != len(names):
        raise LayerticketError(
            f"evaluations are {', '.join(names) or 'empty'}; give at least one, each only once. "
            f"Available: {', '.join(EVALUATIONS)}."
        )
    for name in names:
        if name not in EVALUATIONS and not name.startswith((FOLDER, HUB)):
            raise unknown_name("evaluation", name, EVALUATIONS)


def prepare(
    names: Sequence[str], dataset: "Dataset", conditions: Conditions
) -> tuple[Evaluation, ...]:
    """Return the evaluations of some names, after reading and checking every file they need.

    Args:
        names: Names from `EVALUATIONS`.
        dataset: The data of the networks.
        conditions: Files, number of images, settings of attacks.

    Returns:
        One evaluation for each name, in order.

    Raises:
        LayerticketError: If a name is unknown, given twice or does not apply to the data, or a
            file or an optional package is missing or damaged.
    """
    check_evaluations(names)
    found = []
    for name in names:
        if name in ATTACKS:
            about, measure = _attack(name, dataset, conditions)
        elif name in REGENERATED or name in FILES:
            about, measure = _corruptions(name, dataset, conditions)
        else:
            about, measure = _images(name, dataset, conditions)
        about = {"revision": REVISION, **about}
        found.append(Evaluation(name=name, settings=about, measure=measure))
    return tuple(found)


# The test images, and images of other sources


def _images(
    name: str, dataset: "Dataset", conditions: Conditions
) -> tuple[dict[str, Any], Measure]:
    from layerticket.data.dataset import fingerprint, first_images
    from layerticket.data.folders import read_folder, read_hub
    from layerticket.data.shifts import read_shift

    other: ImageSource
    if name == "test":
        other, title = dataset.test, dataset.title
    elif name in SHIFTS:
        _check_belongs(name, "cifar10", dataset)
        title = SHIFTS[name].title
        other = read_shift(name, conditions.shift_dir, dataset.classes)
    elif name.startswith(FOLDER):
        title = name.removeprefix(FOLDER)
        other = read_folder(Path(title).expanduser(), dataset, image_size=conditions.image_size)
    else:
        title = name.removeprefix(HUB)
        other = read_hub(title, dataset, image_size=conditions.image_size)
    other = first_images(other, conditions.images)
    about: dict[str, Any] = {"set": fingerprint(other), "title": title}
    if name != "test" and conditions.images is not None:
        about["clean_images"] = min(conditions.images, len(dataset.test))

    def measure(
        model: "nn.Module", precision: Precision, device: str, clean: "Judged"
    ) -> dict[str, Any]:
        if name == "test":
            figures = {"accuracy": clean.accuracy, "correct": clean.correct, "images": len(other)}
            return figures | {"precision": precision}
        return shift_accuracy(
            model, dataset, other, clean=clean.accuracy, precision=precision, device=device
        )

    return about, measure


def shift_accuracy(
    model: "nn.Module",
    dataset: "Dataset",
    split: "ImageSource",
    *,
    clean: float,
    precision: Precision,
    device: str,
) -> dict[str, Any]:
    """Evaluate a network on images of another source; `clean` is its test accuracy."""
    from layerticket.evaluation.accuracy import judged

    found = judged(model, dataset, split, precision=precision, device=device)
    return {
        "accuracy": found.accuracy,
        "correct": found.correct,
        "images": len(split),
        "precision": precision,
        "clean_accuracy": clean,
        "relative_accuracy": relative(found.accuracy, clean),
    }


def relative(shifted: float, clean: float) -> float | None:
    """Return shifted / clean accuracy; None if the clean accuracy is 0."""
    return shifted / clean if clean > 0 else None


def _check_belongs(name: str, data: str, dataset: "Dataset") -> None:
    """Raise if images have other classes than the data."""
    if dataset.name != data:
        raise LayerticketError(
            f"{name!r} is for networks trained on {data!r}, but this one was trained on "
            f"{dataset.name!r}. Use corruptions, an attack, imagefolder:PATH or hf:NAME."
        )


# Corruptions


def _corruptions(
    name: str, dataset: "Dataset", conditions: Conditions
) -> tuple[dict[str, Any], Measure]:
    from layerticket.data.corruptions.recipe import EXTRA, STANDARD
    from layerticket.data.shifts import find_published

    wanted, folder = EXTRA if name.endswith("-extra") else STANDARD, None
    if name in FILES:
        data = name.partition("-")[0]
        _check_belongs(name, data, dataset)
        folder = find_published(data, conditions.shift_dir)
    if folder is None:
        about, stacks = _regenerated(name, wanted, dataset, conditions)
    else:
        about, stacks = _published(wanted, folder, dataset, conditions.images)
    return about, lambda model, precision, device, clean: corruption_accuracy(
        model, dataset, stacks, clean=clean.accuracy, precision=precision, device=device
    )


Stacks = Mapping[str, Callable[[], Sequence["ImageSource"]]]


def _regenerated(
    name: str, wanted: Sequence[str], dataset: "Dataset", conditions: Conditions
) -> tuple[dict[str, Any], Stacks]:
    """Make corruptions of the test images; without photographs, frost_like replaces frost."""
    from layerticket.data.corruptions.frost import read_photographs
    from layerticket.data.corruptions.recipe import REVISION as RECIPE_REVISION
    from layerticket.data.corruptions.recipe import all_severities, obstacle
    from layerticket.data.dataset import Split, fingerprint, first_images
    from layerticket.data.images import pillow

    test, shape = first_images(dataset.test, conditions.images), dataset.shape
    frost = conditions.frost_dir
    if frost is not None:
        read_photographs(frost, shape[1], shape[2])
    names = ["frost_like" if n == "frost" and frost is None else n for n in wanted]
    obstacles = {n: obstacle(n, shape) for n in names}
    possible = [n for n in names if not obstacles[n]]
    if not possible:
        raise LayerticketError(
            f"{name!r} cannot be made for images of shape {shape}: {obstacles[names[0]]}."
        )
    if {"pixelate", "jpeg_compression"} & set(possible):
        pillow()
    # These are not the published images; constants may not fit the image size.
    how = "regenerated"
    if shape[1:] != (32, 32):
        how += f"; constants of 32x32 images, not scaled to {shape[1]}x{shape[2]}"

    def made(corruption: str) -> list[Split]:
        images = test.fetch(slice(None))
        found = all_severities(images, corruption, seed=conditions.seed, frost_dir=frost)
        return [Split(images=part, labels=test.labels) for part in found]  # (5, N, C, H, W)

    about = {
        "set": fingerprint(test),
        "title": f"{PUBLISHED.get(dataset.name, 'CIFAR-10-C')} recipe ({how})",
        "made_from": dataset.title,
        "seed": conditions.seed,
        "recipe_revision": RECIPE_REVISION,
        "corruptions": possible,
        "not_applicable": {n: why for n, why in obstacles.items() if why},
        "frost_photographs": frost is not None,
    }
    return about, {n: partial(made, n) for n in possible}


def _published(
    wanted: Sequence[str], folder: Path, dataset: "Dataset", images: int | None
) -> tuple[dict[str, Any], Stacks]:
    """Read published corruptions."""
    from layerticket.data.corruptions.recipe import SEVERITIES
    from layerticket.data.shifts import open_published

    total = len(dataset.test)
    files = open_published(folder, wanted, total, dataset.shape, dataset.classes)
    count = min(images or total, total)

    def read(corruption: str) -> list["ImageSource"]:
        return [files.severity(corruption, severity, count) for severity in SEVERITIES]

    about = {"set": files.fingerprint(), "title": PUBLISHED[dataset.name], "images": count}
    return about, {n: partial(read, n) for n in wanted}


def corruption_accuracy(
    model: "nn.Module",
    dataset: "Dataset",
    stacks: Stacks,
    *,
    clean: float,
    precision: Precision,
    device: str,
) -> dict[str, Any]:
    """Evaluate a network on every corruption at every severity.

    `clean` is its accuracy on the same images without corruption. In the result, ``accuracy`` is
    the mean over corruptions and severities, ``severities`` the mean over corruptions at each
    severity, ``images`` the number of images of one severity of one corruption, and
    ``correct_counts`` has two hexadecimal digits per image: how many ``versions`` are correct.
    """
    from layerticket.evaluation.accuracy import judged, unpacked

    found: dict[str, dict[str, Any]] = {}
    counts: Any = 0
    images = versions = 0
    for name, splits in stacks.items():
        steps = []
        for split in splits():
            step = judged(model, dataset, split, precision=precision, device=device)
            steps.append(step.accuracy)
            images, versions = len(split), versions + 1
            counts = counts + unpacked(step.correct, images)
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
        "correct_counts": counts.tobytes().hex(),
        "versions": versions,
        "images": images,
        "precision": precision,
        "clean_accuracy": clean,
        "relative_accuracy": relative(overall, clean),
        "severities": [fmean(column) for column in columns],
        "corruptions": found,
    }


# Attacks


def _attack(
    name: str, dataset: "Dataset", conditions: Conditions
) -> tuple[dict[str, Any], Measure]:
    """Attack the first test images."""
    from layerticket.data.dataset import fingerprint, first_images
    from layerticket.evaluation.attacks import attacked_accuracy
    from layerticket.evaluation.autoattack import require_autoattack

    attack = conditions.attack
    kind = next(known for known in ATTACKS if known == name)
    count = min(attack.attack_images, conditions.images or attack.attack_images)
    split = first_images(dataset.test, count)
    relevant: dict[str, Any] = {"epsilons_255": list(attack.epsilons), "seed": conditions.seed}
    if kind == "pgd":
        relevant |= {"steps": attack.steps, "restarts": attack.restarts}
    if kind == "autoattack":
        require_autoattack(dataset.classes)
        relevant["preset"] = attack.autoattack
    about = {"set": fingerprint(split), "title": f"first {len(split)} test images", **relevant}
    return about, lambda model, _precision, device, _clean: attacked_accuracy(
        model, dataset, split, kind, attack, seed=conditions.seed, device=device
    )
