"""States of a training that are worth going back to: which epochs, and the files they lie in.

Enters: epochs, a folder. Leaves: ``epoch-0007.safetensors``, or what is in it. Keeping reads the
training and changes nothing in it. Refuses to know tickets.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from layerticket.errors import LayerticketError
from layerticket.training.checkpoint import read_checkpoint

__all__ = [
    "Kept",
    "NotKept",
    "Start",
    "epoch_at",
    "epochs_at",
    "kept_path",
    "load_kept",
    "require_kept",
]


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
