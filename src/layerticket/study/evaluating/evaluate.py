"""Judges the trained network of a finished run and keeps the figures in its folder.

A figure is measured once: it is kept with all its settings, and taken again when they are the same.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation import accuracy
from layerticket.files import canonical_json, exclusive, read_json
from layerticket.rivals import load_candidate, permanent
from layerticket.study.evaluating.conditions import Conditions, Evaluation, first_images
from layerticket.study.evaluating.evaluations import prepare
from layerticket.study.runs.record import RUN, WEIGHTS, write_record
from layerticket.study.runs.run import load_result
from layerticket.study.runs.train import TICKET, build_named
from layerticket.training.checkpoint import load_weights

__all__ = ["EVALUATION", "evaluate_prepared", "evaluate_run", "trained_network"]

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
        prepared: From `layerticket.study.evaluating.evaluations.prepare`.
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
        network = load_candidate(folder / TICKET).apply(network)
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
