"""Train in one call that can resume, with the same bits: `fit` has the loop over epochs.

One step is in steps.py, files are in checkpoint.py, processes in distributed.py.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.random import fork_rng

from layerticket.batch import call, logits_of
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError, ModelError, TrainingError
from layerticket.modules import preserved_modes, preserved_random_state
from layerticket.progress import progress_bar
from layerticket.tensors import tensor_digest
from layerticket.training.checkpoint import CHECKPOINT, Journal, ResumePoint, Snapshot, State
from layerticket.training.device import (
    Energy,
    EnergyMeter,
    Meter,
    Where,
    device_of,
    peak_memory_bytes,
    place,
    repeatable_kernels,
    resolve_precision,
    restart_peak_memory,
    seed_epoch,
)
from layerticket.training.distributed import (
    DistributedOptions,
    Processes,
    processes,
    same_on_all_ranks,
    synchronized_batch_norms,
)
from layerticket.training.drop_path import drop_paths
from layerticket.training.recipe import TRAINING_REVISION, Recipe, learning_rate_at
from layerticket.training.steps import Trainer, check_outputs
from layerticket.training.trackers import Trackers

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """Cost and result of a training."""

    epochs: int
    """Passes over the training images, counted from the start epoch."""
    train_seconds: float
    """Seconds of training in all sessions, without validation and checkpoints."""
    images_per_second: float
    """Training images per second of `train_seconds`."""
    peak_memory_bytes: int | None
    """Peak memory during this training, of the process that used most: on a CPU its resident
    memory; on a GPU its tensors, also those of the caller, without memory that is only reserved.
    None if the system cannot separate it from earlier work of the process."""
    final_train_loss: float
    """Mean loss over the steps of the last epoch, in nats."""
    validation_accuracy: float | None
    """Result of `validate` after the last epoch; None without validation."""
    precision: Literal["bf16", "fp32"]
    """Precision used: bf16 or fp32."""
    device: str
    """Device used: cpu, or the GPU with its number."""
    data_seconds: float = 0.0
    """Part of `train_seconds` in which the loop waited for its next batch."""
    energy: Energy | None = None
    """Energy of training and validation in all sessions; None if a part was not metered."""
    processes: int = 1
    """Number of processes that trained together."""


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    folder: str | Path,
    identity: Mapping[str, Any] | None = None,
    start: ResumePoint = ResumePoint(),  # noqa: B008 - frozen
    snapshot_epochs: Iterable[int] = (),
    validate: Callable[[nn.Module], float] | None = None,
    where: Where = Where(),  # noqa: B008 - frozen
    meter: Meter | None = None,
    distributed: DistributedOptions = DistributedOptions(),  # noqa: B008 - frozen
    trackers: Trackers = Trackers(),  # noqa: B008 - frozen
) -> FitResult:
    """Train the caller's model in place.

    Afterwards the model is trained, on the device, in the recipe's memory format; its train/eval
    modes and torch's random state are as before. The folder has ``metrics.jsonl`` (one line per
    epoch) and ``checkpoint.safetensors``; if there is a checkpoint, training resumes from it. It is
    written after an epoch if the last one is 5 s old, after epochs in `snapshot_epochs`, and at the
    end. Interrupting with Ctrl-C loses the current epoch, and up to 5 s of epochs before it.

    With several processes, each takes its part of every batch of `recipe.batch_size` images;
    process 0 validates and writes. A training must be resumed with the same number of processes.

    Args:
        model: Network from images (N, C, H, W) to logits (N, K); the same on every process.
        dataset: Its training split is used; images in memory are moved to the device as a whole,
            unless they are augmented one by one.
        recipe: How to train.
        seed: Seed of shuffling, augmentation and dropout, together with the epoch.
        folder: Folder of this run; created if missing.
        identity: JSON values that must be equal to resume from a checkpoint, such as the name of
            the training; None: recipe, seed, data, start epoch and processes.
        start: Epoch i of the schedule to start at, with optimizer state and running average:
            learning rates, order and augmentation are those of epochs i to n - 1 of a whole
            training.
        snapshot_epochs: Epochs after which weights and optimizer state are saved permanently, as
            ``epoch-0007.safetensors``; 0 is the start. Does not change the training.
        validate: Called with the model (with `ema_decay`, its average) after every epoch; the
            result is only logged.
        where: Device, and whether to show a progress bar.
        meter: Running energy meter, from `layerticket.evaluation.energy.metered`.
        distributed: Options for several processes; a sharded model stays on the CPU.
        trackers: Trackers that receive the curves; they do not change the training.

    Returns:
        Cost and result.

    Raises:
        LayerticketError: If the device is missing, the split is empty, no parameter is trainable,
            the folder belongs to another training, an epoch is out of range, or processes differ.
        TrainingError: If the loss, or what `validate` returns, is not finite; the last checkpoint
            stays.
    """
    folder = Path(folder)
    kept = _checked(model, dataset, recipe, start, snapshot_epochs, where, meter)
    with ExitStack() as stack:
        group = stack.enter_context(processes(where.device))
        device = device_of(where.device, group)
        distributed.check(group, device)
        settings = _settings(dataset, recipe, seed, start, device, group, distributed)
        if group.count > 1:
            _check_together(model, dataset, recipe, start, group, meter, kept, settings)
        group.on_rank0(lambda: folder.mkdir(parents=True, exist_ok=True))
        stack.enter_context(repeatable_kernels())
        stack.enter_context(fork_rng([device.index] if device.type == "cuda" else []))
        stack.enter_context(preserved_modes(model))
        home = torch.device("cpu") if distributed.shard else device
        place(model, home, channels_last=recipe.channels_last and not distributed.shard)
        stack.enter_context(synchronized_batch_norms(model, wanted=distributed.sync_batch_norm))
        stack.enter_context(drop_paths(model, recipe.drop_path))
        trainer = Trainer(
            model, dataset, recipe, seed=seed, device=device, start=start, group=group,
            sharded=distributed.shard,
        )  # fmt: skip
        journal = Journal(folder, settings if identity is None else identity, start.epoch, kept)
        first = group.rank == 0
        track = stack.enter_context((trackers if first else Trackers()).open(folder, settings))
        images = trainer.steps_per_epoch * trainer.batch_size * (recipe.epochs - start.epoch)
        show = stack.enter_context(progress_bar(images, shown=where.progress and first))

        loss_of_guessing, warned = math.log(dataset.classes), False
        peak_known = restart_peak_memory(device)
        state = _restored(journal, trainer, start)
        state = replace(state, compiled=trainer.compile(state.compiled))
        energy = EnergyMeter(meter, state.energy, fresh=state.epoch == start.epoch)
        while state.epoch < recipe.epochs:
            state = train_epoch(trainer, state, show)
            if first and not warned and (warned := state.train_loss > 2 * loss_of_guessing):
                log.warning(
                    "the mean loss of epoch %d is %.3g, over twice that of guessing (%.3g). %s",
                    state.epoch,
                    state.train_loss,
                    loss_of_guessing,
                    _remedies(recipe, device),
                )
            peak = _peak(state.peak_memory_bytes, device if peak_known else None, group)
            snapshot = trainer.snapshot(state.epoch)
            accuracy = None
            if validate is not None:
                accuracy = group.on_rank0(partial(_validated, validate, trainer.validated()))
            final = state.epoch == recipe.epochs
            used = energy.read(final=final)
            state = replace(
                state, peak_memory_bytes=peak, validation_accuracy=accuracy, energy=used
            )
            group.on_rank0(partial(_record, journal, state, snapshot, track, final=final))
        trainer.finish()
    return FitResult(
        epochs=state.epoch - start.epoch,
        train_seconds=state.train_seconds,
        images_per_second=state.images_per_second,
        peak_memory_bytes=state.peak_memory_bytes,
        final_train_loss=state.train_loss,
        validation_accuracy=state.validation_accuracy,
        precision=resolve_precision(recipe.precision, device),
        device=str(device),
        data_seconds=state.data_seconds,
        energy=None if state.energy is None else Energy(**state.energy),
        processes=group.count,
    )


def check_network(model: nn.Module, dataset: Dataset) -> None:
    """Raise if a network does not run on the images, or has fewer outputs than there are classes.

    Raises:
        ModelError: If it does not run.
        LayerticketError: If it has too few outputs.
    """
    weights = (weight for weight in model.parameters() if weight.is_floating_point())
    example = torch.zeros(1, *dataset.shape).to(next(weights, torch.empty(0)))
    try:
        with preserved_random_state(0), preserved_modes(model), torch.no_grad():
            logits = logits_of(call(model.eval(), example))
    except ModelError as err:
        shape = " x ".join(map(str, dataset.shape))
        raise ModelError(
            f"{err} Images of {dataset.name!r} are {shape} (channels, height, width). If the "
            "network takes another size, resize them: --image-size, or image_size in Python."
        ) from err.__cause__
    check_outputs(logits, dataset.classes)


def train_epoch(trainer: Trainer, state: State, show: Callable[[float, str], None]) -> State:
    """Train one epoch and return the new state."""
    recipe, steps, epoch = trainer.recipe, trainer.steps_per_epoch, state.epoch
    # Reading a loss waits for the GPU, so it is done less often there.
    read_every = 50 if trainer.device.type == "cuda" else 5
    trainer.prepare_epoch()
    seed_epoch(trainer.seed, epoch, trainer.device, trainer.group.rank)
    start, waited, total, pending = time.perf_counter(), 0.0, 0.0, []
    rate = 0.0
    supply = trainer.batches(epoch)
    for step in range(1, steps + 1):
        fetching = time.perf_counter()
        images, labels = next(supply)
        waited += time.perf_counter() - fetching
        rate = learning_rate_at(recipe, epoch * steps + step - 1, steps)
        pending.append(trainer.step(images, labels, rate))
        if step % read_every == 0 or step == steps:
            losses = trainer.group.mean(torch.stack(pending)).tolist()
            _check_losses(losses, trainer, epoch, step - len(losses))
            total, pending = total + sum(losses), []
            seen, seconds = step * trainer.batch_size, time.perf_counter() - start
            show(
                state.images + seen,
                f"epoch {epoch + 1}/{recipe.epochs}  loss {losses[-1]:.3f}  "
                f"{seen / seconds:.0f} images/s",
            )
    seconds = time.perf_counter() - start
    return replace(
        state,
        epoch=epoch + 1,
        train_loss=total / steps,
        learning_rate=rate,
        train_seconds=state.train_seconds + seconds,
        data_seconds=state.data_seconds + waited,
        images=state.images + steps * trainer.batch_size,
    )


def _checked(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    start: ResumePoint,
    snapshot_epochs: Iterable[int],
    where: Where,
    meter: Meter | None,
) -> frozenset[int]:
    """Check the arguments of `fit`, and return the epochs whose snapshots are saved."""
    for name, given, kind, how in (
        ("model", model, nn.Module, "layerticket.build_model builds one from a name"),
        ("dataset", dataset, Dataset, "layerticket.load_data loads one by its name"),
        ("recipe", recipe, Recipe, "layerticket.Recipe(epochs=10)"),
    ):
        if not isinstance(given, kind):
            shown = f"the text {given!r}" if isinstance(given, str) else f"a {type(given).__name__}"
            raise LayerticketError(f"{name} is {shown}; give a {kind.__name__}: {how}.")
    if not len(dataset.train):
        raise LayerticketError(f"the training split of {dataset.name!r} is empty. Give images.")
    if not 0 <= start.epoch < recipe.epochs:
        raise LayerticketError(
            f"start epoch {start.epoch} leaves nothing to train: the recipe has {recipe.epochs} "
            f"epochs. Start at 0 to {recipe.epochs - 1}."
        )
    kept = frozenset(snapshot_epochs)
    if odd := sorted(epoch for epoch in kept if not start.epoch <= epoch <= recipe.epochs):
        raise LayerticketError(
            f"epoch {odd[0]} cannot be saved: this training runs from epoch {start.epoch} to "
            f"{recipe.epochs}."
        )
    if where.metering.wanted and meter is None:
        raise LayerticketError(
            "energy metering is on, but no meter is running. Open one and pass it: "
            "with layerticket.evaluation.energy.metered(where) as (meter, _)."
        )
    return kept


def _settings(
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    start: ResumePoint,
    device: torch.device,
    group: Processes,
    distributed: DistributedOptions,
) -> dict[str, Any]:
    """Return everything that decides a training's result except initial weights, as JSON values."""
    precision = resolve_precision(recipe.precision, device)
    return {
        "recipe": recipe.identity(asdict(dataset.augment), precision),
        "seed": seed,
        "data": dataset.fingerprint,
        "start_epoch": start.epoch,
        "processes": group.count,
        "sync_batch_norm": distributed.sync_batch_norm,
        "revision": TRAINING_REVISION,
    }


def _check_together(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    start: ResumePoint,
    group: Processes,
    meter: object,
    kept: frozenset[int],
    settings: Mapping[str, Any],
) -> None:
    """Raise for options that several processes do not support, or if the processes differ."""
    if meter is not None:
        raise LayerticketError(
            f"energy can be metered for one process only, but {group.count} train together. "
            "Leave out the energy options: the energy is then null."
        )
    images = min(recipe.batch_size, len(dataset.train))
    if group.count > images:
        raise LayerticketError(
            f"a batch of {images} images cannot be divided over {group.count} processes. Start "
            "fewer processes, or use a larger batch_size."
        )
    momentum = tensor_digest({**start.optimizer, **start.average})
    same_on_all_ranks(model, settings=settings, keep=sorted(kept), momentum=momentum)


def _restored(journal: Journal, trainer: Trainer, start: ResumePoint) -> State:
    """Restore the checkpoint, which process 0 reads for all; without one, save epoch `start`."""
    found: list[Snapshot | None] = [None]

    def read() -> State:
        state, found[0] = journal.restore()
        if found[0] is None:
            weights = trainer.model.state_dict()
            more = {"optimizer": start.optimizer, "average": start.average}
            journal.keep(state, Snapshot(epoch=start.epoch, weights=weights, **more))
        return state

    state = trainer.group.on_rank0(read)
    trainer.load(found[0], str(journal.folder / CHECKPOINT))
    return state


def _validated(validate: Callable[[nn.Module], float], model: nn.Module) -> float:
    figure = float(validate(model))
    if not math.isfinite(figure):
        raise TrainingError(f"validate returned {figure}; it must return a finite number.")
    return figure


def _record(
    journal: Journal,
    state: State,
    snapshot: Snapshot,
    track: Callable[[Mapping[str, float | None], int], None],
    *,
    final: bool,
) -> None:
    journal.record(state, snapshot, final=final)
    track(state.metrics(), state.epoch)


def _peak(before: int | None, device: torch.device | None, group: Processes) -> int | None:
    """Return the largest peak memory of all processes and sessions; None if one is unknown."""
    held = None if device is None else peak_memory_bytes(device)
    every = [before, *group.gather(held)]
    known = [one for one in every if one is not None]
    return max(known) if len(known) == len(every) else None


def _check_losses(losses: list[float], trainer: Trainer, epoch: int, first: int) -> None:
    """Raise at the first loss that is not finite."""
    for step, loss in enumerate(losses, start=first):
        if not math.isfinite(loss):
            steps = trainer.steps_per_epoch
            rate = learning_rate_at(trainer.recipe, epoch * steps + step, steps)
            err = TrainingError(
                f"the loss is {loss} in epoch {epoch + 1}, step {step + 1} of {steps}, at learning "
                f"rate {rate:.4g}. {_remedies(trainer.recipe, trainer.device)} The last "
                "checkpoint is in the run's folder."
            )
            raise trainer.group.on_every_rank(err)


def _remedies(recipe: Recipe, device: torch.device) -> str:
    """Return what to try if the loss explodes."""
    tries = []
    if recipe.optimizer == "sgd":
        tries.append("optimizer adamw with learning_rate 0.001, which most timm networks need")
    tries.append(f"learning_rate {recipe.learning_rate / 10:g}")
    if recipe.clip_norm is None:
        tries.append("clip_norm 1")
    if recipe.warmup_epochs < 5 < recipe.epochs:
        tries.append("warmup_epochs 5")
    if resolve_precision(recipe.precision, device) == "bf16":
        tries.append("precision fp32")
    return f"Try {', or '.join(tries)}."
