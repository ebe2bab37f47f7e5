"""The forecast of a run by name. Enters: what a person types. Leaves: JSON values, no files."""

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
from layerticket.study.measure import Bench, Steps, measure_steps
from layerticket.study.record import build_named
from layerticket.ticket.ticket import Ticket
from layerticket.training.device import place, resolve_device

_VALIDATED = 512  # images that validation is timed on


def forecast(models: Mapping[str, nn.Module], bench: Bench, *, start: int = 0) -> dict[str, Any]:
    """Forecast the full training of several networks from a few steps of each.

    Seconds of training are ``epochs * steps * median step + start-up``, the same span that
    `train_seconds` of a finished run measures; validation comes on top. Energy covers both, as
    that of a run does. Loading data, saving checkpoints and the final test are left out.

    Args:
        models: "dense", and "ticket" if there is one; not modified.
        bench: What they would be trained on, and how.
        start: Epoch of the schedule that a rewound ticket goes on from.

    Returns:
        JSON values: the figures of each network, and what the ticket saves; None for what was
        not measured.

    Raises:
        LayerticketError: If the device is absent or energy cannot be metered as stated.
    """
    steps = measure_steps(models, bench)
    checks = _validation_seconds(models, bench)
    record: dict[str, Any] = {
        "epochs": bench.recipe.epochs,
        "steps": bench.recipe.epochs * steps.steps_per_epoch,
        "rounds": bench.rounds,
        "energy_method": steps.method,
        "ticket": None,
    }
    for name, model in models.items():
        example = bench.dataset.train.fetch(slice(1)).float()
        epochs = bench.recipe.epochs - (start if name == "ticket" else 0)
        record[name] = {"macs": count_macs(model, example), "epochs": epochs} | _one(
            name, steps, checks, bench, epochs
        )
    record["saving"] = _saving(record, steps) if "ticket" in models else None
    return record


def _one(
    name: str, steps: Steps, checks: Mapping[str, float], bench: Bench, epochs: int
) -> dict[str, Any]:
    """Figures of one network."""
    step = statistics.median(steps.seconds[name])
    count = epochs * steps.steps_per_epoch
    training = count * step + steps.startup_seconds[name]
    checking = epochs * checks[name]
    kwh = None
    if steps.kwh is not None:  # validation at the power of a training step
        kwh = statistics.median(steps.kwh[name]) * (training + checking) / step
    return {
        "step_seconds": step,
        "train_seconds": training,
        "validation_seconds": checking,
        "data_wait_share": steps.data_wait_share[name],
        "energy_kwh": kwh,
        "co2_kg": carbon_kg(kwh, bench.metering),
    }


def _saving(record: Mapping[str, Any], steps: Steps) -> dict[str, Any]:
    """What the ticket saves, as shares of the dense network's figures."""
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


def _validation_seconds(models: Mapping[str, nn.Module], bench: Bench) -> dict[str, float]:
    """Seconds of one validation by network, from some of its images."""
    whole = bench.dataset.validation
    if not len(whole):
        return dict.fromkeys(models, 0.0)
    some = first_images(whole, _VALIDATED)
    where = resolve_device(bench.device)

    def judge(model: nn.Module) -> None:
        judged(model, bench.dataset, some, precision=bench.recipe.precision, device=bench.device)

    own = {name: copy_of(model) for name, model in models.items()}
    for model in own.values():
        place(model, where, channels_last=bench.recipe.channels_last)
    sides = {name: (lambda model=model: judge(model)) for name, model in own.items()}
    taken = interleave(sides, rounds=3, warmup=1)
    return {name: statistics.median(t) * len(whole) / len(some) for name, t in taken.items()}


def foresee_run(
    model: str, *, seed: int, bench: Bench, ticket: Path | None = None
) -> dict[str, Any]:
    """Forecast the training that `train_run` would do, without doing it.

    Args:
        model: Name of the dense network.
        seed: As in `train_run`.
        bench: What would be trained on, and how; how many rounds are measured.
        ticket: Folder of a ticket; forecast beside the dense network.

    Returns:
        What `layerticket train --dry-run --json` prints.

    Raises:
        LayerticketError: If anything given does not fit.
    """
    models = {"dense": build_named(model, bench.dataset, seed)}
    start = 0
    if ticket is not None:
        found = Ticket.load(ticket)
        models["ticket"], start = found.apply(models["dense"]), found.rewind_epoch
    names = {"model": model, "ticket_folder": None if ticket is None else str(ticket)}
    return names | forecast(models, bench, start=start)
