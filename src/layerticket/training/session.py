"""Epochs and steps. Enters: a model on its device, images, a recipe. Leaves: the state after them.

Every epoch follows from (seed, epoch) and the state before it, so a training that was interrupted
and resumed ends with the same bits as one that was not. Refuses to know where it is run.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from layerticket.batch import logits_of
from layerticket.data import Dataset, batches
from layerticket.training.checkpoint import fill_optimizer
from layerticket.training.hardware import peak_memory_bytes, seed_epoch
from layerticket.training.journal import Bar, Journal, State, progress_bar
from layerticket.training.keeping import Start
from layerticket.training.metering import Meter, Tally
from layerticket.training.optimizer import make_optimizer
from layerticket.training.recipe import Recipe, learning_rate_at

__all__ = ["Session", "TrainingError"]


class TrainingError(RuntimeError):
    """Training failed while running; the command line exits with 1."""


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
    ) -> None:
        self.model, self.dataset, self.recipe = model, dataset, recipe
        self.seed, self.device, self.accelerator = seed, device, accelerator
        self.train = dataset.train.to(device)
        self.batch_size = min(recipe.batch_size, len(self.train))
        self.steps = len(self.train) // self.batch_size
        self.optimizer: Optimizer = make_optimizer(model, recipe)
        fill_optimizer(model, self.optimizer, start.optimizer)
        objective = _Objective(model, recipe.label_smoothing)
        self.objective: nn.Module = accelerator.prepare_model(objective, device_placement=False)
        # Reading a loss waits for the GPU, so it is seldom done there.
        self.check_every = 50 if device.type == "cuda" else 5

    def run(
        self,
        journal: Journal,
        validate: Callable[[nn.Module], float] | None,
        *,
        progress: bool,
        meter: Meter | None = None,
    ) -> State:
        """Train from the journal's checkpoint, or from its start, to the last epoch."""
        epochs = self.recipe.epochs
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        state = journal.restore(self.model, self.optimizer)
        tally = Tally(meter, state.energy, fresh=state.epoch == journal.start)
        images = self.steps * self.batch_size * (epochs - journal.start)
        with progress_bar(images, epochs, shown=progress) as bar:
            while state.epoch < epochs:
                state = self.epoch(state, bar)
                if validate is not None:
                    state = replace(state, validation_accuracy=float(validate(self.model)))
                state = replace(state, energy=tally.read(final=state.epoch == epochs))
                journal.record(state, self.model, self.optimizer)
        return state

    def epoch(self, state: State, bar: Bar) -> State:
        """Train one epoch and tell where training stands."""
        self.model.train()
        seed_epoch(self.seed, state.epoch, self.device)
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
                losses = torch.stack(pending).tolist()
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
            peak_memory_bytes=max(state.peak_memory_bytes, peak_memory_bytes(self.device)),
        )

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented batches of one epoch, all of one size."""
        return batches(
            self.dataset,
            self.train,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            train=True,
            drop_last=True,
            channels_last=self.recipe.channels_last,
        )

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One update of the weights; the loss stays on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss: Tensor = self.objective(images, labels)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def check(self, losses: list[float], epoch: int, first: int) -> None:
        """Raise at the first loss that is not finite."""
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = first + offset
                rate = learning_rate_at(self.recipe, epoch * self.steps + step, self.steps)
                raise TrainingError(
                    f"the loss is {loss} in epoch {epoch + 1}, step {step + 1} of {self.steps}, "
                    f"at learning rate {rate:.4g}. Lower learning_rate, lengthen warmup_epochs, "
                    "or set precision to fp32; the last whole epoch is kept in the run's folder."
                )
