"""Files of a training: the checkpoint and metrics to resume from, and the saved snapshots."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from layerticket.errors import LayerticketError
from layerticket.files import no_constant, open_to_append, write_atomically
from layerticket.settings import NotNegative, Whole, checked_json, restored

if TYPE_CHECKING:  # `epoch_at` must not import torch, which takes a second
    from torch import Tensor, nn

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
_POINT = re.compile(r"([0-9]{1,9})|([0-9]{1,9}(?:\.[0-9]{1,9})?)%")


def epoch_at(point: str | int, epochs: int) -> int:
    """Return the epoch for a number of epochs or a share of them.

    A share is rounded to the nearest whole epoch, halves down, so that 75 % of two or more epochs
    always leaves an epoch to train.

    Args:
        point: Epochs done, such as 5 or "5", or a share such as "25%".
        epochs: Epochs of the whole training.

    Returns:
        A whole number from 0 to `epochs`.

    Raises:
        LayerticketError: If the point is neither, or out of range.

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
        f"epoch {str(point)[:60]!r} is not in a training of {epochs} epochs. Give a whole epoch "
        f"from 0 to {epochs}, or a share such as 25%."
    )


def epochs_at(points: str | Iterable[str | int], epochs: int) -> tuple[int, ...]:
    """Return the epochs for several points, sorted and without duplicates.

    Args:
        points: As in `epoch_at`; in a text they are separated by commas, "" means none.
        epochs: Epochs of the whole training.

    Raises:
        LayerticketError: If a point is out of range.

    Example:
        >>> epochs_at("0,25%,50%,75%", 4)
        (0, 1, 2, 3)
    """
    if isinstance(points, str):
        points = points.split(",") if points.strip() else ()
    return tuple(sorted({epoch_at(point, epochs) for point in points}))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """Where a training starts if not at epoch 0 of the schedule."""

    epoch: int = 0
    """Epochs of the schedule already done; the rest is trained."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """State of the optimizer as ``parameter/key``; empty: no momentum yet."""
    average: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Running average of the weights by name; empty: it starts at the weights."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """The state of a network after i epochs, theta_i, with everything needed to continue."""

    epoch: int
    """Epochs done, i."""
    weights: Mapping[str, Tensor] = field(repr=False)
    """Parameters and buffers by name."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """State of the optimizer as ``parameter/key``; empty at epoch 0."""
    average: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Running average of parameters and buffers; empty if the recipe has none."""

    @property
    def tested(self) -> Mapping[str, Tensor]:
        """The weights that are tested and scored: the average, if there is one."""
        return self.average or self.weights


class MissingSnapshot(LayerticketError):
    """A training passed an epoch whose snapshot is required but was not saved."""


def snapshot_path(folder: Path, epoch: int) -> Path:
    """Return the path of a run's snapshot after so many epochs."""
    return folder / f"epoch-{epoch:04d}.safetensors"


def require_snapshots(folder: Path, epochs: Iterable[int]) -> None:
    """Raise if a run lacks snapshots.

    Raises:
        MissingSnapshot: If one is missing; the message lists those that exist.
    """
    missing = [epoch for epoch in epochs if not snapshot_path(folder, epoch).exists()]
    if missing:
        there = [int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*")]
        names = ", ".join(map(str, sorted(there))) or "none"
        raise MissingSnapshot(
            f"{folder} has no snapshot of epoch {missing[0]} (saved: {names}). Train again with "
            f"--keep {','.join(map(str, missing))} into another --out folder, or delete this run "
            "and train it again with that option."
        )


def load_snapshot(folder: Path, epoch: int) -> Snapshot:
    """Read the snapshot of a run after i epochs.

    Raises:
        LayerticketError: If the epoch was not saved, or its file is damaged or of another epoch.
    """
    require_snapshots(folder, (epoch,))
    path = snapshot_path(folder, epoch)
    snapshot, _ = read_snapshot(path)
    if snapshot.epoch != epoch:
        raise LayerticketError(
            f"{path} contains another epoch than its name says. Delete the run and train it again."
        )
    return snapshot


def write_snapshot(path: Path, snapshot: Snapshot, facts: Mapping[str, Any]) -> None:
    """Write a snapshot and facts (JSON values) to one file."""
    from layerticket.tensors import save_tensors

    parts = {"model": snapshot.weights, "optimizer": snapshot.optimizer, "ema": snapshot.average}
    tensors = {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}
    save_tensors(path, tensors, {"epoch": snapshot.epoch, **facts})


def read_snapshot(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Read a file of `write_snapshot`; return tensors on the CPU, and the facts."""
    from layerticket.tensors import load_tensors

    tensors, facts = load_tensors(path)
    weights, optimizer, average = (
        {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
        for part in ("model/", "optimizer/", "ema/")
    )
    epoch: int = checked_json(f"{path}: epoch", Whole, facts.get("epoch"))
    return Snapshot(epoch=epoch, weights=weights, optimizer=optimizer, average=average), facts


def copy_weights(weights: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Copy tensors into a model; raise unless all names, shapes and types are equal."""
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
    """Progress of a training after a whole epoch; JSON values."""

    epoch: Whole = 0
    """Epochs of the schedule done."""
    train_loss: float = 0.0
    """Mean loss over the steps of the last epoch."""
    learning_rate: float = 0.0
    """Learning rate of the last step."""
    validation_accuracy: float | None = None
    """Result of `validate` after the last epoch; None without validation."""
    train_seconds: NotNegative = 0.0
    """Seconds of training so far, without validation and checkpoints."""
    images: Whole = 0
    """Training images seen so far."""
    peak_memory_bytes: Whole | None = 0
    """Peak memory so far; None if it could not be measured at some point."""
    data_seconds: NotNegative = 0.0
    """Part of `train_seconds` in which the loop waited for its next batch."""
    energy: dict[str, float | None] | None = None
    """Parts of `Energy` so far; None if a part of the training was not metered."""
    compiled: bool | None = None
    """Whether the steps are compiled, which is decided at the start; None: not decided yet."""

    @property
    def images_per_second(self) -> float:
        """Training images per second so far."""
        return self.images / self.train_seconds if self.train_seconds else 0.0

    def metrics(self) -> dict[str, float | None]:
        """Return the metrics of an epoch."""
        return {
            "train_loss": self.train_loss,
            "learning_rate": self.learning_rate,
            "validation_accuracy": self.validation_accuracy,
            "train_seconds": self.train_seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass(slots=True)
class Journal:
    """The files of one training in one folder; `identity` identifies the training."""

    every_seconds: ClassVar[float] = 5.0
    """Seconds between two checkpoints, at least; each costs as much as several training steps."""

    folder: Path
    """Existing folder of the run."""
    identity: Mapping[str, Any]
    """JSON values that must be equal to resume from a checkpoint."""
    start: int = 0
    """Epoch of the schedule at which the training starts."""
    snapshot_epochs: frozenset[int] = frozenset()
    """Epochs whose snapshots are saved permanently, one file each."""
    _saved: float = field(default=0.0, init=False)
    """When the last checkpoint was written or read, or the training began."""

    def restore(self) -> tuple[State, Snapshot | None]:
        """Read the checkpoint and truncate the metrics to it; without one, return no snapshot.

        Raises if the checkpoint belongs to another training, or is past a missing snapshot.
        """
        path, self._saved = self.folder / CHECKPOINT, time.monotonic()
        if not path.exists():
            write_atomically(self.folder / METRICS, b"")
            return State(epoch=self.start), None
        snapshot, facts = read_snapshot(path)
        found = facts.get("identity") or {}
        if found != json.loads(json.dumps(self.identity)):
            raise LayerticketError(
                f"{path} belongs to another training: {self._difference(found)}. "
                "Use the settings and the machine it was started with, or another folder."
            )
        state = restored(State, facts.get("state"), f"{path}: state")
        require_snapshots(self.folder, sorted(e for e in self.snapshot_epochs if e <= state.epoch))
        self._repair_metrics(state)
        return state, snapshot

    def keep(self, state: State, snapshot: Snapshot) -> None:
        """Write the snapshot of an epoch if it is one of the epochs to save."""
        if state.epoch in self.snapshot_epochs:
            write_snapshot(snapshot_path(self.folder, state.epoch), snapshot, self._facts(state))

    def record(self, state: State, snapshot: Snapshot, *, final: bool) -> None:
        """Append a line of metrics, and save what is due after an epoch.

        A snapshot is saved if it is required. The checkpoint is replaced then, after the final
        epoch, and when the last one is `every_seconds` old.
        """
        required = final or state.epoch in self.snapshot_epochs
        due = required or time.monotonic() - self._saved >= self.every_seconds
        with open_to_append(self.folder / METRICS) as file:
            file.write(_line(state.epoch, state.metrics()).encode())
            file.flush()
            if due:
                os.fsync(file.fileno())  # after a power cut, the curve is as long as the checkpoint
        self.keep(state, snapshot)  # before the checkpoint, which requires it
        if due:
            write_snapshot(self.folder / CHECKPOINT, snapshot, self._facts(state))
            self._saved = time.monotonic()

    def _facts(self, state: State) -> dict[str, Any]:
        return {"identity": dict(self.identity), "state": asdict(state)}

    def _repair_metrics(self, state: State) -> None:
        """Drop lines after the checkpoint; write null for lines lost in a power cut."""
        path, known = self.folder / METRICS, {}
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            try:
                found = json.loads(line, parse_constant=no_constant)
                known[found.pop("epoch")] = found
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        known[state.epoch] = state.metrics()
        nothing = dict.fromkeys(state.metrics())
        epochs = range(self.start + 1, state.epoch + 1)
        write_atomically(path, "".join(_line(e, nothing | known.get(e, {})) for e in epochs))

    def _difference(self, found: Mapping[str, Any]) -> str:
        """Return the first difference between two trainings, in words."""
        for key, mine in self.identity.items():
            if found.get(key) != mine:
                return f"its {key} is {found.get(key)!r}, but {mine!r} is given"
        return "it has settings that this version does not know"


def _line(epoch: int, metrics: Mapping[str, float | None]) -> str:
    return json.dumps({"epoch": epoch, **metrics}, allow_nan=False) + "\n"
