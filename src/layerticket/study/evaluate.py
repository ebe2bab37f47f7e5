"""How close a finished run stayed to the dense one in what it represents."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.batch import Inputs, head
from layerticket.blocks.find import find_blocks
from layerticket.data.batches import batches
from layerticket.data.dataset import Dataset, first_images
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import Judged, judged
from layerticket.evaluation.robustness import Conditions, Evaluation, prepare
from layerticket.evaluation.similarity import STEM, similarity
from layerticket.files import canonical_json, exclusive, read_json
from layerticket.study.record import RUN, TICKET, WEIGHTS, build_named, load_result, write_record
from layerticket.surgery.hugging_face import name_after_removal
from layerticket.surgery.masks import permanent
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import load_weights

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
        prepared: From `layerticket.evaluation.robustness.prepare`.
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
    clean: Judged | None = None
    for evaluation in prepared:
        settings = {**evaluation.settings, "run_precision": precision}
        found = kept.get(evaluation.name)
        if found is None or canonical_json(found.get("settings")) != canonical_json(settings):
            if network is None or clean is None:
                network = trained_network(folder, dataset)
                test = first_images(dataset.test, conditions.images)
                clean = judged(network, dataset, test, precision=precision, device=device)
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
