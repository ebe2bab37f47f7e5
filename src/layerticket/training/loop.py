"""Training as one call. Enters: a model, labelled images, a recipe, a seed. Leaves: it, trained.

Refuses to know tickets and studies.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.tensors import tensor_digest
from layerticket.training.agreement import same_on_all_ranks
from layerticket.training.failure import TrainingError
from layerticket.training.hardware import (
    compile_pays,
    forked_random_state,
    own_accelerator,
    own_device,
    place,
    repeatable_kernels,
    resolve_precision,
)
from layerticket.training.journal import Journal, State
from layerticket.training.keeping import Start
from layerticket.training.launch import processes
from layerticket.training.metering import Energy, Meter
from layerticket.training.processes import Processes
from layerticket.training.recipe import Recipe
from layerticket.training.session import Session
from layerticket.training.spread import Spread, global_batch_norms
from layerticket.training.tracking import Tracking, tracked

__all__ = ["FitResult", "TrainingError", "fit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What a training took and how it ended."""

    epochs: int
    """Passes over the training images; of a training that began at epoch i, those since."""
    train_seconds: float
    """Seconds of training over all sessions, without validation and checkpoints."""
    images_per_second: float
    """Training images seen, divided by `train_seconds`."""
    peak_memory_bytes: int | None
    """Peak of this training alone: of torch's allocator on a GPU, of the resident memory of the
    process on a CPU; of several processes, that of the largest. None where the system cannot tell
    it from what the process did before."""
    final_train_loss: float
    """Mean loss over the steps of the last epoch, in nats."""
    validation_accuracy: float | None
    """What `validate` returned after the last epoch; None when nothing was validated."""
    precision: str
    """Precision that was used: bf16 or fp32."""
    device: str
    """Device that was used: cpu, or the GPU's number."""
    data_seconds: float = 0.0
    """Seconds of `train_seconds` in which the loop waited for its next batch."""
    energy: Energy | None = None
    """Energy of training and validation over all sessions; None when a part was not metered."""
    processes: int = 1
    """How many processes trained together."""


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,
    validate: Callable[[nn.Module], float] | None = None,
    start: Start = Start(),  # noqa: B008 - frozen
    keep_epochs: Iterable[int] = (),
    device: str = "auto",
    progress: bool = True,
    meter: Meter | None = None,
    spread: Spread = Spread(),  # noqa: B008 - frozen
    tracking: Tracking = Tracking(),  # noqa: B008 - frozen
) -> FitResult:
    """Train a model in place: changing the caller's model is what this function is for.

    Afterwards the model is trained, on the device, in the recipe's memory format; its train/eval
    modes and torch's random state are as before. The folder holds ``metrics.jsonl`` (one line an
    epoch) and ``checkpoint.safetensors`` (the last whole epoch); if a checkpoint is there, training
    goes on from it. Interrupting with Ctrl-C loses only the epoch that was running.

    Started in several processes, each takes its part of every batch of `recipe.batch_size` images;
    process 0 validates and writes. A folder is gone on with by as many processes as began it.

    Args:
        model: Network from images (N, C, H, W) to logits (N, K); the same on every process.
        dataset: Its training split is trained on; moved to the device as a whole.
        recipe: How to train.
        seed: Decides shuffling, augmentation and dropout, together with the epoch.
        folder: Folder of this run; made if missing.
        validate: Called with the model after every epoch; its figure is logged, nothing more.
        start: Epoch i of the schedule to begin at, and the optimizer's state there: learning
            rates, order and augmentation are those of epochs i to n - 1 of a whole training.
        keep_epochs: Epochs after which weights and optimizer are kept for good, as
            ``epoch-0007.safetensors``; 0 is the beginning. Changes nothing in the training.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether a progress bar is drawn on stderr.
        meter: Running meter of energy; None: energy is not measured.
        spread: Choices for several processes; a sharded model stays on the CPU.
        tracking: Trackers that curves are sent to; changes nothing in the training.

    Returns:
        What it took.

    Raises:
        LayerticketError: If the device is absent, the split is empty, nothing is trainable, the
            folder belongs to another training, an epoch is out of range, or processes disagree.
        TrainingError: If the loss is not finite; the checkpoint of the epoch before stays.
    """
    if not len(dataset.train):
        raise LayerticketError(f"the training split of {dataset.name!r} is empty. Give images.")
    keep = _checked(start.epoch, keep_epochs, recipe.epochs)
    steps = max(1, len(dataset.train) // recipe.batch_size) * (recipe.epochs - start.epoch)
    with ExitStack() as stack:
        team = stack.enter_context(processes(device))
        where = own_device(device, team)
        precision = resolve_precision(recipe.precision, where)
        compiled = compile_pays(recipe.compile, steps, where)
        spread.check(team, where)
        identity = _identity(dataset, recipe, seed, precision, start)
        if team.count > 1:
            _check_shared(team, dataset, recipe, meter)
            identity |= {"processes": team.count, **asdict(spread)}
            momentum = tensor_digest(start.optimizer)
            same_on_all_ranks(model, settings=identity, keep=sorted(keep), momentum=momentum)
        team.first(lambda: folder.mkdir(parents=True, exist_ok=True))
        stack.enter_context(repeatable_kernels())
        stack.enter_context(forked_random_state(where))
        stack.enter_context(_modes_restored(model))
        home = torch.device("cpu") if spread.shard else where
        place(model, home, channels_last=recipe.channels_last and not spread.shard)
        stack.enter_context(global_batch_norms(model, wanted=spread.sync_batch_norm))
        more = {"count": team.count, **tracking.options(folder)}
        accelerator = stack.enter_context(
            own_accelerator(where, precision, compiled=compiled, **more)
        )
        session = Session(model, dataset, recipe, seed, where, accelerator, start, team, spread)
        journal = Journal(folder, identity, start.epoch, keep)
        log = stack.enter_context(tracked(accelerator, tracking, folder, identity))
        shown = progress and team.rank == 0
        state = session.run(journal, validate, progress=shown, meter=meter, log=log)
    return _result(state, start, precision, where, team)


def _identity(
    dataset: Dataset, recipe: Recipe, seed: int, precision: str, start: Start
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued."""
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "data": dataset.fingerprint,
        "precision": precision,
        "start_epoch": start.epoch,
    }


def _result(
    state: State, start: Start, precision: str, where: torch.device, team: Processes
) -> FitResult:
    """Put together what a training took."""
    return FitResult(
        epochs=state.epoch - start.epoch,
        train_seconds=state.train_seconds,
        images_per_second=state.images_per_second,
        peak_memory_bytes=state.peak_memory_bytes,
        final_train_loss=state.train_loss,
        validation_accuracy=state.validation_accuracy,
        precision=precision,
        device=str(where),
        data_seconds=state.data_seconds,
        energy=None if state.energy is None else Energy(**state.energy),
        processes=team.count,
    )


def _check_shared(team: Processes, dataset: Dataset, recipe: Recipe, meter: Meter | None) -> None:
    """Refuse what several processes cannot do together."""
    if meter is not None:
        raise LayerticketError(
            f"energy is metered in one process, but {team.count} train together. Leave out the "
            "energy options: the figures are null then."
        )
    images = min(recipe.batch_size, len(dataset.train))
    if team.count > images:
        raise LayerticketError(
            f"a batch of {images} images cannot be divided over {team.count} processes. Start "
            "fewer, or make batch_size larger."
        )


def _checked(start: int, keep: Iterable[int], epochs: int) -> frozenset[int]:
    """Refuse a start that leaves nothing to train, and epochs that never come."""
    if not 0 <= start < epochs:
        raise LayerticketError(
            f"training is to begin at epoch {start} of {epochs}, which leaves nothing to train; "
            f"allowed are 0 to {epochs - 1}."
        )
    kept = frozenset(keep)
    if odd := sorted(epoch for epoch in kept if not start <= epoch <= epochs):
        raise LayerticketError(
            f"epoch {odd[0]} cannot be kept: this training goes from {start} to {epochs}."
        )
    return kept


@contextmanager
def _modes_restored(model: nn.Module) -> Iterator[None]:
    """Bring back train or eval mode of every module."""
    before = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
