"""What a training leaves behind while it runs: metrics, a checkpoint, and a bar on the screen.

Enters: the state after each epoch. Leaves: ``metrics.jsonl``, ``checkpoint.safetensors``, a
progress bar on stderr. Refuses to know how training is done.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim import Optimizer

from layerticket.errors import LayerticketError
from layerticket.files import write_atomically
from layerticket.tensors import load_tensors
from layerticket.training.checkpoint import load_checkpoint, save_checkpoint
from layerticket.training.keeping import kept_path, require_kept

__all__ = ["CHECKPOINT", "METRICS", "Bar", "Journal", "State", "figures", "progress_bar"]

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
