"""Batches of normalized images; order and augmentation follow from (seed, epoch) alone.

Letters: N images, B of them in a batch, C channels, H and W pixels, P pixels of border, K classes.
Random numbers are drawn on the CPU, for a whole epoch at once and by position in its order, so
neither the batch size nor the device nor where images come from changes what is done to an image.
The pixels are worked on where the source puts them, without a loop over images.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from layerticket.data.dataset import Augment, Dataset, ImageSource, generator, rank_in_class
from layerticket.errors import LayerticketError


def batches(
    dataset: Dataset,
    split: ImageSource,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    train: bool,
    augment: Augment | None = None,
    drop_last: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    part: tuple[int, int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go once through a split.

    Args:
        dataset: Gives the normalization.
        split: What to go through; batches appear on its device.
        batch_size: B, at least 1.
        seed: Decides order and augmentation, together with `epoch`.
        epoch: Number of the pass, from 0.
        train: Whether to shuffle and augment; otherwise images come in order, as they are.
        augment: How to augment; None: as the data set says, its standard augmentation.
        drop_last: Whether a last batch of fewer than B images is left out.
        dtype: Type of the images given; they are normalized in float32.
        channels_last: Whether images lie in memory as (B, H, W, C); their shape stays.
        part: Begin and end of the share of every batch that is wanted, 0 to B; what is done to
            an image does not depend on it. None: whole batches.

    Returns:
        Pairs of images (B, C, H, W), normalized, and labels (B,) int64.

    Raises:
        LayerticketError: If B is below 1, or no batch would come of a split that is not empty.
    """
    if batch_size < 1:
        raise LayerticketError(f"batch_size is {batch_size}; it must be at least 1.")
    if drop_last and 0 < len(split) < batch_size:
        raise LayerticketError(
            f"drop_last leaves no batch: {len(split)} images, batches of {batch_size}. "
            "Make batch_size smaller."
        )
    size = len(split) - len(split) % batch_size if drop_last else len(split)
    begin, end = (0, batch_size) if part is None else part
    slices = [slice(start + begin, min(start + end, size)) for start in range(0, size, batch_size)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if train:
        draws = generator("epoch", seed, epoch)
        pairs = _training_pairs(dataset, split, slices, augment or dataset.augment, draws)
    else:
        normalized = _normalizer(dataset, split.device)
        pairs = ((normalized(split.fetch(n)), split.labels[n]) for n in slices)
    return (
        (images.to(dtype=dtype).contiguous(memory_format=layout), labels)
        for images, labels in pairs
    )


def scoring_batch(
    dataset: Dataset, split: ImageSource, images: int, *, seed: int, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw images to score blocks with: at random, without repetition, not augmented.

    A larger batch of the same seed contains the smaller one.

    Args:
        dataset: Gives the normalization and K.
        split: Where to draw from, usually the training split.
        images: B, how many to draw.
        seed: Decides which, and their order.
        balanced: Whether every class is drawn equally often.

    Returns:
        Images (B, C, H, W) float32, normalized, and labels (B,) int64, on the split's device.

    Raises:
        LayerticketError: If there are too few images, or B is not a multiple of K.
    """
    if not 1 <= images <= len(split):
        raise LayerticketError(
            f"the scoring batch is to have {images} images, but the split has {len(split)}; "
            f"allowed are 1 to {len(split)}."
        )
    chosen = torch.randperm(len(split), generator=generator("scoring", seed))
    if balanced:
        each, rest = divmod(images, dataset.classes)
        if rest:
            raise LayerticketError(
                f"a balanced scoring batch of {images} images is not possible with "
                f"{dataset.classes} classes. Take a multiple of {dataset.classes}, such as "
                f"{max(each, 1) * dataset.classes}, or an unbalanced batch."
            )
        labels = split.labels.cpu()[chosen]  # (N,)
        fewest = int(labels.bincount(minlength=dataset.classes).min())
        if fewest < each:
            raise LayerticketError(
                f"a balanced scoring batch of {images} images needs {each} of every class; the "
                f"rarest has {fewest}. Take at most {fewest * dataset.classes} images."
            )
        chosen = chosen[rank_in_class(labels) < each]
    rows = chosen[:images].to(split.device)
    return _normalizer(dataset, split.device)(split.fetch(rows)), split.labels[rows]


def augmented(images: Tensor, pad: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Surround images with zeros, crop them to their old size, mirror some.

    Args:
        images: (B, C, H, W), normalized.
        pad: P, pixels on each side.
        top: (B,) int64, row of the bordered image where the crop begins, 0 to 2P.
        left: (B,) int64, column where it begins, 0 to 2P.
        flip: (B,) bool, which crops to mirror left to right.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    bordered = F.pad(images, (pad, pad, pad, pad))
    crops = bordered.unfold(2, height, 1).unfold(3, width, 1)  # view (B, C, 2P+1, 2P+1, H, W)
    images = crops[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)


def _training_pairs(
    dataset: Dataset,
    split: ImageSource,
    slices: Sequence[slice],
    augment: Augment,
    draws: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented batches."""
    device, count, pad = split.device, len(split), augment.pad
    normalized = _normalizer(dataset, device)
    order = torch.randperm(count, generator=draws).to(device)
    top, left = (torch.randint(0, 2 * pad + 1, (count,), generator=draws) for _ in range(2))
    flip = torch.randint(0, 2, (count,), generator=draws).bool() & augment.flip
    top, left, flip = top.to(device), left.to(device), flip.to(device)
    for now in slices:
        images = normalized(split.fetch(order[now]))
        yield augmented(images, pad, top[now], left[now], flip[now]), split.labels[order[now]]


def _normalizer(dataset: Dataset, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what turns pixels (B, C, H, W) as stored into float32 of mean 0 and deviation 1."""
    low, high = dataset.value_range
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) * (high - low)
        for values in (dataset.mean, dataset.std)
    )
    subtracted, factor = (mean + low).float().to(device), (1 / std).float().to(device)
    return lambda images: images.float().sub_(subtracted).mul_(factor)


def unit_pixels(dataset: Dataset, images: Tensor) -> Tensor:
    """Turn pixels as stored into float32, black 0 and white 1."""
    low, high = dataset.value_range
    return (images.float() - low) / (high - low)
