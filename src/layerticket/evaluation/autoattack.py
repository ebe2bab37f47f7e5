"""AutoAttack by its authors' code, with its own random state."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.errors import LayerticketError, need
from layerticket.modules import preserved_random_state

PRESETS = {
    "standard": ["apgd-ce", "apgd-t", "fab-t", "square"],
    "cheap": ["apgd-ce", "apgd-t"],
}
FEWEST_CLASSES = 4  # the targeted loss compares four logits
TARGETS = 9
SLACK = 1e-6  # rounding of float32


def require_autoattack(classes: int) -> Any:  # noqa: ANN401 - an optional module
    """Import pyautoattack; if it is missing, raise an error that says how to install it.

    Raises:
        LayerticketError: If it is not installed, or there are too few classes for its attacks.
    """
    if classes < FEWEST_CLASSES:
        raise LayerticketError(
            f"AutoAttack needs at least {FEWEST_CLASSES} classes, but there are {classes}. Use pgd."
        )
    return need("pyautoattack", extra="attacks", why="AutoAttack needs pyautoattack")


def autoattack(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    preset: Literal["standard", "cheap"],
    classes: int,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Attack by the standard ensemble in the maximum norm, or by its two cheap attacks.

    The attacked images are checked: inside the budget and [0, 1], and classified again. Cost: up
    to about 8,000 forward passes per batch (standard), 1,000 (cheap).

    Args:
        network: Pixels (N, C, H, W) in [0, 1] to logits (N, K), in eval mode.
        images: (N, C, H, W) float32.
        labels: (N,) int64.
        epsilon: Largest change of a value, with white at 1.
        preset: "standard": APGD on cross-entropy, targeted APGD, targeted FAB, Square; "cheap":
            the first two.
        classes: K.
        seed: Seed of the random starts.
        batch_size: Images per batch.

    Returns:
        Which images (N,) are classified correctly after the attack.

    Raises:
        LayerticketError: If pyautoattack is not installed, or K is below 4.
        RuntimeError: If the library exceeded the budget.

    References:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks", ICML 2020. arXiv:2003.01690. For fewer than ten classes, the
        targeted attacks use all other classes.
    """
    module = require_autoattack(classes)
    with preserved_random_state(seed):
        attack = module.AutoAttack(
            network,
            norm="Linf",
            eps=epsilon,
            version="custom",
            attacks=PRESETS[preset],
            device=images.device,
            seed=seed,
        )
        for targeted in (attack.apgd_targeted, attack.fab):
            targeted.n_target_classes = min(TARGETS, classes - 1)
        attacked = attack.run_standard_evaluation(images, labels, batch_size=batch_size)[0]
    attacked = attacked.detach()
    away = float((attacked - images).abs().max())
    low, high = float(attacked.min()), float(attacked.max())
    if away > epsilon + SLACK or low < 0 or high > 1:
        raise RuntimeError(
            f"AutoAttack exceeded its budget: changes up to {away:.6f}, allowed {epsilon:.6f}; "
            f"values from {low:g} to {high:g}. Its result is invalid."
        )
    with torch.no_grad():
        found = [network(x).argmax(dim=1) for x in attacked.split(batch_size)]
    return torch.cat(found) == labels
