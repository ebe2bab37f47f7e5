"""Batches of normalized images; their order and augmentation depend on seed and epoch only.

Letters: N images, B images per batch, C channels, H and W pixels, P pixels of border, K classes.
The random numbers of an epoch are drawn at once on the CPU, so batch size, device and image source
do not change how an image is augmented.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from layerticket.data.dataset import Augment, Dataset, ImageSource, generator, rank_in_class
from layerticket.data.streaming import Policy, read_ahead
from layerticket.errors import LayerticketError

log = logging.getLogger(__name__)
COPIED_FROM = 64 * 64  # pixels from which cropping images one by one is faster on a CPU


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How pairs of images are mixed; with both methods, each batch uses one of them at random.

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Yun et al., "CutMix:
        Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
    """

    mixup: float = 0.0
    """Alpha of the Beta distribution of the weight of an image; 0: no mixup."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution of the area that is left of an image; 0: no CutMix."""


def batches(
    dataset: Dataset,
    split: ImageSource,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    train: bool,
    augment: Augment | None = None,
    policy: str | None = None,
    mixing: Mixing = Mixing(),
    drop_last: bool = False,
    channels_last: bool = False,
    part: tuple[int, int] | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of one epoch.

    Args:
        dataset: Gives the normalization and the standard augmentation.
        split: Images of the epoch.
        batch_size: B, at least 1.
        seed: Decides order and augmentation, together with `epoch`.
        epoch: Number of the epoch, from 0.
        train: Whether to shuffle and augment.
        augment: How to crop and mirror; None: the standard augmentation of the data set.
        policy: Augmentation of each image before that: "trivialaugment" or "randaugment".
        mixing: How pairs of images are mixed after that; targets are then class probabilities.
        drop_last: Whether to drop a last batch of fewer than B images.
        channels_last: Whether images are stored as (B, H, W, C); their shape stays (B, C, H, W).
        part: Start and end of the part of each batch to return, 0 to B; images are augmented as
            in the whole batch. None: whole batches.
        device: Device of the batches; None: device of the split.

    Returns:
        Pairs of images (B, C, H, W) float32, normalized, and labels (B,) int64, or targets (B, K)
        float32 if images are mixed.

    Raises:
        LayerticketError: If B is below 1, or `drop_last` would drop all images.
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
    whole = [slice(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]
    parts = [slice(n.start + begin, min(n.start + end, n.stop)) for n in whole]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = device or split.device
    if train:
        transform = None if policy is None else Policy(policy, seed, epoch)
        drawn = _Epoch.draw(split, augment or dataset.augment, device, seed, epoch)
        pairs = _training_pairs(dataset, split, whole, parts, drawn, transform, mixing)
    else:
        normalize, labels = _normalizer(dataset, device), split.labels.to(device)
        fetched = _fetch_batches(dataset, split, parts, None, device)
        pairs = ((normalize(i), labels[n]) for i, n in zip(fetched, parts, strict=True))
    converted = (
        (images.float().contiguous(memory_format=layout), labels) for images, labels in pairs
    )
    if device.type == "cpu" and (split.is_encoded or policy is not None):
        return _in_one_thread(converted)
    return converted


def _in_one_thread(pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Compute each batch in one thread: idle threads would take cores from the workers."""
    while True:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            pair = next(pairs, None)
        finally:
            torch.set_num_threads(threads)
        if pair is None:
            return
        yield pair


def scoring_batch(
    dataset: Dataset, split: ImageSource, images: int, *, seed: int, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw images for scoring blocks, at random and without replacement; they are not augmented.

    A larger batch with the same seed contains the smaller one.

    Args:
        dataset: Gives the normalization and K.
        split: Source of the images, usually the training split.
        images: B, number of images to draw.
        seed: Decides which images are drawn, and their order.
        balanced: Whether to draw equally many images of every class. If a class has too few, all
            of them are drawn and a warning is logged.

    Returns:
        Images (B, C, H, W) float32, normalized, and labels (B,) int64, on the split's device.

    Raises:
        LayerticketError: If B is below 1, not a multiple of K when `balanced`, or larger than the
            split when not.
    """
    if images < 1 or not len(split) or (images > len(split) and not balanced):
        raise LayerticketError(
            f"a scoring batch of {images} images is not possible: the split has {len(split)}; "
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
        chosen = chosen[rank_in_class(labels) < each]
        if len(chosen) < images:
            fewest = int(labels.bincount(minlength=dataset.classes).min())
            log.warning(
                "the scoring batch has %d images instead of %d: it should have %d per class, but "
                "the rarest class has only %d.",
                len(chosen),
                images,
                each,
                fewest,
            )
    rows = chosen[:images].to(split.device)
    return _normalizer(dataset, split.device)(split.fetch(rows)), split.labels[rows]


def augmented(images: Tensor, pad: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Pad images with zeros, crop them to their old size, and mirror some.

    Args:
        images: (B, C, H, W), normalized.
        pad: P, pixels on each side.
        top: (B,) int64, first row of the crop in the padded image, 0 to 2P.
        left: (B,) int64, first column of the crop, 0 to 2P.
        flip: (B,) bool, which crops to mirror left to right.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[2:]
    if images.device.type == "cpu" and height * width >= COPIED_FROM:
        places = zip((top - pad).tolist(), (left - pad).tolist(), flip.tolist(), strict=True)
        return _shifted(images, places)
    padded = F.pad(images, (pad, pad, pad, pad))
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # view (B, C, 2P+1, 2P+1, H, W)
    images = crops[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Epoch:
    """Random draws of one epoch: for each position, which image it is and how it is cropped."""

    key: tuple[int, int]
    """Seed and epoch."""
    order: Tensor
    """(N,) int64 on the split's device."""
    labels: Tensor
    """(N,) int64, in this order."""
    pad: int
    top: Tensor
    left: Tensor
    flip: Tensor

    @classmethod
    def draw(
        cls, split: ImageSource, augment: Augment, device: torch.device, seed: int, epoch: int
    ) -> "_Epoch":
        count, pad, draws = len(split), augment.pad, generator("epoch", seed, epoch)
        order = torch.randperm(count, generator=draws).to(split.device)
        top, left = (torch.randint(0, 2 * pad + 1, (count,), generator=draws) for _ in range(2))
        flip = torch.randint(0, 2, (count,), generator=draws).bool() & augment.flip
        return cls(
            key=(seed, epoch),
            order=order,
            labels=split.labels[order].to(device),
            pad=pad,
            top=top.to(device),
            left=left.to(device),
            flip=flip.to(device),
        )


def _training_pairs(
    dataset: Dataset,
    split: ImageSource,
    whole: Sequence[slice],
    parts: Sequence[slice],
    drawn: _Epoch,
    transform: Policy | None,
    mixing: Mixing,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches."""
    device = drawn.labels.device
    normalize = _normalizer(dataset, device)
    partners = [_partners(part, batch) for part, batch in zip(parts, whole, strict=True)]
    needed = parts if mixing == Mixing() else [torch.unique(torch.cat(pair)) for pair in partners]
    fetched = _fetch_batches(dataset, split, [drawn.order[n] for n in needed], transform, device)
    draws = torch.rand(
        len(whole), 4, generator=generator("mixing", *drawn.key), dtype=torch.float64
    )
    for number, (n, pixels) in enumerate(zip(needed, fetched, strict=True)):
        images = augmented(normalize(pixels), drawn.pad, drawn.top[n], drawn.left[n], drawn.flip[n])
        labels = drawn.labels[n]
        if isinstance(n, Tensor):  # images are mixed
            own, other = (torch.searchsorted(n, one).to(device) for one in partners[number])
            targets = F.one_hot(labels, dataset.classes).float()
            one, two = (images[own], targets[own]), (images[other], targets[other])
            images, labels = mixed(one, two, mixing, draws[number].tolist())
        yield images, labels


def _partners(part: slice, batch: slice) -> tuple[Tensor, Tensor]:
    """Return positions of a part of a batch, and of the images that they are mixed with.

    Each image is mixed with the one before it, the first image with the last.
    """
    own = torch.arange(part.start, part.stop)
    return own, torch.where(own == batch.start, batch.stop, own) - 1


def mixed(
    one: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    mixing: Mixing,
    draws: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Mix images and targets with others, in the same proportion.

    Args:
        one: Images (B, C, H, W) and targets (B, K).
        other: Images and targets that are mixed into `one`.
        mixing: The Beta distributions.
        draws: Four numbers, uniform in [0, 1): the method, the weight of `one`, and the row and
            column of the middle of the rectangle, as fractions of height and width.

    Returns:
        Images and targets. CutMix pastes a rectangle of `other` with sides of sqrt(1 - weight) of
        the image's. If the border clips it, targets use the area that is left of `one`.
    """
    (images, targets), (images_too, targets_too) = one, other
    method, weight, down, right = draws
    height, width = images.shape[2:]
    if mixing.cutmix and (not mixing.mixup or method < 0.5):
        side = (1 - float(betaincinv(mixing.cutmix, mixing.cutmix, weight))) ** 0.5
        top, left = int(down * height), int(right * width)
        tall, wide = int(side * height / 2), int(side * width / 2)
        rows = slice(max(top - tall, 0), min(top + tall, height))
        columns = slice(max(left - wide, 0), min(left + wide, width))
        images = images.clone()
        images[..., rows, columns] = images_too[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        kept = 1 - area / (height * width)
    else:
        kept = float(betaincinv(mixing.mixup, mixing.mixup, weight))
        images = images * kept + images_too * (1 - kept)
    return images, targets * kept + targets_too * (1 - kept)


def _shifted(images: Tensor, places: Iterable[tuple[int, int, bool]]) -> Tensor:
    """Shift and mirror images one by one; pixels from outside an image are zero."""
    height, width = images.shape[2:]
    shifted = torch.zeros_like(images)
    for target, image, (down, right, mirrored) in zip(shifted, images, places, strict=True):
        rows = slice(max(down, 0), max(height + down, 0))
        columns = slice(max(right, 0), max(width + right, 0))
        kept = image[:, rows, columns]
        to_rows = slice(max(-down, 0), max(height - down, 0))
        to_columns = max(-right, 0)
        if mirrored:
            kept, to_columns = kept.flip(2), max(width - to_columns - kept.shape[2], 0)
        target[:, to_rows, to_columns : to_columns + kept.shape[2]] = kept
    return shifted


def _fetch_batches(
    dataset: Dataset,
    split: ImageSource,
    rows: Sequence[Tensor | slice],
    transform: Policy | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """Fetch one batch after another, in worker processes if images are processed one by one."""
    if transform is None and not split.is_encoded:
        return (split.fetch(some).to(device) for some in rows)
    return read_ahead(split, rows, transform, workers=dataset.reading.readers, device=device)


def _normalizer(dataset: Dataset, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that turns stored pixels (B, C, H, W) into normalized float32."""
    low, high = dataset.value_range
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) * (high - low)
        for values in (dataset.mean, dataset.std)
    )
    subtracted, factor = (mean + low).float().to(device), (1 / std).float().to(device)
    return lambda images: images.float().sub_(subtracted).mul_(factor)


def unit_pixels(dataset: Dataset, images: Tensor) -> Tensor:
    """Turn stored pixels into float32, black 0 and white 1."""
    low, high = dataset.value_range
    return (images.float() - low) / (high - low)
