"""How close a finished run stayed to the dense one in what it represents."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from layerticket.batch import Inputs, head
from layerticket.blocks.find import find_blocks, name_after_removal
from layerticket.data.batches import batches
from layerticket.data.corruptions.frost import read_photographs
from layerticket.data.corruptions.recipe import (
    EXTRA,
    SEVERITIES,
    STANDARD,
    all_severities,
    obstacle,
)
from layerticket.data.dataset import Dataset, ImageSource, Split, fingerprint, first_images
from layerticket.data.folders import pillow, read_folder, read_hub
from layerticket.data.shifts import Corrupted, find_published, open_published, read_shift
from layerticket.data.sources import PUBLISHED, SHIFTS
from layerticket.errors import LayerticketError, unknown_name
from layerticket.evaluation.accuracy import accuracy
from layerticket.evaluation.attacks import ATTACKS, Attack, attacked_accuracy
from layerticket.evaluation.autoattack import require_autoattack
from layerticket.evaluation.robustness import corruption_accuracy, shift_accuracy
from layerticket.evaluation.similarity import STEM, similarity
from layerticket.files import canonical_json, exclusive, read_json
from layerticket.study.record import RUN, TICKET, WEIGHTS, build_named, load_result, write_record
from layerticket.surgery.masks import permanent
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import load_weights

REVISION = 1  # raise it when the same settings should give other figures
Precision = Literal["auto", "bf16", "fp32"]
Measure = Callable[[nn.Module, Precision, str, float], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """Where files lie, how many images are judged, how networks are attacked."""

    folders: tuple[Path, ...] = ()
    """Where published files of shifted and corrupted images may lie."""
    frost_dir: Path | None = None
    """Folder with the recipe's photographs of frost."""
    resize: bool = False
    """Whether a user's own images of another size are resized."""
    images: int | None = None
    """Only the first so many images of every set; None: all."""
    seed: int = 0
    """Draws corruptions, noise and the starts of attacks; 0 or more."""
    attack: Attack = field(default_factory=Attack)
    """How networks are attacked."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise LayerticketError(f"images is {self.images}; it must be at least 1.")
        if self.seed < 0:
            raise LayerticketError(f"seed is {self.seed}, but it must be 0 or more.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """One thing to judge networks on, checked and ready."""

    name: str
    settings: Mapping[str, Any]
    """All its figures depend on, beside the network."""
    measure: Measure
    """(network, precision, device, clean accuracy) -> figures."""


def evaluation(name: str, settings: Mapping[str, Any], measure: Measure) -> Evaluation:
    """Put an evaluation together; the revision is part of its settings."""
    return Evaluation(name=name, settings={"revision": REVISION, **settings}, measure=measure)


def regenerated(
    name: str, wanted: Sequence[str], dataset: Dataset, test: ImageSource, conditions: Conditions
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
    shape = test.shape
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
            test.fetch(slice(None)), corruption, seed=conditions.seed, frost_dir=frost
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
    channels, height, width = dataset.shape
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
        title = SHIFTS[name].title
        other: ImageSource = read_shift(name, conditions.folders, dataset.classes)
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


EVALUATION = "evaluation.json"


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    on: Sequence[str],
    *,
    conditions: Conditions | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate the trained network of a finished run, and keep the figures in its folder.

    Args:
        folder: The run.
        dataset: The data of the run.
        on: Names from `EVALUATIONS`.
        conditions: Files, number of images, attacks; by default as `Conditions` says.
        device: "auto", "cpu", "cuda" or "cuda:N".
        tell: Called with one line of news before each evaluation, and for each warning.

    Returns:
        What `layerticket evaluate --json` prints.

    Raises:
        LayerticketError: If a name is unknown or makes no sense for the data, a file is damaged,
            the run is not finished, or the data are others; before anything is evaluated.
    """
    conditions = conditions or Conditions()
    load_result(folder)
    _check_data(folder, dataset)
    prepared = prepare(on, dataset, conditions)
    return evaluate_prepared(folder, dataset, prepared, conditions, device=device, tell=tell)


def evaluate_prepared(
    folder: Path,
    dataset: Dataset,
    prepared: Sequence[Evaluation],
    conditions: Conditions,
    *,
    device: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate one of several runs on what was prepared for all of them.

    Args:
        folder: The run.
        dataset: The data of the run.
        prepared: From `layerticket.study.evaluate.prepare`.
        conditions: As they were prepared.
        device: As in `evaluate_run`.
        tell: As in `evaluate_run`.

    Returns:
        As `evaluate_run` does.

    Raises:
        LayerticketError: If the run is not finished, in use, or the data are others.
    """
    _check_data(folder, dataset)
    precision = load_result(folder)["precision"]
    kept = _kept(folder)
    results: dict[str, Any] = {}
    network: nn.Module | None = None
    clean = 0.0
    for evaluation in prepared:
        settings = {**evaluation.settings, "run_precision": precision}
        found = kept.get(evaluation.name)
        if found is None or canonical_json(found.get("settings")) != canonical_json(settings):
            if network is None:
                network = trained_network(folder, dataset)
                test = first_images(dataset.test, conditions.images)
                clean = accuracy(network, dataset, test, precision=precision, device=device)
            tell(f"{folder.name}: {evaluation.name}")
            found = evaluation.measure(network, precision, device, clean)
            found["settings"] = settings
            _keep(folder, evaluation.name, found)
        for warning in found.get("warnings", ()):
            tell(f"warning: {evaluation.name}: {warning}")
        results[evaluation.name] = found
    return {"run": str(folder), "results": results}


def trained_network(folder: Path, dataset: Dataset) -> nn.Module:
    """Build the network of a finished run, a ticket or dense, with its trained weights.

    Masks of a rival are made permanent: its pruned weights are ordinary zeros.

    Args:
        folder: The run.
        dataset: The data of the run; gives classes and channels.

    Raises:
        LayerticketError: If its files are damaged or do not fit together.
    """
    config = read_json(folder / RUN)["config"]
    network = build_named(config["model"], dataset, config["seed"])
    if config["ticket"]:
        network = Ticket.load(folder / TICKET).apply(network)
    load_weights(folder / WEIGHTS, network)
    return permanent(network)


def _check_data(folder: Path, dataset: Dataset) -> None:
    """Refuse data the run was not trained on."""
    wanted = read_json(folder / RUN)["config"]["data_fingerprint"]
    if dataset.fingerprint != wanted:
        raise LayerticketError(
            f"{folder} was trained on data of fingerprint {wanted[:12]}, the data given have "
            f"{dataset.fingerprint[:12]}. Give the data it was trained on."
        )


def _kept(folder: Path) -> dict[str, Any]:
    """Read what was measured before."""
    if not (folder / EVALUATION).exists():
        return {}
    results = read_json(folder / EVALUATION).get("results")
    return results if isinstance(results, dict) else {}


def _keep(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Add one evaluation's figures to those of the run."""
    with exclusive(folder):
        results = {**_kept(folder), name: found}
        write_record(folder / EVALUATION, {"run": folder.name, "results": results})


IMAGES = 512


def similarity_of(
    run: Path, dense_run: Path, dataset: Dataset, *, images: int = IMAGES
) -> dict[str, Any]:
    """Compare the network of a run with that of a dense run, layer by layer, on test images.

    Every layer is compared with itself, under whatever name it has in the smaller network; a block
    that was removed has no figure. Of a network of another name, such as a shallower one, the last
    blocks of the stages are compared, if it has as many stages.

    Args:
        run: A finished run: a ticket, a rival, a shallower network, or dense.
        dense_run: A finished run of the dense network.
        dataset: The data of both.
        images: The first so many test images are compared on, at least 3.

    Returns:
        `layers` (CKA by name in the dense network, None where the other has no such layer), `mean`
        over the layers both have, `mean_over` (their names), `images`, `measure`.

    Raises:
        LayerticketError: If a run is not finished or damaged, or there are too few images.
    """
    if images < 3:
        raise LayerticketError(f"images is {images}; CKA needs at least 3, better 500.")
    split = first_images(dataset.test, images)
    inputs, _ = next(iter(batches(dataset, split, len(split), seed=0, epoch=0, train=False)))
    dense, other = trained_network(dense_run, dataset), trained_network(run, dataset)
    example = head(inputs, 1)
    names = _blocks(dense, example)
    if _config(run)["model"] == _config(dense_run)["model"]:
        same = counterparts(dense, names, _removed(run))
    else:
        same = stage_ends(names, _blocks(other, example))
    layers = similarity(dense, other, names, inputs, counterparts=same)
    values = {name: value for name, value in layers.items() if value is not None}
    return {
        "layers": layers,
        "mean": sum(values.values()) / len(values),
        "mean_over": list(values),
        "images": len(split),
        "measure": "linear CKA, full, centered",
    }


def counterparts(dense: nn.Module, names: Sequence[str], removed: Iterable[str]) -> dict[str, str]:
    """Tell what the layers of a network are called in the one without some of its blocks.

    Args:
        dense: The dense network.
        names: Layers of it.
        removed: Blocks that are gone.

    Returns:
        Name in the dense network -> name in the smaller one, without the removed; at `stem`, what
        stands at the place of the first layer.
    """
    gone = set(removed)
    renamed = name_after_removal(dense, gone)
    first = {STEM: renamed(names[0])} if names else {}
    return first | {name: renamed(name) for name in names if name not in gone}


def stage_ends(names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Match the last block of every stage of two networks, in order of depth.

    A stage is the blocks that one list of the network holds: all before the last dot of their
    names is the same.

    Args:
        names: Blocks of the one network.
        others: Blocks of the other.

    Returns:
        Name in the one -> name in the other, and at `stem` the first block of the other; nothing
        more if the numbers of stages differ.
    """
    first = {STEM: others[0]} if others else {}
    ends = [{name.rpartition(".")[0]: name for name in blocks} for blocks in (names, others)]
    if len(ends[0]) != len(ends[1]):
        return first
    return first | dict(zip(ends[0].values(), ends[1].values(), strict=True))


def _config(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(run / RUN)["config"]
    return config


def _removed(run: Path) -> tuple[str, ...]:
    """List the blocks a run did without; none of dense networks, thinner and masked ones."""
    found = Ticket.load(run / TICKET) if _config(run)["ticket"] else None
    return found.removed if isinstance(found, Ticket) else ()


def _blocks(dense: nn.Module, example: Inputs) -> list[str]:
    """List the blocks of a network: the removable ones, and those of their kind that must stay."""
    kinds = {type(dense.get_submodule(block.name)) for block in find_blocks(dense, example)}
    return [name for name, module in dense.named_modules() if type(module) in kinds]
