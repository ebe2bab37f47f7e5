"""What decides how a run ends, as one frozen value; its hash names the run's folder."""

import re
from dataclasses import asdict, dataclass, field

from layerticket.errors import LayerticketError
from layerticket.files import digest
from layerticket.training import Recipe

__all__ = ["RunConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides how a run ends; each field is part of its hash."""

    model: str
    """Network by name."""
    data: str
    """Data set by name."""
    data_fingerprint: str
    """SHA-256 over all images and labels."""
    validation_fraction: float
    """Share of the training images set aside, in [0, 1)."""
    ticket: str = ""
    """SHA-256 of the ticket; empty for the dense network."""
    initialization: str = "seed"
    """Where the first weights come from: `ticket`, `seed` (drawn from the seed below), or `seed N`
    (drawn from N, so that the order of the images is as in the runs it is compared with)."""
    start_epoch: int = 0
    """Epochs of the schedule that lie behind when training begins; above 0 for a rewound ticket."""
    recipe: Recipe = field(default_factory=Recipe)
    """How it is trained."""
    seed: int = 0
    """Seed of initialization, shuffling, augmentation and dropout; 0 or more."""
    schema: int = 1
    """Version of this list of fields."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "validation_fraction", float(self.validation_fraction))
        if not 0 <= self.validation_fraction < 1:
            raise LayerticketError(
                f"validation_fraction is {self.validation_fraction}, but it must be in [0, 1)."
            )
        if not 0 <= self.start_epoch < self.recipe.epochs:
            raise LayerticketError(
                f"start_epoch is {self.start_epoch}, but it must be below the "
                f"{self.recipe.epochs} epochs of the recipe and 0 or more."
            )
        if self.seed < 0:
            raise LayerticketError(f"seed is {self.seed}, but it must be 0 or more.")

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return digest(asdict(self))

    @property
    def name(self) -> str:
        """Name of the run's folder: readable, and as unique as 48 bits of the hash."""
        kind = f"ticket-{self.ticket[:6]}" if self.ticket else "dense"
        readable = f"{self.model}-{self.data}-{kind}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', readable)}-{self.digest[:12]}"
