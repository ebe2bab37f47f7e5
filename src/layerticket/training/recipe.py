"""The recipe: the settings of a training. Imports no torch, so that help and errors are fast."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, Strict

from layerticket.data.sources import POLICIES
from layerticket.display import table_html
from layerticket.errors import LayerticketError
from layerticket.settings import Flag, Many, NotNegative, Positive, Share, settings, to_table

TRAINING_REVISION = 1
"""Increased when the same recipe and seed give new bits; part of a training's name."""


@settings
class Recipe:
    """How a network is trained: optimizer, schedule, augmentation of images and targets.

    Weight decay does not apply to parameters with fewer than two dimensions (norms and biases).
    """

    epochs: Many = 200
    """Passes over the training images."""
    batch_size: Annotated[int, Strict(), Field(ge=1, le=2**20)] = 128
    """Images per step; the incomplete last batch of a shuffled epoch is skipped."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW (Loshchilov and Hutter, ICLR 2019)."""
    learning_rate: Annotated[Positive, Field(le=100)] = 0.1
    """Peak learning rate of the schedule."""
    momentum: Share = 0.9
    """Momentum of SGD, in [0, 1)."""
    nesterov: Flag = True
    """Whether SGD uses Nesterov momentum."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of AdamW's running means of gradients and of their squares."""
    weight_decay: Annotated[NotNegative, Field(le=10)] = 5e-4
    """Weight decay of parameters with two or more dimensions: L2 for SGD, decoupled for AdamW."""
    schedule: Literal["cosine", "step", "onecycle", "constant"] = "cosine"
    """cosine: down to 0; step: a tenth at 50 % and again at 75 % of all steps; onecycle: a cosine
    up from 1/25 of the peak during the warm-up, then down to 1/250,000 of it; or constant."""
    warmup_epochs: NotNegative = 0.5
    """Epochs of linear warm-up before the schedule; less than `epochs`."""
    augmentation: Literal["standard", "none", "trivialaugment", "randaugment"] = "standard"
    """Random changes of training images; standard: crop and mirroring as the data source
    declares; trivialaugment, randaugment: first one or two operations of torchvision."""
    mixup: Annotated[NotNegative, Field(le=1000)] = 0.0
    """Alpha of the Beta distribution for mixing two images; 0: off."""
    cutmix: Annotated[NotNegative, Field(le=1000)] = 0.0
    """Alpha for pasting a rectangle of one image into another; 0: off. With mixup, every batch
    uses one of the two at random."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes, in [0, 1)."""
    clip_norm: Positive | None = None
    """Largest total norm of all gradients; larger gradients are scaled down to it."""
    ema_decay: Share = 0.0
    """Decay of the running average of the weights, which is tested and saved; 0: no average."""
    drop_path: Share | None = None
    """Drop-path rate of the last residual block, growing linearly from 0 in the first; by default
    the rates of the network as built."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the computations; auto: bf16 where the hardware has it, else fp32."""
    channels_last: Flag = True
    """Whether images and weights are channels-last in memory (faster convolutions)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to use torch.compile; auto: if the steps save twice the time of compiling."""
    cuda_graph: Flag = True
    """Whether all kernels of a step are launched at once, as a CUDA graph (one GPU process)."""

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise LayerticketError(
                f"warmup_epochs is {self.warmup_epochs:g}; it must be less than epochs, which is "
                f"{self.epochs}."
            )
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise LayerticketError(
                "nesterov is True, but momentum is 0. Set nesterov to False, or give a momentum."
            )
        if self.schedule == "onecycle" and not self.warmup_epochs:
            raise LayerticketError(
                "warmup_epochs is 0; for the schedule onecycle it must be above 0. Give, for "
                "example, 0.3 times the epochs."
            )

    def facts(self) -> dict[str, Any]:
        """Return the fields that decide a training's result, by name.

        Left out are `compile`, `cuda_graph` and fields without effect.
        """
        unused = {"compile", "cuda_graph", *_UNUSED[self.optimizer]}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unused}

    def identity(self, standard: Mapping[str, Any], precision: str) -> dict[str, Any]:
        """Return the recipe's part of a training's identity, as JSON values.

        These are the `facts` without those at their neutral value. So adding a field keeps the
        names of old trainings.

        Args:
            standard: The data source's `standard` augmentation, such as
                ``{"pad": 4, "flip": True}``.
            precision: The precision used: bf16 or fp32.

        Example:
            >>> recipe = Recipe(epochs=2, warmup_epochs=0)
            >>> recipe.identity({"pad": 1, "flip": False}, "fp32")["augmentation"]
            {'pad': 1}
        """
        facts = self.facts() | {"precision": precision}
        if "betas" in facts:
            facts["betas"] = list(self.betas)
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
        """Return the recipe for another number of epochs; the warm-up is scaled in proportion.

        Example:
            >>> Recipe(epochs=8, warmup_epochs=1).for_epochs(4).warmup_epochs
            0.5
        """
        share = epochs / self.epochs
        return replace(self, epochs=epochs, warmup_epochs=self.warmup_epochs * share)

    def __str__(self) -> str:
        """Return the recipe as lines of TOML; None values are left out."""
        return tomli_w.dumps(to_table(self)).rstrip()

    def _repr_html_(self) -> str:
        return table_html((), list(to_table(self).items()))


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
"""Neutral values: "not used". They never change, even if defaults do."""
_UNUSED = {"sgd": ("betas",), "adamw": ("momentum", "nesterov")}
"""Fields without effect, by optimizer."""


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
    """Return the learning rate of one step.

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
        LayerticketError: If the step is outside the training.

    Example:
        >>> recipe = Recipe(epochs=4, schedule="step", warmup_epochs=0)
        >>> [round(learning_rate_at(recipe, step, 1), 6) for step in range(4)]
        [0.1, 0.1, 0.01, 0.001]
    """
    peak, total = recipe.learning_rate, recipe.epochs * steps_per_epoch
    if not 0 <= step < total:
        raise LayerticketError(
            f"step {step} is outside the training. Steps run from 0 to {total - 1}."
        )
    warmup = recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule == "onecycle":
        top = max(0.0, warmup - 1)  # the step at the peak
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
    """Interpolate from start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
