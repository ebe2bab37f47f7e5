"""A run is a value: its hash names its folder, and finished work is never done twice.

Enters: a `RunConfig`, its data, and a function that builds its network. Leaves: a folder with
``run.json``, ``metrics.jsonl``, ``model.safetensors`` and ``result.json``. Refuses to know how
tickets are found.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation import Metering, accuracy, metered
from layerticket.files import exclusive
from layerticket.study.runs.bill import SearchBill, energy_bill
from layerticket.study.runs.config import RunConfig
from layerticket.study.runs.record import (
    RESULT,
    WEIGHTS,
    claim,
    find_result,
    load_result,
    write_record,
)
from layerticket.training import (
    FitResult,
    Processes,
    Spread,
    Start,
    Tracking,
    fit,
    processes,
)
from layerticket.training.checkpoint import save_weights
from layerticket.training.journal import CHECKPOINT
from layerticket.training.keeping import require_kept

__all__ = ["RunConfig", "execute", "find_result", "load_result"]


def execute(
    config: RunConfig,
    *,
    dataset: Dataset,
    build: Callable[[], nn.Module],
    out: Path,
    start: Start = Start(),  # noqa: B008 - frozen
    keep_epochs: Iterable[int] = (),
    device: str = "auto",
    progress: bool = True,
    command: str = "",
    metering: Metering | None = None,
    search: SearchBill = SearchBill(),  # noqa: B008 - frozen
    spread: Spread = Spread(),  # noqa: B008 - frozen
    tracking: Tracking = Tracking(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Do a run, go on with it, or return what it ended with long ago.

    In several processes all of them call this; process 0 holds the folder, tests and writes.

    Args:
        config: The run.
        dataset: The data that the config names by fingerprint.
        build: Makes the network with its first weights; called only when there is work to do.
        out: Folder of all runs; the run's own folder in it is named by the config.
        start: Epoch and optimizer to begin with; the config tells the same epoch.
        keep_epochs: Epochs whose state stays in the folder; not part of the run's hash, since it
            changes nothing in the run.
        device: "auto", "cpu", "cuda" or "cuda:N"; not part of the run's hash.
        progress: Whether a progress bar is drawn on stderr.
        command: Command line to be noted in ``run.json``.
        metering: What the user states about energy; by default it is not metered.
        search: What finding the trained ticket took; it is part of the run's bill.
        spread: Choices for several processes; like their number, not part of the run's hash.
        tracking: Trackers that curves are sent to; not part of the run's hash.

    Returns:
        The keys of ``RESULT_KEYS`` in `record`; accuracies as fractions, None for what was not
        measured.

    Raises:
        LayerticketError: If the data or the start are not those of the config, the folder is in
            use, damaged or another run's, a finished run did not keep the epochs asked for, or
            processes were given different runs.
        TrainingError: If training fails.
    """
    if dataset.fingerprint != config.data_fingerprint:
        raise LayerticketError(
            f"the data have fingerprint {dataset.fingerprint[:12]}, but the run is about "
            f"{config.data_fingerprint[:12]}. Load the data that the run was set up with."
        )
    if start.epoch != config.start_epoch:
        raise LayerticketError(
            f"training is to start at epoch {start.epoch}, but the run is about "
            f"{config.start_epoch}. Set the run up with the epoch it starts at."
        )
    folder, keep = Path(out) / config.name, frozenset(keep_epochs)
    with processes(device) as team:
        _agree(team, config, metering)
        look = functools.partial(_finished, config, out, keep)
        if (finished := team.first(look)) is not None:
            return finished
        with team.holding(exclusive(folder)):
            if (finished := team.first(look)) is not None:
                return finished  # by another while we got here
            team.first(lambda: claim(folder, config, device, command, team.count))
            how: dict[str, Any] = {"start": start, "keep_epochs": keep, "device": device}
            with metered(metering, device) as (meter, method):
                how |= {"progress": progress, "meter": meter, "spread": spread}
                train = functools.partial(fit, tracking=tracking, **how)
                result = _train(config, dataset, build(), folder, device, train, team)
            result |= energy_bill(result["energy"], search, metering, method)
            team.first(lambda: _close(folder, result))
            return result


def _agree(team: Processes, config: RunConfig, metering: Metering | None) -> None:
    """Refuse processes that were given different runs, and what they cannot measure."""
    team.agree({"run": config.digest}, "Give every process the same command.")
    if team.count > 1 and metering is not None and metering.wanted:
        raise team.echoed(
            LayerticketError(
                f"energy is metered in one process, but {team.count} train together. Leave out "
                "the energy options: the figures are null then."
            )
        )


def _close(folder: Path, result: dict[str, Any]) -> None:
    """Write down that the run is finished."""
    write_record(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _finished(config: RunConfig, out: Path, keep: frozenset[int]) -> dict[str, Any] | None:
    """Look up a finished run, and refuse one that lacks what was to be kept."""
    result = find_result(config, out)
    if result is not None:
        require_kept(Path(out) / config.name, sorted(keep))
    return result


def _train(
    config: RunConfig,
    dataset: Dataset,
    model: nn.Module,
    folder: Path,
    device: str,
    train: Callable[..., FitResult],
    team: Processes,
) -> dict[str, Any]:
    """Train, test once, and leave the weights."""
    judge = functools.partial(
        accuracy, dataset=dataset, precision=config.recipe.precision, device=device
    )
    watched = len(dataset.validation) > 0
    fitted = train(
        model,
        dataset,
        config.recipe,
        seed=config.seed,
        folder=folder,
        validate=functools.partial(judge, split=dataset.validation) if watched else None,
    )
    tested = team.first(lambda: judge(model, split=dataset.test))
    team.first(lambda: save_weights(folder / WEIGHTS, model))
    return _result(folder, model, fitted, tested)


def _result(folder: Path, model: nn.Module, fitted: FitResult, tested: float) -> dict[str, Any]:
    """Put the figures of a run together."""
    return {
        "run": str(folder),
        "test_accuracy": tested,
        "validation_accuracy": fitted.validation_accuracy,
        "epochs": fitted.epochs,
        "train_seconds": fitted.train_seconds,
        "images_per_second": fitted.images_per_second,
        "energy_kwh": None,
        "co2_kg": None,
        "peak_memory_bytes": fitted.peak_memory_bytes,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "precision": fitted.precision,
        "device": fitted.device,
        "data_wait_share": fitted.data_seconds / fitted.train_seconds,
        "energy": None if fitted.energy is None else asdict(fitted.energy),
        "energy_method": None,
        "processes": fitted.processes,
    }
