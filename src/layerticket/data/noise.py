"""Images of pure noise with labels drawn at random: enough to time a network and to fill memory."""

import torch

from layerticket.data.dataset import Augment, Dataset, Split

__all__ = ["noise"]


def noise(shape: tuple[int, int, int], *, classes: int, images: int, seed: int = 0) -> Dataset:
    """Draw a data set on which nothing can be learned.

    What a step costs in time, memory and energy does not depend on what the pixels show, so this
    is what costs are measured on where no data are at hand.

    Args:
        shape: (C, H, W).
        classes: K, number of labels.
        images: Images for training; validation and test get ten each.
        seed: Decides every pixel.

    Returns:
        The data set, augmented like CIFAR by crops of a border of 4 and mirroring.
    """
    random = torch.Generator().manual_seed(seed)
    train, validation, test = (
        Split(
            images=torch.randint(256, (count, *shape), generator=random, dtype=torch.uint8),
            labels=torch.randint(classes, (count,), generator=random),
        )
        for count in (images, 10, 10)
    )
    return Dataset(
        name="noise",
        title="Noise",
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        mean=(0.5,) * shape[0],
        std=(0.29,) * shape[0],
        augment=Augment(pad=4, flip=True),
        fingerprint=f"noise {shape} {classes} {images} {seed}",
    )
