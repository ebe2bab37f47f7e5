"""Evaluate trained networks: robustness; similarity and speed against the dense network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import TypedDict

from layerticket.batch import Inputs, head
from layerticket.blocks.find import find_blocks
from layerticket.data.batches import batches
from layerticket.data.dataset import Dataset, first_images
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import judged
from layerticket.evaluation.robustness import Conditions, Precision, prepare
from layerticket.evaluation.similarity import STEM, similarity
from layerticket.evaluation.timing import inference_seconds, median_of, ratio_of
from layerticket.files import canonical_json, exclusive, read_json, write_json
from layerticket.settings import Digest, checked_json
from layerticket.study.record import (
    WEIGHTS,
    Removal,
    Result,
    check_data,
    environment,
    read_config,
)
from layerticket.study.train import Networks
from layerticket.surgery.hugging_face import name_after_removal
from layerticket.surgery.masks import permanent
from layerticket.tensors import load_tensors
from layerticket.training.checkpoint import copy_weights
from layerticket.training.device import resolve_device

EVALUATION, PAIRS = "evaluation.json", "pairs.json"


class WeightsGone(LayerticketError):
    """The weights that must be evaluated were deleted; training the run again restores them."""


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    on: Sequence[str],
    *,
    networks: Networks | None = None,
    conditions: Conditions = Conditions(),  # noqa: B008 - frozen
    device: str = "auto",
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate the trained network of a finished run; results are cached there by their settings.

    Args:
        folder: The run.
        dataset: The data of the run.
        on: Names from `EVALUATIONS`.
        networks: Builds its network; by default by name, for the data.
        conditions: Files, number of images, attacks.
        device: "auto", "cpu", "cuda" or "cuda:N".
        log: Called with one line before each evaluation, and for each warning.

    Returns:
        What `layerticket evaluate --json` prints.

    Raises:
        LayerticketError: If a name is unknown or does not apply to the data, a file is damaged,
            the run is not finished, or the data differ; before anything is evaluated.
        FolderInUse: If another process is evaluating the run and some results are missing.
    """
    result = Result.load(folder)
    check_data(folder, read_config(folder), dataset)
    precision: Precision = result.precision or "auto"
    prepared = prepare(on, dataset, conditions)
    asked = {one.name: {**one.settings, "run_precision": precision} for one in prepared}
    results = _cached(folder, result, asked)
    if len(results) < len(asked):
        with exclusive(folder):
            known = _known(folder, result)
            results = _cached(folder, result, asked)
            network = trained_network(folder, networks or Networks.of(dataset))
            test = first_images(dataset.test, conditions.images)
            clean = judged(network, dataset, test, precision=precision, device=device)
            for one in prepared:
                if one.name not in results:
                    log(f"{folder.name}: {one.name}")
                    found = one.measure(network, precision, device, clean)
                    known[one.name] = results[one.name] = found | {"settings": asked[one.name]}
                    record = {"run": folder.name, "weights": result.weights, "results": known}
                    record["environment"] = environment(device)
                    write_json(folder / EVALUATION, record)
    for name in asked:
        for warning in results[name].get("warnings", ()):
            log(f"warning: {name}: {warning}")
    return {"run": str(folder), "results": {name: results[name] for name in asked}}


def _known(folder: Path, result: Result) -> dict[str, Any]:
    """Return the results measured on the weights of a run, by name."""
    path = folder / EVALUATION
    record = read_json(path) if path.exists() else {}
    if record.get("weights") != result.weights:
        return {}
    found: dict[str, Any] = checked_json(
        f"{path}: results", dict[str, dict[str, Any]], record.get("results")
    )
    for name, figures in found.items():
        checked_json(f"{path}: results: {name}: settings", dict[str, Any], figures.get("settings"))
    return found


def _cached(folder: Path, result: Result, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cached results measured with the same settings, by name."""
    known = _known(folder, result)
    return {
        name: known[name]
        for name, settings in asked.items()
        if name in known and canonical_json(known[name]["settings"]) == canonical_json(settings)
    }


def trained_network(folder: Path, networks: Networks) -> nn.Module:
    """Build the network of a finished run, dense or not, with its trained weights.

    Masks are applied for good: pruned weights become ordinary zeros.

    Raises:
        LayerticketError: If its weights were deleted, or its files contradict each other.
    """
    if not (folder / WEIGHTS).exists():
        raise WeightsGone(
            f"the weights of {folder} were deleted (keep_weights = none). Train it again: its "
            "results stay the same."
        )
    config = read_config(folder)
    network = networks.build(config["model"], config["seed"])
    removal = Removal.load(folder)
    if removal is not None:
        network = removal.apply(network)
    copy_weights(load_tensors(folder / WEIGHTS)[0], network, str(folder / WEIGHTS))
    return permanent(network)


class Pair(TypedDict):
    """A cached comparison of two trained networks."""

    of: dict[str, Digest]
    figures: dict[str, Any]
    environment: dict[str, Any]


def pair_figures(
    comparison: str,
    run: Path,
    dense: Path,
    measure: Callable[[Path, Path], dict[str, Any]],
    device: str | None = None,
) -> dict[str, Any]:
    """Compare two trained networks, or return the cached result of the same comparison.

    Args:
        comparison: Name of the comparison.
        run: A finished run.
        dense: The run of the dense network.
        measure: Compares the two.
        device: Device that it uses, which is recorded; None: the CPU.
    """
    both = {"weights": Result.load(run).weights, "dense": Result.load(dense).weights}

    def known() -> dict[str, Any]:
        path = run / PAIRS
        found = read_json(path) if path.exists() else {}
        checked_json(str(path), dict[str, dict[str, Pair]], found)
        return found

    def cached() -> dict[str, Any] | None:
        found: dict[str, Any] = known().get(comparison, {}).get(dense.name, {})
        return found["figures"] if found.get("of") == both else None

    if (figures := cached()) is None:
        with exclusive(run):
            figures = measure(run, dense)
            pairs = known()
            made = {"of": both, "figures": figures, "environment": environment(device)}
            entry = {**pairs.get(comparison, {}), dense.name: made}
            write_json(run / PAIRS, {**pairs, comparison: entry})
    return figures


BATCH, ROUNDS = 128, 20  # images per call for throughput; timed calls per network


def inference_of(
    dataset: Dataset, networks: Networks, device: str, run: Path, dense_run: Path
) -> dict[str, Any]:
    """Time inference of a trained network and of the dense one, in alternation.

    Returns:
        `latency_seconds` of one image and `images_per_second` in batches, for `dense` and `ticket`;
        `speedup` of the throughput (dense / ticket) with its interval; `batch_size`, `rounds`,
        `device`.
    """
    where = resolve_device(device)
    count = min(BATCH, len(dataset.test) or BATCH)
    images = (dataset.test if len(dataset.test) else dataset.train).fetch(slice(count))
    inputs = images.to(where).float() / 255
    models = {
        "dense": trained_network(dense_run, networks).to(where),
        "ticket": trained_network(run, networks).to(where),
    }
    one = inference_seconds(models, inputs, batch_size=1, rounds=ROUNDS)
    many = inference_seconds(models, inputs, batch_size=len(inputs), rounds=ROUNDS)
    return {
        "latency_seconds": {name: median_of(times).value for name, times in one.items()},
        "images_per_second": {
            name: len(inputs) / median_of(times).value for name, times in many.items()
        },
        "speedup": asdict(ratio_of(many["dense"], many["ticket"])),
        "batch_size": len(inputs),
        "rounds": ROUNDS,
        "device": str(where),
    }


IMAGES = 512


def similarity_of(
    dataset: Dataset, networks: Networks, run: Path, dense_run: Path, *, images: int = IMAGES
) -> dict[str, Any]:
    """Compare the network of a run with that of a dense run, layer by layer, on test images.

    Every layer is compared with the same layer of the smaller network, which may have another name
    there; a removed block has no value. For another architecture, such as a shallower one, the last
    blocks of the stages are compared if it has as many stages.

    Args:
        dataset: The data of both.
        networks: Builds both.
        run: A finished run: a ticket, a baseline, a shallower network, or dense.
        dense_run: A finished run of the dense network.
        images: Number of test images, taken from the start; at least 3.

    Returns:
        `layers` (CKA by name in the dense network, None where the other has no such layer), `mean`
        over the layers that both have, `mean_over` (their names), `images`, `measure`.

    Raises:
        LayerticketError: If a run is not finished or damaged, or there are too few images.
    """
    if images < 3:
        raise LayerticketError(f"images is {images}; CKA needs at least 3, better 500.")
    split = first_images(dataset.test, images)
    inputs, _ = next(iter(batches(dataset, split, len(split), seed=0, epoch=0, train=False)))
    dense, other = trained_network(dense_run, networks), trained_network(run, networks)
    example = head(inputs, 1)
    names = _blocks(dense, example)
    if read_config(run)["model"] == read_config(dense_run)["model"]:
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
    """Return the names that the layers of a network have after some blocks are removed.

    Args:
        dense: The dense network.
        names: Layers of the dense network.
        removed: Names of the removed blocks.

    Returns:
        Name in the dense network -> name in the smaller one, without the removed layers; `stem`
        maps to the layer at the place of the first one.
    """
    gone = set(removed)
    renamed = name_after_removal(dense, gone)
    first = {STEM: renamed(names[0])} if names else {}
    return first | {name: renamed(name) for name in names if name not in gone}


def stage_ends(names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Match the last blocks of the stages of two networks, in order of depth.

    The blocks of a stage are in one list of the network: their names differ only after the last
    dot.

    Args:
        names: Blocks of the first network.
        others: Blocks of the second.

    Returns:
        Name in the first -> name in the second; `stem` maps to the first block of the second. Only
        `stem` if the numbers of stages differ.
    """
    first = {STEM: others[0]} if others else {}
    ends = [{name.rpartition(".")[0]: name for name in blocks} for blocks in (names, others)]
    if len(ends[0]) != len(ends[1]):
        return first
    return first | dict(zip(ends[0].values(), ends[1].values(), strict=True))


def _removed(run: Path) -> tuple[str, ...]:
    """List the blocks removed in a run; none for dense, filter-pruned and masked networks."""
    removal = Removal.load(run)
    return () if removal is None else tuple(block.name for block in removal.blocks)


def _blocks(dense: nn.Module, example: Inputs) -> list[str]:
    """List the blocks of a network: the removable ones, and those of the same type that stay."""
    kinds = {type(dense.get_submodule(block.name)) for block in find_blocks(dense, example)}
    return [name for name, module in dense.named_modules() if type(module) in kinds]
