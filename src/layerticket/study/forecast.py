"""Forecast the time and energy of a training from a few measured steps."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.counting import count_macs, realized_share
from layerticket.data.dataset import first_images
from layerticket.evaluation.accuracy import judged
from layerticket.evaluation.energy import carbon_kg
from layerticket.evaluation.timing import interleave, ratio_of
from layerticket.modules import copy_of
from layerticket.study.measured_budget import Steps, TimingSetup, measure_steps
from layerticket.study.train import Networks
from layerticket.ticket.ticket import Ticket
from layerticket.training.device import place, resolve_device

_VALIDATED = 512  # images used to time validation


def forecast(
    models: Mapping[str, nn.Module], setup: TimingSetup, *, start: int = 0
) -> dict[str, Any]:
    """Forecast the full training of several networks from a few steps of each.

    Training time is ``epochs * steps * median step + start-up``, the same as `train_seconds` of a
    finished run; validation time is separate. Energy covers both, as in a run. Loading data, saving
    checkpoints and the final test are not included.

    Args:
        models: "dense", and "ticket" if there is one; not modified.
        setup: Data, recipe and device of the training.
        start: Epoch of the schedule at which a rewound ticket starts.

    Returns:
        JSON values: the forecast of each network, and what the ticket saves; None for what was not
        measured.

    Raises:
        LayerticketError: If the device is missing or energy cannot be metered as configured.
    """
    steps = measure_steps(models, setup)
    checks = _validation_seconds(models, setup)
    record: dict[str, Any] = {
        "epochs": setup.recipe.epochs,
        "steps": setup.recipe.epochs * steps.steps_per_epoch,
        "rounds": setup.rounds,
        "energy_method": steps.method,
        "ticket": None,
    }
    for name, model in models.items():
        example = setup.dataset.train.fetch(slice(1)).float()
        epochs = setup.recipe.epochs - (start if name == "ticket" else 0)
        record[name] = {"macs": count_macs(model, example), "epochs": epochs} | _one(
            name, steps, checks, setup, epochs
        )
    record["saving"] = _saving(record, steps) if "ticket" in models else None
    return record


def _one(
    name: str, steps: Steps, checks: Mapping[str, float], setup: TimingSetup, epochs: int
) -> dict[str, Any]:
    """Return the forecast of one network."""
    step = statistics.median(steps.seconds[name])
    count = epochs * steps.steps_per_epoch
    training = count * step + steps.startup_seconds[name]
    checking = epochs * checks[name]
    kwh = None
    if steps.kwh is not None:  # validation is assumed to draw the power of a training step
        kwh = statistics.median(steps.kwh[name]) * (training + checking) / step
    return {
        "step_seconds": step,
        "train_seconds": training,
        "validation_seconds": checking,
        "data_wait_share": steps.data_wait_share[name],
        "energy_kwh": kwh,
        "co2_kg": carbon_kg(kwh, setup.where.metering),
    }


def _saving(record: Mapping[str, Any], steps: Steps) -> dict[str, Any]:
    """Return what the ticket saves, as shares of the dense network's cost."""
    dense, ticket = record["dense"], record["ticket"]
    speedup = ratio_of(steps.seconds["dense"], steps.seconds["ticket"])
    macs = 1 - ticket["macs"] / dense["macs"]
    energy = None
    if steps.kwh is not None:
        energy = 1 - ratio_of(steps.kwh["ticket"], steps.kwh["dense"]).value
    return {
        "macs": macs,
        "time": 1 - 1 / speedup.value,
        "energy": energy,
        "speedup": asdict(speedup),
        "theoretical_speedup": dense["macs"] / ticket["macs"],
        "realized_share": realized_share(macs, 1 - 1 / speedup.value),
    }


def _validation_seconds(models: Mapping[str, nn.Module], setup: TimingSetup) -> dict[str, float]:
    """Return the seconds of one validation by network, timed on some of the images."""
    whole = setup.dataset.validation
    if not len(whole):
        return dict.fromkeys(models, 0.0)
    some = first_images(whole, _VALIDATED)
    device = resolve_device(setup.where.device)

    def judge(model: nn.Module) -> None:
        judged(
            model, setup.dataset, some, precision=setup.recipe.precision, device=setup.where.device
        )

    own = {name: copy_of(model) for name, model in models.items()}
    for model in own.values():
        place(model, device, channels_last=setup.recipe.channels_last)
    sides = {name: (lambda model=model: judge(model)) for name, model in own.items()}
    taken = interleave(sides, rounds=3, warmup=1)
    return {name: statistics.median(t) * len(whole) / len(some) for name, t in taken.items()}


def forecast_run(
    networks: Networks, model: str, *, seed: int, setup: TimingSetup, ticket: Path | None = None
) -> dict[str, Any]:
    """Forecast the training that `train_network` would do, without training.

    Args:
        networks: Builds the dense network.
        model: Its name.
        seed: Seed of the training.
        setup: Data, recipe and device of the training, and the number of timed rounds.
        ticket: Folder of a ticket; it is forecast in addition to the dense network.

    Returns:
        What `layerticket train --dry-run --json` prints.

    Raises:
        LayerticketError: If an argument is invalid.
    """
    models, start = {"dense": networks.build(model, seed)}, 0
    if ticket is not None:
        found = Ticket.load(ticket)
        models["ticket"], start = found.apply(models["dense"]), found.rewind_epoch
    names = {"model": model, "ticket_folder": None if ticket is None else str(ticket)}
    return names | forecast(models, setup, start=start)
