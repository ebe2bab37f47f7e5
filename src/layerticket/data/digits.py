"""The handwritten digits that come with scikit-learn: 1,797 images of 1x8x8, ten classes."""

import numpy as np
import torch

from layerticket.data.dataset import Augment, Dataset, Split
from layerticket.data.splits import assemble, hold_out

__all__ = ["load_digits"]

TEST_FRACTION = 0.2
BRIGHTEST = 16  # the published pixels are whole numbers from 0 to 16


def load_digits(validation_fraction: float) -> Dataset:
    """Load the digits; test images are a fifth of every class, always the same ones."""
    from sklearn import datasets

    published = datasets.load_digits()
    pixels = np.rint(published.images * (255 / BRIGHTEST)).astype(np.uint8)  # (N, 8, 8)
    everything = Split(
        images=torch.from_numpy(pixels).unsqueeze(1),
        labels=torch.from_numpy(published.target.astype(np.int64)),
    )
    training, test = hold_out(everything, TEST_FRACTION, "test")
    return assemble(
        "digits",
        "Digits",
        training,
        test,
        classes=10,
        augment=Augment(pad=1, flip=False),
        validation_fraction=validation_fraction,
    )
