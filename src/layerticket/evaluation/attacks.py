"""Gradient attacks on a network, in pixels.

Letters: N images, C channels, H and W pixels, K classes. Images are float32 in [0, 1]; the network
is wrapped with its normalization, so that a budget has the same meaning for every data set.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerticket.batch import logits_of
from layerticket.data.batches import unit_pixels
from layerticket.data.dataset import Dataset, ImageSource, generator
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import evaluating, packed
from layerticket.evaluation.autoattack import autoattack
from layerticket.evaluation.robustness import Attack, Kind
from layerticket.training.device import repeatable_kernels, resolve_device

Network = Callable[[Tensor], Tensor]
STEP = 2.5  # total length of all steps in budgets, so that PGD can reach and follow the border
TOLERATED = 0.01  # share of images above which a sign of masked gradients is reported


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
    """Prepare a model for attacks: eval mode, float32, no gradients of weights.

    Modes, device, ``requires_grad`` and ``.grad`` of the model are restored at the end.
    """
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        with (
            evaluating(model, device),
            repeatable_kernels(),
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
        epsilon: Largest change of a pixel value; white is 1.

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
    ``a = 2.5 epsilon / steps``. An image counts as broken if any iterate is misclassified.
    Cost: `steps` gradients and one forward pass.

    Args:
        network: Pixels (N, C, H, W) to logits (N, K), in eval mode.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64.
        epsilon: Largest change of a pixel value; white is 1.
        steps: Number of steps, at least 1.
        start: (N, C, H, W) in [-1, 1]: offset of the start from the image, in budgets.

    Returns:
        The last iterate (N, C, H, W), and which images (N,) were broken by no iterate.

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
    """Change every value by the whole budget, with the sign of `start`: the control."""
    return (images + epsilon * start.sign()).clamp(0, 1)


def _gradient(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the summed cross-entropy by the images, and the logits (N, K)."""
    images = images.detach().requires_grad_(True)
    logits = network(images)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient, logits.detach()


def attacked_accuracy(
    model: nn.Module,
    dataset: Dataset,
    split: ImageSource,
    kind: Kind,
    attack: Attack,
    *,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 250,
) -> dict[str, Any]:
    """Compute the share of images classified correctly under attack, for each budget.

    Args:
        model: Network; modes, gradients and device are restored at the end.
        dataset: Gives the normalization and K.
        split: Images to attack, all of them.
        kind: "noise" (only the control), "fgsm", "pgd" or "autoattack".
        attack: Budgets and effort.
        seed: Seed of random starts and noise.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: Images per batch.

    Returns:
        ``accuracy`` at the largest budget, its ``epsilon_255``, ``correct`` (one bit per image),
        ``clean_accuracy``, ``budgets`` with the results of each, and ``warnings`` (signs of
        masked gradients).

    Raises:
        LayerticketError: If the split is empty, or the device or an optional package is missing.
    """
    if not len(split):
        raise LayerticketError("there are no images to attack. Choose a split with images.")
    where = resolve_device(device)
    images = unit_pixels(dataset, split.fetch(slice(None)).to(where))
    labels = split.labels.to(where)
    starts = [_start(images, seed, number) for number in range(attack.restarts)]
    with under_attack(model, dataset, where) as network:
        attacked = _Attacked(network, images, labels, batch_size)
        clean = attacked.recognized(images)
        masks: dict[str, Tensor] = {}
        budgets = []
        for epsilon in attack.epsilons:
            now, facts = attacked.under(kind, attack, epsilon / 255, starts, clean, seed)
            facts["regained_share"] = _share(now[kind] & ~masks.get(kind, clean) & clean)
            facts["alone_accuracy"] = _share(now[kind] & clean)
            # An image that a weaker attack or a smaller budget broke stays broken.
            weaker = torch.stack([*now.values()]).all(dim=0)
            masks = {name: mask & masks.get(name, clean) for name, mask in now.items()}
            masks[kind] &= weaker
            others = {f"{name}_accuracy": _share(m) for name, m in masks.items() if name != kind}
            budgets.append(
                {"epsilon_255": epsilon, "accuracy": _share(masks[kind]), **others, **facts}
            )
    return {
        "accuracy": budgets[-1]["accuracy"],
        "epsilon_255": attack.epsilons[-1],
        "correct": packed(masks[kind]),
        "images": len(split),
        "precision": "fp32",
        "clean_accuracy": _share(clean),
        "budgets": budgets,
        "warnings": suspicions(kind, budgets),
    }


def suspicions(kind: Kind, budgets: Sequence[dict[str, Any]]) -> list[str]:
    """List signs that gradients are masked and accuracies too high (Athalye et al., 2018).

    One sentence for each sign and budget; an empty list does not prove robustness.
    """
    found = []
    for figures in budgets:
        at = f"at {figures['epsilon_255']:g}/255"
        if figures.get("zero_gradient_share", 0) > TOLERATED:
            share = figures["zero_gradient_share"]
            found.append(f"gradients are masked: zero on {share:.1%} of the recognized images {at}")
        if figures["regained_share"] > TOLERATED:
            found.append(
                f"{kind} breaks fewer images with more budget {at} "
                f"({figures['regained_share']:.1%}); attack with more steps or restarts"
            )
        for weaker in ("noise", "fgsm"):
            if weaker == kind or f"{weaker}_accuracy" not in figures:
                continue
            ahead = figures["alone_accuracy"] - figures[f"{weaker}_accuracy"]
            if ahead > TOLERATED:
                found.append(
                    f"gradients may be masked: {weaker} breaks {ahead:.1%} more images than {kind} "
                    f"{at}; do not trust this accuracy"
                )
    return found


@dataclass(frozen=True, slots=True)
class _Attacked:
    """A network and the images to attack."""

    network: PixelModel
    images: Tensor
    labels: Tensor
    batch_size: int

    def batched(self, act: Callable[[slice], Tensor]) -> Tensor:
        """Apply a function to batches of images and join the results."""
        starts = range(0, len(self.labels), self.batch_size)
        return torch.cat([act(slice(start, start + self.batch_size)) for start in starts])

    @torch.no_grad()
    def recognized(self, images: Tensor) -> Tensor:
        """Return which images (N,) are classified correctly."""
        return self.batched(lambda n: self.network(images[n]).argmax(dim=1) == self.labels[n])

    def under(
        self,
        kind: Kind,
        attack: Attack,
        epsilon: float,
        starts: Sequence[Tensor],
        clean: Tensor,
        seed: int,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return which images survive an attack and weaker ones (N,), and gradient statistics."""
        network, images, labels = self.network, self.images, self.labels
        masks = {"noise": self.recognized(noised(images, epsilon, starts[0]))}
        facts = {}
        if kind in ("fgsm", "pgd"):
            attacked, flat = torch.empty_like(images), torch.zeros_like(clean)
            for first in range(0, len(labels), self.batch_size):
                now = slice(first, first + self.batch_size)
                attacked[now], flat[now] = fgsm(network, images[now], labels[now], epsilon)
            masks["fgsm"] = self.recognized(attacked)
            facts["zero_gradient_share"] = float((flat & clean).sum() / clean.sum().clamp(min=1))
        if kind == "pgd":
            masks["pgd"] = clean.clone()
            for start in starts:

                def act(n: slice, start: Tensor = start) -> Tensor:
                    x, y = images[n], labels[n]
                    return pgd(network, x, y, epsilon, steps=attack.steps, start=start[n])[1]

                masks["pgd"] &= self.batched(act)
        if kind == "autoattack":
            masks["autoattack"] = autoattack(
                network,
                images,
                labels,
                epsilon,
                preset=attack.autoattack,
                classes=network(images[:1]).shape[1],
                seed=seed,
                batch_size=self.batch_size,
            )
        return masks, facts


def _share(mask: Tensor) -> float:
    """Return the share of true entries of (N,)."""
    return int(mask.sum()) / len(mask)


def _start(images: Tensor, seed: int, number: int) -> Tensor:
    """Draw the start of a restart: uniform in [-1, 1], on the images' device."""
    drawn = torch.rand(images.shape, generator=generator("attack", seed, number))
    return (2 * drawn - 1).to(images.device)
