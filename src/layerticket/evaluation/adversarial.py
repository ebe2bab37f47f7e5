"""Attacks of a network by its own gradient, in pixels.

Letters: N images, C channels, H and W pixels, K classes. Images are float32 in [0, 1]; the network
is wrapped together with its normalization, so a budget means the same for every data set. Enters: a
wrapped network in eval mode, images, labels. Leaves: which images are still recognized.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerticket.batch import logits_of
from layerticket.data import Dataset
from layerticket.evaluation.accuracy import evaluating

__all__ = ["PixelModel", "fgsm", "noised", "pgd", "under_attack"]

Network = Callable[[Tensor], Tensor]
STEP = 2.5  # budgets walked in all steps together, so that PGD can reach and follow the border


class PixelModel(nn.Module):
    """A network that takes pixels in [0, 1] and normalizes them itself; logits in float32."""

    def __init__(self, model: nn.Module, dataset: Dataset) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", dataset.mean), ("std", dataset.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, C, H, W) in [0, 1] to logits (N, K)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return logits_of(self.model((pixels - mean) / std)).float()


@contextmanager
def under_attack(model: nn.Module, dataset: Dataset, device: torch.device) -> Iterator[PixelModel]:
    """Lend a model for attacks: eval mode, float32 throughout, weights that take no gradient.

    Modes, device, ``requires_grad`` and ``.grad`` of the model are afterwards as they were.
    """
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    cudnn = torch.backends.cudnn
    exact = cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False)
    try:
        with (
            evaluating(model, device),
            exact,
            torch.autocast(device.type, enabled=False),
            torch.enable_grad(),
        ):
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield PixelModel(model, dataset).to(device).eval()
    finally:
        for parameter, wanted in trainable.items():
            parameter.requires_grad_(wanted)


def fgsm(network: Network, images: Tensor, labels: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Fast gradient sign method: one step of size epsilon along the sign of the gradient.

    ``x' = clip(x + epsilon sign(d CE / d x), 0, 1)``. Cost: one gradient.

    Args:
        network: Pixels (N, C, H, W) to logits (N, K), in eval mode.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64.
        epsilon: Largest change of a value, with white at 1.

    Returns:
        Attacked images (N, C, H, W), and whether the gradient of each is zero everywhere, (N,).

    References:
        Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015.
        arXiv:1412.6572.
    """
    gradient, _ = _gradient(network, images, labels)
    attacked = (images + epsilon * gradient.sign()).clamp(0, 1)
    return attacked, gradient.flatten(1).abs().amax(dim=1) == 0


def pgd(
    network: Network,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """Projected gradient descent in the maximum norm, from one random start.

    ``x <- clip(clip(x + a sign(d CE / d x), x0 - epsilon, x0 + epsilon), 0, 1)`` with
    ``a = 2.5 epsilon / steps``. An image counts as broken when any iterate is misclassified.
    Cost: `steps` gradients and one forward pass.

    Args:
        network: As in `fgsm`.
        images: As in `fgsm`.
        labels: As in `fgsm`.
        epsilon: As in `fgsm`.
        steps: At least 1.
        start: (N, C, H, W) in [-1, 1]: the start, in budgets away from the image.

    Returns:
        The last iterate (N, C, H, W), and which images (N,) no iterate broke.

    References:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
        arXiv:1706.06083. Differs from the authors' code: step size as above, any iterate counts.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    attacked = (images + epsilon * start).clamp(low, high)
    whole = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(steps):
        gradient, logits = _gradient(network, attacked, labels)
        whole &= logits.argmax(dim=1) == labels
        attacked = (attacked + STEP * epsilon / steps * gradient.sign()).clamp(low, high)
    with torch.no_grad():
        whole &= network(attacked).argmax(dim=1) == labels
    return attacked, whole


def noised(images: Tensor, epsilon: float, start: Tensor) -> Tensor:
    """Move every value by the whole budget, up or down as the sign of `start` says: the control."""
    return (images + epsilon * start.sign()).clamp(0, 1)


def _gradient(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the summed cross-entropy by the images, (N, C, H, W), and the logits (N, K)."""
    images = images.detach().requires_grad_(True)
    logits = network(images)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient, logits.detach()
