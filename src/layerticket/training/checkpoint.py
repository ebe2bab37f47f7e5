"""What a training leaves behind while it runs: metrics, a checkpoint, and a bar on the screen.

Enters: the state after each epoch. Leaves: ``metrics.jsonl``, ``checkpoint.safetensors``, a
progress bar on stderr. Refuses to know how training is done.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from layerticket.errors import LayerticketError
from layerticket.files import write_atomically
from layerticket.tensors import load_tensors, save_tensors


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the state of a model under its own tensor names.

    Args:
        path: File to write.
        model: Any model whose state is tensors; not modified.

    Raises:
        LayerticketError: If part of the state is not a tensor.
    """
    save_tensors(path, model.state_dict(), {})


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy the state in a file into a model, in place; nothing is copied unless all of it fits.

    Args:
        path: File of `save_weights`.
        model: Model of the same architecture.

    Raises:
        LayerticketError: If the file is damaged or belongs to another architecture.
    """
    tensors, _ = load_tensors(path)
    _copy(path, tensors, model.state_dict())


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, facts: Mapping[str, Any]
) -> None:
    """Write model, optimizer and facts as one file.

    Args:
        path: File to write.
        model: Any model whose state is tensors; not modified.
        optimizer: Optimizer over parameters of the model; not modified.
        facts: JSON values, finite.

    Raises:
        LayerticketError: If part of the state is not a tensor.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    state = optimizer_state(model, optimizer)
    tensors |= {f"optimizer/{name}": value for name, value in state.items()}
    save_tensors(path, tensors, facts)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Copy a checkpoint into model and optimizer, in place.

    Args:
        path: File of `save_checkpoint`.
        model: Model of the same architecture.
        optimizer: Optimizer over the same parameters.

    Returns:
        The facts.

    Raises:
        LayerticketError: If the file is damaged or belongs to another architecture.
    """
    weights, momentum, facts = read_checkpoint(path)
    _copy(path, weights, model.state_dict())
    fill_optimizer(model, optimizer, momentum)
    return facts


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint without a model to put it in.

    Args:
        path: File of `save_checkpoint`.

    Returns:
        Parameters and buffers by name, the optimizer's state as ``parameter/key``, the facts.

    Raises:
        LayerticketError: If the file is damaged.
    """
    tensors, facts = load_tensors(path)
    weights, momentum = (
        {name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)}
        for kind in ("model/", "optimizer/")
    )
    return weights, momentum, facts


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as ``parameter/key``; the tensors are its own, not copies.

    Args:
        model: Model the optimizer works on.
        optimizer: Not modified.
    """
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def fill_optimizer(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Copy an optimizer's state into an optimizer, in place, in the layout of the parameters.

    Args:
        model: Model the optimizer works on.
        optimizer: Optimizer to fill.
        state: Tensors as ``parameter/key``, as `read_checkpoint` gives them.

    Raises:
        LayerticketError: If a parameter is not in the model or has another shape.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        owner, _, key = name.rpartition("/")
        if owner not in parameters or (tensor.ndim and tensor.shape != parameters[owner].shape):
            raise LayerticketError(
                f"optimizer state {name!r} of shape {tuple(tensor.shape)} fits no parameter of "
                "the model. Build the model that it was written for."
            )
        like = parameters[owner] if tensor.ndim else tensor
        optimizer.state[parameters[owner]][key] = torch.empty_like(like).detach().copy_(tensor)


def _copy(path: Path, stored: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into equal-named ones of equal shape and type; refuse anything less."""
    odd = sorted(stored.keys() ^ target.keys())
    odd += [
        name
        for name in sorted(stored.keys() & target.keys())
        if (stored[name].shape, stored[name].dtype) != (target[name].shape, target[name].dtype)
    ]
    if odd:
        raise LayerticketError(
            f"{path} does not fit the model: {len(odd)} tensors differ, first {odd[0]!r}. "
            "Build the model that the file was written for, or use another folder."
        )
    with torch.no_grad():
        for name, tensor in stored.items():
            target[name].copy_(tensor)


class NotKept(LayerticketError):
    """A training went past an epoch that was to be kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where a training begins when it is not at epoch 0 of the schedule."""

    epoch: int = 0
    """Epochs of the schedule that lie behind; those left are trained."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the optimizer as ``parameter/key``; empty: no momentum yet."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kept:
    """A network in the middle of its training, theta_i, with its optimizer."""

    epoch: int
    """Epochs done, i."""
    weights: Mapping[str, Tensor]
    """Parameters and buffers by name, on the CPU."""
    optimizer: Mapping[str, Tensor]
    """State of the optimizer as ``parameter/key``; empty at epoch 0."""


def epoch_at(point: str | int, epochs: int) -> int:
    """Epoch for a point of a training: a number of epochs, or a share of them.

    A share is rounded to the nearest whole epoch, halves down, so that 75 % of two epochs or more
    always leave something to train.

    Args:
        point: Epochs done, such as 5 or "5", or a share such as "25%".
        epochs: Epochs of the whole training.

    Returns:
        A whole number from 0 to `epochs`.

    Raises:
        LayerticketError: If the point is something else.

    Example:
        >>> [epoch_at(point, 30) for point in (0, "25%", "50%", "100%")]
        [0, 7, 15, 30]
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", str(point).strip())
    if match is not None:
        share = int(match[1]) / epochs if match[2] is None else float(match[2]) / 100
        if share <= 1:
            return math.ceil(round(share * epochs - 0.5, 9)) if match[2] else int(match[1])
    raise LayerticketError(
        f"epoch {point!r} is no point of a training of {epochs} epochs. Give whole epochs from 0 "
        f"to {epochs}, or a share such as 25%."
    )


def epochs_at(points: str | Iterable[str | int], epochs: int) -> tuple[int, ...]:
    """Epochs for several points, in order, each once.

    Args:
        points: As in `epoch_at`; a text holds them separated by commas, "" none.
        epochs: Epochs of the whole training.

    Raises:
        LayerticketError: As in `epoch_at`.

    Example:
        >>> epochs_at("0,25%,50%,75%", 4)
        (0, 1, 2, 3)
    """
    if isinstance(points, str):
        points = points.split(",") if points.strip() else ()
    return tuple(sorted({epoch_at(point, epochs) for point in points}))


def kept_path(folder: Path, epoch: int) -> Path:
    """File in a run's folder that holds theta after so many epochs."""
    return folder / f"epoch-{epoch:04d}.safetensors"


def require_kept(folder: Path, epochs: Iterable[int]) -> None:
    """Refuse a run that lacks epochs which were to be kept.

    Raises:
        NotKept: If one is missing; the message names those there are.
    """
    missing = [epoch for epoch in epochs if not kept_path(folder, epoch).exists()]
    if missing:
        there = [int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*")]
        names = ", ".join(map(str, sorted(there))) or "none"
        raise NotKept(
            f"{folder} did not keep epoch {missing[0]} when it was trained (kept: {names}). Train "
            f"with --keep {','.join(map(str, missing))} into another --out folder, or delete "
            "this run and train it again so."
        )


def load_kept(folder: Path, epoch: int) -> Kept:
    """Read theta_i of a run.

    Raises:
        LayerticketError: If the epoch was not kept, or its file is damaged or another epoch's.
    """
    require_kept(folder, (epoch,))
    path = kept_path(folder, epoch)
    weights, optimizer, facts = read_checkpoint(path)
    if facts.get("state", {}).get("epoch") != epoch:
        raise LayerticketError(
            f"{path} holds another epoch than its name says. Delete the run and train it again."
        )
    return Kept(epoch=epoch, weights=weights, optimizer=optimizer)


CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
# What an identity means that does not tell: one process, each batch norm for itself.
_FEWER = {"processes": 1, "shard": False, "sync_batch_norm": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where a training stands after a whole epoch."""

    epoch: int = 0
    """Epochs of the schedule done."""
    train_loss: float = 0.0
    """Mean loss over the steps of the last epoch."""
    learning_rate: float = 0.0
    """Learning rate of the last step."""
    validation_accuracy: float | None = None
    """What `validate` returned after the last epoch; None when nothing was validated."""
    train_seconds: float = 0.0
    """Seconds of training so far, without validation and checkpoints."""
    images: int = 0
    """Training images seen so far."""
    peak_memory_bytes: int | None = 0
    """Most memory held so far; None when a part of the training could not tell."""
    data_seconds: float = 0.0
    """Seconds of `train_seconds` in which the loop waited for its next batch."""
    energy: dict[str, float | None] | None = None
    """Parts of `Energy` so far; None when a part of the training was not metered."""

    @property
    def images_per_second(self) -> float:
        """Training images a second so far."""
        return self.images / self.train_seconds if self.train_seconds else 0.0


def figures(state: State) -> dict[str, float | None]:
    """What there is to tell after an epoch."""
    return {
        "train_loss": state.train_loss,
        "learning_rate": state.learning_rate,
        "validation_accuracy": state.validation_accuracy,
        "train_seconds": state.train_seconds,
        "images_per_second": state.images_per_second,
    }


@dataclass(frozen=True, slots=True)
class Journal:
    """The files of one training in one folder; `identity` says which training they belong to."""

    folder: Path
    """Existing folder of the run."""
    identity: dict[str, Any]
    """What must be equal for a checkpoint to be continued; JSON values."""
    start: int = 0
    """Epoch of the schedule the training begins at."""
    keep: frozenset[int] = field(default_factory=frozenset)
    """Epochs whose state is kept for good, in a file each."""

    def restore(self, model: nn.Module, optimizer: Optimizer) -> State:
        """Fill model and optimizer from the checkpoint, and cut the metrics back to it.

        Returns:
            The state to go on from; that of a fresh start if there is no checkpoint.

        Raises:
            LayerticketError: If the folder is damaged or belongs to another training, or an epoch
                to keep lies behind and was not kept.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            write_atomically(self.folder / METRICS, b"")
            state = State(epoch=self.start)
            self._keep(state, model, optimizer)
            return state
        found = load_tensors(path)[1]
        if _FEWER | (found.get("identity") or {}) != _FEWER | self.identity:
            raise LayerticketError(
                f"{path} belongs to another training: {self._differences(found)}. "
                "Use the settings and the machine it was begun with, or another folder."
            )
        state = State(**load_checkpoint(path, model, optimizer)["state"])
        require_kept(self.folder, sorted(e for e in self.keep if e <= state.epoch))
        self._cut_metrics(state.epoch)
        return state

    def record(self, state: State, model: nn.Module, optimizer: Optimizer) -> None:
        """Append a line of metrics, keep what is to be kept, then replace the checkpoint."""
        line = {"epoch": state.epoch, **figures(state)}
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self._keep(state, model, optimizer)  # first, so that no checkpoint goes without it
        save_checkpoint(self.folder / CHECKPOINT, model, optimizer, self._facts(state))

    def _keep(self, state: State, model: nn.Module, optimizer: Optimizer) -> None:
        """Write the file of an epoch that is to be kept."""
        if state.epoch in self.keep:
            path = kept_path(self.folder, state.epoch)
            save_checkpoint(path, model, optimizer, self._facts(state))

    def _facts(self, state: State) -> dict[str, Any]:
        return {"identity": self.identity, "state": asdict(state)}

    def _cut_metrics(self, epoch: int) -> None:
        """Drop lines written after the checkpoint, whole or torn."""
        path, epochs = self.folder / METRICS, epoch - self.start
        lines = path.read_bytes().split(b"\n")[:epochs] if path.exists() else []
        try:
            known = [json.loads(line)["epoch"] for line in lines]
        except (ValueError, KeyError, TypeError):
            known = []
        if known != list(range(self.start + 1, epoch + 1)):
            raise LayerticketError(
                f"{path} does not hold the {epochs} epochs of the checkpoint beside it. "
                "Delete the folder and train again."
            )
        write_atomically(path, b"".join(line + b"\n" for line in lines))

    def _differences(self, found: dict[str, Any]) -> str:
        """Name the first thing in which two trainings differ."""
        other = _FEWER | (found.get("identity") or {})
        for key, mine in (_FEWER | self.identity).items():
            if other.get(key) != mine:
                return f"its {key} is {other.get(key)!r}, asked for is {mine!r}"
        return "it holds more settings than are known here"


@dataclass(frozen=True, slots=True)
class Bar:
    """A progress bar over all images of a training."""

    _progress: Progress
    _task: Any

    def update(self, images: int, state: State, loss: float, rate: float) -> None:
        """Show images seen so far, the loss, and images a second."""
        self._progress.update(
            self._task, completed=images, epoch=state.epoch + 1, loss=loss, rate=rate
        )


@contextmanager
def progress_bar(images: int, epochs: int, *, shown: bool) -> Iterator[Bar]:
    """Open a progress bar on stderr.

    Args:
        images: Training images of all epochs together.
        epochs: Epochs in all.
        shown: Whether anything is drawn.

    Yields:
        The bar.
    """
    columns = (
        TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        yield Bar(progress, progress.add_task("", total=images, epoch=1, loss=0.0, rate=0.0))
