"""The optimizer of a recipe. Enters: a model and a recipe. Leaves: SGD over two groups."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from torch import nn
from torch.optim import SGD

from layerticket.errors import LayerticketError

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "schedule": ("cosine", "step"),
    "precision": ("auto", "bf16", "fp32"),
    "compile": ("auto", "on", "off"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a network is trained: SGD with momentum on mini-batches.

    Weight decay leaves out parameters with fewer than two dimensions (norms and biases).
    """

    epochs: int = 200
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step; the few left over at the end of a shuffled epoch are left out of it."""
    learning_rate: float = 0.1
    """Peak learning rate of the schedule."""
    momentum: float = 0.9
    """Momentum of SGD, in [0, 1)."""
    nesterov: bool = True
    """Whether the momentum looks ahead (Nesterov)."""
    weight_decay: float = 5e-4
    """L2 penalty on weights of two and more dimensions."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Cosine down to 0, or a tenth at 50 % and again at 75 % of all steps."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up before the schedule; less than `epochs`."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in [0, 1)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the mathematics; auto: bf16 where the hardware has it, else fp32."""
    channels_last: bool = True
    """Whether images and weights lie channels last in memory (faster convolutions)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile is used; auto: on CUDA, when the run is long enough to pay for it."""

    def __post_init__(self) -> None:
        for field in fields(self):  # 1 and 1.0 are the same recipe, so they must have the same hash
            if field.type is float or field.type == "float":
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            _check(name, value, isinstance(value, int) and value >= 1, "a whole number from 1 up")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more")
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        below = f"from 0 to less than epochs = {self.epochs}"
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs < self.epochs, below)
        usable = not self.nesterov or self.momentum > 0
        _check("nesterov", self.nesterov, usable, "off when momentum is 0")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            _check(name, value, value in allowed, "one of " + ", ".join(allowed))


def _check(name: str, given: object, holds: bool, allowed: str) -> None:
    """Refuse a field that is out of its range."""
    if not holds:
        raise LayerticketError(
            f"recipe field {name} is {given!r}, but it must be {allowed}. Set {name} accordingly."
        )


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
        epochs=epochs,
        nesterov=False,
        weight_decay=1e-4,
        schedule="step",
        warmup_epochs=0.0,
    )


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step.

    With w warm-up steps and T steps in all, step t (from 0) has ``peak * (t + 1) / w`` while
    t < w; then cosine has ``peak * (1 + cos(pi * (t - w) / (T - w))) / 2``, and step has ``peak``
    before T / 2, a tenth of it before 3 T / 4, a hundredth from there on.

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
    total = recipe.epochs * steps_per_epoch
    if not 0 <= step < total:
        raise LayerticketError(
            f"step {step} lies outside the training. Steps run from 0 to {total - 1}."
        )
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * min(1.0, (step + 1) / warmup)
    if recipe.schedule == "cosine":
        share = (step - warmup) / (total - warmup)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    drops = (2 * step >= total) + (4 * step >= 3 * total)
    return recipe.learning_rate * (1.0, 0.1, 0.01)[drops]


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters by whether weight decay applies.

    Args:
        model: The network; not modified.

    Returns:
        (decayed, kept free): parameters of two and more dimensions, and the rest (norms, biases).

    Raises:
        LayerticketError: If no parameter is trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise LayerticketError(
            "the model has no trainable parameter, so there is nothing to train. "
            "Set requires_grad on the parameters that should learn."
        )
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
    return decayed, [parameter for parameter in trainable if parameter.ndim < 2]


def make_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> SGD:
    """SGD of the recipe; the learning rate is set anew at every step by the loop.

    Args:
        model: The network; not modified.
        recipe: Momentum and weight decay.
        fused: Whether one kernel updates all weights; torch has none for sharded ones.
    """
    decayed, free = parameter_groups(model)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return SGD(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused,
    )
