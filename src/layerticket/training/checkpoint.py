"""What a training leaves on disk: checkpoint and metrics while it runs, snapshots to go back to."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerticket.errors import LayerticketError
from layerticket.files import open_to_append, write_atomically
from layerticket.settings import NotNegative, Whole, checked_json, restored

if TYPE_CHECKING:  # points of a training are names and numbers; torch takes a second to import
    from torch import Tensor, nn

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


_POINT = re.compile(r"([0-9]{1,9})|([0-9]{1,9}(?:\.[0-9]{1,9})?)%")


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
    match = _POINT.fullmatch(str(point).strip())
    if match is not None:
        share = int(match[1]) / epochs if match[2] is None else float(match[2]) / 100
        if share <= 1:
            return math.ceil(round(share * epochs - 0.5, 9)) if match[2] else int(match[1])
    raise LayerticketError(
        f"epoch {str(point)[:60]!r} is no point of a training of {epochs} epochs. Give whole "
        f"epochs from 0 to {epochs}, or a share such as 25%."
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """Where a training begins when it is not at epoch 0 of the schedule."""

    epoch: int = 0
    """Epochs of the schedule that lie behind; those left are trained."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """State of the optimizer as ``parameter/key``; empty: no momentum yet."""
    average: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Running average of the weights by name; empty: it begins at the weights."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """A network in the middle of its training, theta_i, with all that its training goes on with."""

    epoch: int
    """Epochs done, i."""
    weights: Mapping[str, Tensor] = field(repr=False)
    """Parameters and buffers by name."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """State of the optimizer as ``parameter/key``; empty at epoch 0."""
    average: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Running average of parameters and buffers; empty where the recipe has none."""


class NotKept(LayerticketError):
    """A training went past an epoch of which a snapshot was to be kept."""


def snapshot_path(folder: Path, epoch: int) -> Path:
    """File in a run's folder that holds theta after so many epochs."""
    return folder / f"epoch-{epoch:04d}.safetensors"


def require_snapshots(folder: Path, epochs: Iterable[int]) -> None:
    """Refuse a run that lacks snapshots.

    Raises:
        NotKept: If one is missing; the message names those there are.
    """
    missing = [epoch for epoch in epochs if not snapshot_path(folder, epoch).exists()]
    if missing:
        there = [int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*")]
        names = ", ".join(map(str, sorted(there))) or "none"
        raise NotKept(
            f"{folder} did not keep epoch {missing[0]} when it was trained (kept: {names}). Train "
            f"with --keep {','.join(map(str, missing))} into another --out folder, or delete "
            "this run and train it again so."
        )


def load_snapshot(folder: Path, epoch: int) -> Snapshot:
    """Read theta_i of a run.

    Raises:
        LayerticketError: If the epoch was not kept, or its file is damaged or another epoch's.
    """
    require_snapshots(folder, (epoch,))
    path = snapshot_path(folder, epoch)
    snapshot, _ = read_snapshot(path)
    if snapshot.epoch != epoch:
        raise LayerticketError(
            f"{path} holds another epoch than its name says. Delete the run and train it again."
        )
    return snapshot


def write_snapshot(path: Path, snapshot: Snapshot, facts: Mapping[str, Any]) -> None:
    """Write a snapshot and facts (JSON values) as one file."""
    from layerticket.tensors import save_tensors

    parts = {"model": snapshot.weights, "optimizer": snapshot.optimizer, "ema": snapshot.average}
    tensors = {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}
    save_tensors(path, tensors, {"epoch": snapshot.epoch, **facts})


def read_snapshot(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Read a file of `write_snapshot`: tensors on the CPU, and the facts."""
    from layerticket.tensors import load_tensors

    tensors, facts = load_tensors(path)
    weights, optimizer, average = (
        {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
        for part in ("model/", "optimizer/", "ema/")
    )
    epoch: int = checked_json(f"{path}: epoch", Whole, facts.get("epoch"))
    return Snapshot(epoch=epoch, weights=weights, optimizer=optimizer, average=average), facts


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the state of a model under its own tensor names."""
    from layerticket.tensors import save_tensors

    save_tensors(path, model.state_dict(), {})


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy the state in a file into a model, in place; nothing is copied unless all of it fits."""
    from layerticket.tensors import load_tensors

    copy_weights(load_tensors(path)[0], model, str(path))


def copy_weights(weights: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Copy tensors into a model's of equal names, shapes and types; refuse anything less."""
    import torch

    target = model.state_dict()
    odd = sorted(weights.keys() ^ target.keys())
    odd += [
        name
        for name in sorted(weights.keys() & target.keys())
        if (weights[name].shape, weights[name].dtype) != (target[name].shape, target[name].dtype)
    ]
    if odd:
        raise LayerticketError(
            f"{source} does not fit the model: {len(odd)} tensors differ, first {odd[0]!r}. "
            "Build the model that the file was written for, or use another folder."
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            target[name].copy_(tensor)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where a training stands after a whole epoch; JSON values."""

    epoch: Whole = 0
    """Epochs of the schedule done."""
    train_loss: float = 0.0
    """Mean loss over the steps of the last epoch."""
    learning_rate: float = 0.0
    """Learning rate of the last step."""
    validation_accuracy: float | None = None
    """What `validate` returned after the last epoch; None when nothing was validated."""
    train_seconds: NotNegative = 0.0
    """Seconds of training so far, without validation and checkpoints."""
    images: Whole = 0
    """Training images seen so far."""
    peak_memory_bytes: Whole | None = 0
    """Most memory held so far; None when a part of the training could not tell."""
    data_seconds: NotNegative = 0.0
    """Seconds of `train_seconds` in which the loop waited for its next batch."""
    energy: dict[str, float | None] | None = None
    """Parts of `Energy` so far; None when a part of the training was not metered."""

    @property
    def images_per_second(self) -> float:
        """Training images a second so far."""
        return self.images / self.train_seconds if self.train_seconds else 0.0

    def metrics(self) -> dict[str, float | None]:
        """What the curves of a training show of an epoch."""
        return {
            "train_loss": self.train_loss,
            "learning_rate": self.learning_rate,
            "validation_accuracy": self.validation_accuracy,
            "train_seconds": self.train_seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass(frozen=True, slots=True)
class Journal:
    """The files of one training in one folder; `identity` says which training they belong to."""

    folder: Path
    """Existing folder of the run."""
    identity: Mapping[str, Any]
    """What must be equal for a checkpoint to be continued; JSON values."""
    start: int = 0
    """Epoch of the schedule the training begins at."""
    snapshot_epochs: frozenset[int] = frozenset()
    """Epochs of which a snapshot is kept for good, in a file each."""

    def restore(self) -> tuple[State, Snapshot | None]:
        """Read the checkpoint, and bring the metrics in line with it; no snapshot: training begins.

        A checkpoint of another training is refused, and one past an epoch that was not kept.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            write_atomically(self.folder / METRICS, b"")
            return State(epoch=self.start), None
        snapshot, facts = read_snapshot(path)
        found = facts.get("identity") or {}
        if found != json.loads(json.dumps(self.identity)):
            raise LayerticketError(
                f"{path} belongs to another training: {self._difference(found)}. "
                "Use the settings and the machine it was begun with, or another folder."
            )
        state = restored(State, facts.get("state"), f"{path}: state")
        require_snapshots(self.folder, sorted(e for e in self.snapshot_epochs if e <= state.epoch))
        self._mend_metrics(state)
        return state, snapshot

    def keep(self, state: State, snapshot: Snapshot) -> None:
        """Write the file of an epoch of which a snapshot is wanted."""
        if state.epoch in self.snapshot_epochs:
            write_snapshot(snapshot_path(self.folder, state.epoch), snapshot, self._facts(state))

    def record(self, state: State, snapshot: Snapshot) -> None:
        """Append a line of metrics, keep what is to be kept, then replace the checkpoint."""
        with open_to_append(self.folder / METRICS) as file:
            file.write(_line(state.epoch, state.metrics()).encode())
            file.flush()
            os.fsync(file.fileno())  # a checkpoint that outlives a power cut has its curve
        self.keep(state, snapshot)  # first, so that no checkpoint goes without it
        write_snapshot(self.folder / CHECKPOINT, snapshot, self._facts(state))

    def _facts(self, state: State) -> dict[str, Any]:
        return {"identity": dict(self.identity), "state": asdict(state)}

    def _mend_metrics(self, state: State) -> None:
        """Drop lines after the checkpoint; those a power cut took are null, but for the last."""
        path, known = self.folder / METRICS, {}
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            try:
                found = json.loads(line, parse_constant=_no_figure)
                known[found.pop("epoch")] = found
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        known[state.epoch] = state.metrics()
        nothing = dict.fromkeys(state.metrics())
        epochs = range(self.start + 1, state.epoch + 1)
        write_atomically(path, "".join(_line(e, nothing | known.get(e, {})) for e in epochs))

    def _difference(self, found: Mapping[str, Any]) -> str:
        """Name the first thing in which two trainings differ."""
        for key, mine in self.identity.items():
            if found.get(key) != mine:
                return f"its {key} is {found.get(key)!r}, asked for is {mine!r}"
        return "it holds more settings than are known here"


def _line(epoch: int, metrics: Mapping[str, float | None]) -> str:
    return json.dumps({"epoch": epoch, **metrics}, allow_nan=False) + "\n"


def _no_figure(word: str) -> None:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(word)
