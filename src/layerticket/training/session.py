"""Epochs and steps. Enters: a model on its device, images, a recipe. Leaves: the state after them.

Every epoch follows from (seed, epoch) and the state before it, so a training that was interrupted
and resumed ends with the same bits as one that was not. Refuses to know where it is run.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from layerticket.batch import logits_of
from layerticket.data import Dataset, batches
from layerticket.training.checkpoint import fill_optimizer, optimizer_state
from layerticket.training.failure import TrainingError
from layerticket.training.hardware import seed_epoch
from layerticket.training.journal import Bar, Journal, State, figures, progress_bar
from layerticket.training.keeping import Start
from layerticket.training.metering import Meter, Tally
from layerticket.training.optimizer import make_optimizer
from layerticket.training.peak import peak_memory_bytes, restart_peak_memory
from layerticket.training.processes import ALONE, Processes
from layerticket.training.recipe import Recipe, learning_rate_at
from layerticket.training.sharding import bring, send, shard
from layerticket.training.spread import Spread
from layerticket.view import copy_of

__all__ = ["Session"]


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
