"""How a network is trained, as one value. Imports no torch: help and refusals come at once."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, Strict

from layerticket.data.sources import POLICIES
from layerticket.errors import LayerticketError
from layerticket.settings import Flag, Many, NotNegative, Positive, Share, settings, to_table

TRAINING_REVISION = 1
"""Raised when the same recipe and seed give other bits than before; part of a training's name."""


@settings
class Recipe:
    """How a network is trained: an optimizer, a schedule, and what is done to images and targets.

    Weight decay leaves out parameters with fewer than two dimensions (norms and biases).
    """

    epochs: Many = 200
    """Passes over the training images."""
    batch_size: Annotated[int, Strict(), Field(ge=1, le=2**20)] = 128
    """Images a step; the few left over at the end of a shuffled epoch are left out of it."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW (Loshchilov and Hutter, ICLR 2019)."""
    learning_rate: Annotated[Positive, Field(le=100)] = 0.1
    """Peak learning rate of the schedule."""
    momentum: Share = 0.9
    """Momentum of SGD, in [0, 1)."""
    nesterov: Flag = True
    """Whether the momentum of SGD looks ahead (Nesterov)."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of AdamW's running mean of gradients and of their squares."""
    weight_decay: Annotated[NotNegative, Field(le=10)] = 5e-4
    """Penalty on weights of two and more dimensions: L2 under SGD, decoupled under AdamW."""
    schedule: Literal["cosine", "step", "onecycle", "constant"] = "cosine"
    """Cosine down to 0; a tenth at 50 % and again at 75 % of all steps; one cycle: a cosine up from
    a 25th of the peak during the warm-up and down to its 250,000th; or constant."""
    warmup_epochs: NotNegative = 0.5
    """Epochs of linear warm-up before the schedule; less than `epochs`."""
    augmentation: Literal["standard", "none", "trivialaugment", "randaugment"] = "standard"
    """What is done to training images at random; standard: crop and mirroring as the data source
    declares; trivialaugment, randaugment: one operation, or two, of torchvision first."""
    mixup: Annotated[NotNegative, Field(le=1000)] = 0.0
    """Alpha of the Beta distribution that two images are mixed by; 0: not mixed."""
    cutmix: Annotated[NotNegative, Field(le=1000)] = 0.0
    """The same for a rectangle of one image pasted into another; 0: nothing is pasted. With mixup
    too, every batch draws one of the two."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes, in [0, 1)."""
    clip_norm: Positive | None = None
    """Largest norm of all gradients together; longer ones are shortened to it."""
    ema_decay: Share = 0.0
    """Decay of the running average of the weights that is judged and kept; 0: no average."""
    drop_path: Share | None = None
    """Rate of stochastic depth in the last residual block, growing in equal steps from 0 in the
    first; by default the rates that the network was built with."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computations; auto: bf16 where the hardware has it, else fp32."""
    channels_last: Flag = True
    """Whether images and weights lie channels last in memory (faster convolutions)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile is used; auto: on CUDA, when the run is long enough to pay for it."""

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise LayerticketError(
                f"warmup_epochs is {self.warmup_epochs:g}; it must be less than epochs, which is "
                f"{self.epochs}."
            )
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise LayerticketError("nesterov is True; it must be off when momentum is 0.")
        if self.schedule == "onecycle" and not self.warmup_epochs:
            raise LayerticketError(
                "warmup_epochs is 0; it must be above 0 for the schedule onecycle, such as 0.3 "
                "times the epochs."
            )

    def identity(self, standard: Mapping[str, Any], precision: str) -> dict[str, Any]:
        """Return what decides how a training ends, as JSON values: its part of a training's name.

        Left out are fields at the value that means "not there", fields that another one makes
        meaningless, and `compile`. Adding a field therefore keeps the names of old trainings.

        Args:
            standard: What the data source declares for `standard` augmentation, such as
                ``{"pad": 4, "flip": True}``.
            precision: What the recipe's precision was resolved to: bf16 or fp32.

        Example:
            >>> recipe = Recipe(epochs=2, warmup_epochs=0)
            >>> recipe.identity({"pad": 1, "flip": False}, "fp32")["augmentation"]
            {'pad': 1}
        """
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        del facts["compile"]
        facts["precision"] = precision
        facts["betas"] = list(self.betas)
        for name in _UNUSED[self.optimizer]:
            del facts[name]
        declared = {name: value for name, value in standard.items() if value}
        if self.augmentation in POLICIES:
            declared |= {"policy": self.augmentation}
        facts["augmentation"] = {} if self.augmentation == "none" else declared
        return {
            name: value
            for name, value in facts.items()
            if name not in _NEUTRAL or value != _NEUTRAL[name]
        }

    def for_epochs(self, epochs: int) -> Self:
        """Return the recipe for another number of epochs; its warm-up changes in proportion.

        Example:
            >>> Recipe(epochs=8, warmup_epochs=1).for_epochs(4).warmup_epochs
            0.5
        """
        share = epochs / self.epochs
        return replace(self, epochs=epochs, warmup_epochs=self.warmup_epochs * share)

    def as_toml(self) -> str:
        """Return the lines of a table that `from_table` reads back; what is None is left out."""
        return tomli_w.dumps(to_table(self))

    def __str__(self) -> str:
        return self.as_toml().rstrip()


_NEUTRAL: Mapping[str, object] = {
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "warmup_epochs": 0.0,
    "augmentation": {},
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "clip_norm": None,
    "ema_decay": 0.0,
    "drop_path": None,
}
"""The value of a field that means "not there". These never change, whatever the defaults do."""
_UNUSED = {"sgd": ("betas",), "adamw": ("momentum", "nesterov")}
"""Fields without a meaning under each optimizer."""


def he2016(epochs: int = 182) -> Recipe:
    """Recipe after He et al. for CIFAR: step schedule, plain momentum, weight decay 1e-4.

    Args:
        epochs: Passes over the training images; 182 passes over 45 000 images are the 64 000
            steps of the paper, and its drops at 32 000 and 48 000 steps are 50 % and 75 %.

    Returns:
        The recipe.

    Raises:
        LayerticketError: If `epochs` is below 1.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
        Differs from the paper: norms and biases are not decayed; no warm-up at any depth.
    """
    return Recipe(
        epochs=epochs, nesterov=False, weight_decay=1e-4, schedule="step", warmup_epochs=0.0
    )


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step.

    With w warm-up steps and T steps in all, step t (from 0) has ``peak * (t + 1) / w`` while
    t < w. Then cosine has ``peak * (1 + cos(pi * (t - w) / (T - w))) / 2``; step has ``peak``
    before T / 2, a tenth of it before 3 T / 4, a hundredth from there on; constant has ``peak``.
    One cycle has ``peak / 25`` at step 0, ``peak`` at w - 1, ``peak / 250000`` at T - 1, and
    halves of a cosine in between, as torch's OneCycleLR.

    Args:
        recipe: The recipe.
        step: Step counted from 0 over the whole training.
        steps_per_epoch: Steps in one epoch.

    Returns:
        The learning rate, in (0, peak].

    Raises:
        LayerticketError: If the step lies outside the training.

    Example:
        >>> recipe = Recipe(epochs=4, schedule="step", warmup_epochs=0)
        >>> [round(learning_rate_at(recipe, step, 1), 6) for step in range(4)]
        [0.1, 0.1, 0.01, 0.001]
    """
    peak, total = recipe.learning_rate, recipe.epochs * steps_per_epoch
    if not 0 <= step < total:
        raise LayerticketError(
            f"step {step} lies outside the training. Steps run from 0 to {total - 1}."
        )
    warmup = recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule == "onecycle":
        top = max(0.0, warmup - 1)  # the step that has the peak
        if step < top:
            return _cosine(peak / 25, peak, step / top)
        return _cosine(peak, peak / 250_000, (step - top) / max(1.0, total - 1 - top))
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)
    if recipe.schedule == "cosine":
        share = (step - warmup) / (total - warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    if recipe.schedule == "step":
        drops = (2 * step >= total) + (4 * step >= 3 * total)
        return peak * (1.0, 0.1, 0.01)[drops]
    return peak


def _cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
