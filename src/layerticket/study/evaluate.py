"""Figures of trained networks: robustness by name; beside the dense one similarity and speed."""

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
from layerticket.study.record import WEIGHTS, Removal, Result, environment, read_config
from layerticket.study.train import Networks
from layerticket.surgery.hugging_face import name_after_removal
from layerticket.surgery.masks import permanent
from layerticket.training.checkpoint import load_weights
from layerticket.training.device import resolve_device

EVALUATION, PAIRS = "evaluation.json", "pairs.json"


class WeightsGone(LayerticketError):
    """Weights that have to be looked at were deleted; training the run again brings them back."""


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    on: Sequence[str],
    *,
    networks: Networks | None = None,
    conditions: Conditions = Conditions(),  # noqa: B008 - frozen
    device: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate the trained network of a finished run; results are cached there by their settings.

    Args:
        folder: The run.
        dataset: The data of the run.
        on: Names from `EVALUATIONS`.
        networks: Builds its network; by default by name, for the data.
        conditions: Files, number of images, attacks.
        device: "auto", "cpu", "cuda" or "cuda:N".
        tell: Called with one line of news before each evaluation, and for each warning.

    Returns:
        What `layerticket evaluate --json` prints.

    Raises:
        LayerticketError: If a name is unknown or makes no sense for the data, a file is damaged,
            the run is not finished, or the data are others; before anything is evaluated.
        FolderInUse: If another process is evaluating the run, and something is left to do.
    """
    result = Result.load(folder)
    _check_data(folder, dataset)
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
                    tell(f"{folder.name}: {one.name}")
                    found = one.measure(network, precision, device, clean)
                    known[one.name] = results[one.name] = found | {"settings": asked[one.name]}
                    record = {"run": folder.name, "weights": result.weights, "results": known}
                    record["environment"] = environment(device)
                    write_json(folder / EVALUATION, record)
    for name in asked:
        for warning in results[name].get("warnings", ()):
            tell(f"warning: {name}: {warning}")
    return {"run": str(folder), "results": {name: results[name] for name in asked}}


def _known(folder: Path, result: Result) -> dict[str, Any]:
    """Figures that were measured on the weights of a run, by name."""
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
    """Figures that were measured with the settings asked for, by name."""
    known = _known(folder, result)
    return {
        name: known[name]
        for name, settings in asked.items()
        if name in known and canonical_json(known[name]["settings"]) == canonical_json(settings)
    }


def trained_network(folder: Path, networks: Networks) -> nn.Module:
    """Build the network of a finished run, dense or not, with its trained weights.

    Masks are made permanent: pruned weights are ordinary zeros.

    Raises:
        LayerticketError: If its weights were deleted, or its files do not fit together.
    """
    if not (folder / WEIGHTS).exists():
        raise WeightsGone(
            f"the weights of {folder} are gone (keep_weights = none). Train it again: its figures "
            "stay as they are."
        )
    config = read_config(folder)
    network = networks.build(config["model"], config["seed"])
    removal = Removal.load(folder)
    if removal is not None:
        network = removal.apply(network)
    load_weights(folder / WEIGHTS, network)
    return permanent(network)


def _check_data(folder: Path, dataset: Dataset) -> None:
    """Refuse data the run was not trained on."""
    wanted = read_config(folder)["data_fingerprint"]
    if wanted is not None and dataset.fingerprint != wanted:
        raise LayerticketError(
            f"{folder} was trained on data of fingerprint {wanted[:12]}, the data given have "
            f"{dataset.fingerprint[:12]}. Give the data it was trained on."
        )


class Pair(TypedDict):
    """A comparison of two trained networks, as it is kept."""

    of: dict[str, Digest]
    figures: dict[str, Any]
    environment: dict[str, Any]


def pair_figures(
    what: str, run: Path, dense: Path, measure: Callable[[Path, Path], dict[str, Any]]
) -> dict[str, Any]:
    """Compare two trained networks, or look up what an earlier comparison of them found.

    Args:
        what: Name of the comparison.
        run: A finished run.
        dense: The run of the dense network.
        measure: Compares the two.
    """
    both = {"weights": Result.load(run).weights, "dense": Result.load(dense).weights}

    def known() -> dict[str, Any]:
        path = run / PAIRS
        found = read_json(path) if path.exists() else {}
        checked_json(str(path), dict[str, dict[str, Pair]], found)
        return found

    def cached() -> dict[str, Any] | None:
        found: dict[str, Any] = known().get(what, {}).get(dense.name, {})
        return found["figures"] if found.get("of") == both else None

    if (figures := cached()) is None:
        with exclusive(run):
            figures = measure(run, dense)
            pairs = known()
            made = {"of": both, "figures": figures, "environment": environment()}
            entry = {**pairs.get(what, {}), dense.name: made}
            write_json(run / PAIRS, {**pairs, what: entry})
    return figures


BATCH, ROUNDS = 128, 20  # images a call for the throughput, and timed calls of each network


def inference_of(
    dataset: Dataset, networks: Networks, device: str, run: Path, dense_run: Path
) -> dict[str, Any]:
    """Time inference of a trained network beside the dense one, in turns.

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

    Every layer is compared with itself, under whatever name it has in the smaller network; a block
    that was removed has no figure. Of a network of another name, such as a shallower one, the last
    blocks of the stages are compared, if it has as many stages.

    Args:
        dataset: The data of both.
        networks: Builds both.
        run: A finished run: a ticket, a baseline, a shallower network, or dense.
        dense_run: A finished run of the dense network.
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
    dense, other = trained_network(dense_run, networks), trained_network(run, networks)
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
    return read_config(run)


def _removed(run: Path) -> tuple[str, ...]:
    """List the blocks a run did without; none of dense networks, thinner and masked ones."""
    removal = Removal.load(run)
    return () if removal is None else tuple(block.name for block in removal.blocks)


def _blocks(dense: nn.Module, example: Inputs) -> list[str]:
    """List the blocks of a network: the removable ones, and those of their kind that must stay."""
    kinds = {type(dense.get_submodule(block.name)) for block in find_blocks(dense, example)}
    return [name for name, module in dense.named_modules() if type(module) in kinds]
