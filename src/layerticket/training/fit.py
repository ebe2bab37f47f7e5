"""Training as one call. Enters: a model, labelled images, a recipe, a seed. Leaves: it, trained.

Refuses to know tickets and studies.
"""

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from layerticket.batch import logits_of
from layerticket.data.batches import batches
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError, TrainingError
from layerticket.modules import copy_of
from layerticket.tensors import tensor_digest
from layerticket.training.checkpoint import (
    Bar,
    Journal,
    Start,
    State,
    figures,
    fill_optimizer,
    optimizer_state,
    progress_bar,
)
from layerticket.training.device import (
    Energy,
    Meter,
    Tally,
    compile_pays,
    forked_random_state,
    own_accelerator,
    own_device,
    peak_memory_bytes,
    place,
    repeatable_kernels,
    resolve_precision,
    restart_peak_memory,
    seed_epoch,
)
from layerticket.training.distributed import (
    ALONE,
    Processes,
    Spread,
    bring,
    global_batch_norms,
    processes,
    same_on_all_ranks,
    send,
    shard,
)
from layerticket.training.recipe import Recipe, learning_rate_at
from layerticket.training.trackers import Tracking, tracked


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters by whether weight decay applies.

    Args:
        model: The network; not modified.

    Returns:
        (decayed, kept free): parameters of two and more dimensions, and the rest (norms, biases).

    Raises:
        LayerticketError: If no parameter is trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise LayerticketError(
            "the model has no trainable parameter, so there is nothing to train. "
            "Set requires_grad on the parameters that should learn."
        )
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
    return decayed, [parameter for parameter in trainable if parameter.ndim < 2]


def make_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> SGD:
    """SGD of the recipe; the learning rate is set anew at every step by the loop.

    Args:
        model: The network; not modified.
        recipe: Momentum and weight decay.
        fused: Whether one kernel updates all weights; torch has none for sharded ones.
    """
    decayed, free = parameter_groups(model)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return SGD(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused,
    )


class _Objective(nn.Module):
    """Mean cross-entropy of the model; a shell, so that Accelerate wraps it and not the model."""

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of images (N, C, H, W) with labels (N,), a scalar in nats."""
        logits = logits_of(self.model(images)).float()  # (N, K)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class Session:
    """One call of `fit`: what stays the same from epoch to epoch."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        accelerator: Accelerator,
        start: Start,
        team: Processes = ALONE,
        spread: Spread = Spread(),  # noqa: B008 - frozen
    ) -> None:
        self.model, self.dataset, self.recipe = model, dataset, recipe
        self.seed, self.device, self.accelerator = seed, device, accelerator
        self.train = dataset.train.to(device)
        self.batch_size = min(recipe.batch_size, len(self.train))
        self.steps = len(self.train) // self.batch_size
        self.team, self.part = team, team.part(self.batch_size)
        # Gradients are averaged over processes, whose parts may differ by one image.
        self.weight = team.count * (self.part[1] - self.part[0]) / self.batch_size
        self.optimizer: Optimizer = make_optimizer(model, recipe)
        fill_optimizer(model, self.optimizer, start.optimizer)
        self.stepping, self.sharded = self.optimizer, spread.shard
        objective = _Objective(copy_of(model) if spread.shard else model, recipe.label_smoothing)
        if spread.shard:
            shard(objective, device, team.count)
            self.stepping = make_optimizer(objective.model, recipe, fused=False)
        self.trained = objective.model
        self.objective: nn.Module = accelerator.prepare_model(
            objective, device_placement=False, evaluation_mode=spread.shard
        )
        # Reading a loss waits for the GPU, so it is seldom done there.
        self.check_every = 50 if device.type == "cuda" else 5

    def run(
        self,
        journal: Journal,
        validate: Callable[[nn.Module], float] | None,
        *,
        progress: bool,
        meter: Meter | None = None,
        log: Callable[[Mapping[str, float | None], int], None] = lambda figures, epoch: None,
    ) -> State:
        """Train from the journal's checkpoint, or from its start, to the last epoch."""
        epochs = self.recipe.epochs
        self.peak_known = restart_peak_memory(self.device)
        state = self.restore(journal)
        tally = Tally(meter, state.energy, fresh=state.epoch == journal.start)
        images = self.steps * self.batch_size * (epochs - journal.start)
        with progress_bar(images, epochs, shown=progress) as bar:
            while state.epoch < epochs:
                state = self.epoch(state, bar)
                self.gather()
                if validate is not None:
                    judged = self.team.first(functools.partial(self.judge, validate))
                    state = replace(state, validation_accuracy=judged)
                state = replace(state, energy=tally.read(final=state.epoch == epochs))
                state = self.team.first(functools.partial(self.note, state, journal, log))
        self.level()
        return state

    def restore(self, journal: Journal) -> State:
        """Go back to the checkpoint, which process 0 reads for all."""
        state = self.team.first(lambda: journal.restore(self.model, self.optimizer))
        if self.team.count > 1:
            self.fill(self.model.state_dict())
            momentum = self.team.share(optimizer_state(self.model, self.optimizer))
            fill_optimizer(self.model, self.optimizer, momentum)
        if self.sharded:
            send(self.model, self.optimizer, self.trained, self.stepping)
        return state

    def gather(self) -> None:
        """Bring what lies in parts on many devices together in the model."""
        if self.sharded:
            bring(self.model, self.optimizer, self.trained, self.stepping)

    def judge(self, validate: Callable[[nn.Module], float]) -> float:
        """Validate the model."""
        return float(validate(self.model))

    def note(
        self, state: State, journal: Journal, log: Callable[[Mapping[str, float | None], int], None]
    ) -> State:
        """Write down where training stands, and return it as the one truth for all."""
        journal.record(state, self.model, self.optimizer)
        log(figures(state), state.epoch)
        return state

    def level(self) -> None:
        """Give all processes the buffers of process 0, which alone were validated and saved."""
        if self.team.count > 1:
            self.fill(dict(self.model.named_buffers()))

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the values of process 0 into tensors of every other one."""
        with torch.no_grad():
            for name, value in self.team.share(tensors).items():
                tensors[name].copy_(value)

    def epoch(self, state: State, bar: Bar) -> State:
        """Train one epoch and tell where training stands."""
        self.model.train()
        seed_epoch(self.seed, state.epoch, self.device, self.team.rank)
        start, total, pending = time.perf_counter(), 0.0, []
        rate = waited = 0.0
        supply = self.batches(state.epoch)
        for step in range(1, self.steps + 1):
            asked = time.perf_counter()
            images, labels = next(supply)
            waited += time.perf_counter() - asked
            rate = learning_rate_at(self.recipe, state.epoch * self.steps + step - 1, self.steps)
            pending.append(self.step(images, labels, rate))
            if step % self.check_every == 0 or step == self.steps:
                losses = self.mean(torch.stack(pending)).tolist()
                self.check(losses, state.epoch, step - len(losses))
                total, pending = total + sum(losses), []
                seen, seconds = step * self.batch_size, time.perf_counter() - start
                bar.update(state.images + seen, state, losses[-1], seen / seconds)
        seconds = time.perf_counter() - start
        return replace(
            state,
            epoch=state.epoch + 1,
            train_loss=total / self.steps,
            learning_rate=rate,
            train_seconds=state.train_seconds + seconds,
            data_seconds=state.data_seconds + waited,
            images=state.images + self.steps * self.batch_size,
            peak_memory_bytes=self.peak(state.peak_memory_bytes),
        )

    def peak(self, before: int | None) -> int | None:
        """Most memory any process held, also in sessions before; None if one cannot tell."""
        held = peak_memory_bytes(self.device) if self.peak_known else None
        all_held = [before, *self.team.gather(held)]
        known = [one for one in all_held if one is not None]
        return max(known) if len(known) == len(all_held) else None

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented batches of one epoch, all of one size: this process's part."""
        return batches(
            self.dataset,
            self.train,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            train=True,
            drop_last=True,
            channels_last=self.recipe.channels_last,
            part=self.part,
        )

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One update of the weights; the loss stays on the device."""
        for group in self.stepping.param_groups:
            group["lr"] = rate
        loss: Tensor = self.objective(images, labels)
        if self.weight != 1:
            loss = loss * self.weight
        self.accelerator.backward(loss)
        self.stepping.step()
        self.stepping.zero_grad(set_to_none=True)
        return loss.detach()

    def mean(self, losses: Tensor) -> Tensor:
        """Losses over whole batches; every process sees the same ones."""
        if self.team.count > 1:
            losses = losses / self.team.count
            distributed.all_reduce(losses)
        return losses

    def check(self, losses: list[float], epoch: int, first: int) -> None:
        """Raise at the first loss that is not finite."""
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = first + offset
                rate = learning_rate_at(self.recipe, epoch * self.steps + step, self.steps)
                err = TrainingError(
                    f"the loss is {loss} in epoch {epoch + 1}, step {step + 1} of {self.steps}, "
                    f"at learning rate {rate:.4g}. Lower learning_rate, lengthen warmup_epochs, "
                    "or set precision to fp32; the last whole epoch is kept in the run's folder."
                )
                raise self.team.echoed(err)


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
        "recipe": recipe.identity(asdict(dataset.augment), precision),
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
