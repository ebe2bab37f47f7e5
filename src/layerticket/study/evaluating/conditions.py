"""Under what conditions networks are judged, and one thing they are judged on, as values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from layerticket.data import Split
from layerticket.errors import LayerticketError
from layerticket.evaluation import Attack

__all__ = ["Conditions", "Evaluation", "Measure", "Precision", "evaluation", "first_images"]

REVISION = 1  # raise it when the same settings should give other figures
Precision = Literal["auto", "bf16", "fp32"]
Measure = Callable[[nn.Module, Precision, str, float], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """Where files lie, how many images are judged, how networks are attacked."""

    folders: tuple[Path, ...] = ()
    """Where published files of shifted and corrupted images may lie."""
    frost_dir: Path | None = None
    """Folder with the recipe's photographs of frost."""
    resize: bool = False
    """Whether a user's own images of another size are resized."""
    images: int | None = None
    """Only the first so many images of every set; None: all."""
    seed: int = 0
    """Draws corruptions, noise and the starts of attacks; 0 or more."""
    attack: Attack = field(default_factory=Attack)
    """How networks are attacked."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise LayerticketError(f"images is {self.images}; it must be at least 1.")
        if self.seed < 0:
            raise LayerticketError(f"seed is {self.seed}, but it must be 0 or more.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """One thing to judge networks on, checked and ready."""

    name: str
    settings: Mapping[str, Any]
    """All its figures depend on, beside the network."""
    measure: Measure
    """(network, precision, device, clean accuracy) -> figures."""


def first_images(split: Split, images: int | None) -> Split:
    """Keep the first so many images; None keeps all."""
    if images is None or images >= len(split):
        return split
    return Split(images=split.images[:images], labels=split.labels[:images])


def evaluation(name: str, settings: Mapping[str, Any], measure: Measure) -> Evaluation:
    """Put an evaluation together; the revision is part of its settings."""
    return Evaluation(name=name, settings={"revision": REVISION, **settings}, measure=measure)
