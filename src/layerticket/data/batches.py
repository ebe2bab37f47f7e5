"""Batches of normalized images; order and augmentation follow from (seed, epoch) alone.

Letters: N images, B of them in a batch, C channels, H and W pixels, P pixels of border, K classes.
Random numbers are drawn on the CPU, for a whole epoch at once and by position in its order, so
neither the batch size nor the device nor where images come from changes what is done to an image.
The pixels are worked on where the source puts them, without a loop over images.
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
COPIED_FROM = 64 * 64  # pixels from which a CPU copies images faster one by one


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How the images of a batch are mixed in pairs; with both, every batch draws one of them.

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Yun et al., "CutMix:
        Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
    """

    mixup: float = 0.0
    """Alpha of the Beta distribution of an image's share; 0: images are not blended."""
    cutmix: float = 0.0
    """The same for the share that is left of an image; 0: no rectangle is pasted."""


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
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    part: tuple[int, int] | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go once through a split.

    Args:
        dataset: Gives the normalization.
        split: What to go through.
        batch_size: B, at least 1.
        seed: Decides order and augmentation, together with `epoch`.
        epoch: Number of the pass, from 0.
        train: Whether to shuffle and augment; otherwise images come in order, as they are.
        augment: How to crop and mirror; None: as the data set says, its standard augmentation.
        policy: Changes images one by one before that: "trivialaugment" or "randaugment".
        mixing: How images are mixed in pairs after that; targets are then shares of classes.
        drop_last: Whether a last batch of fewer than B images is left out.
        dtype: Type of the images given; they are normalized in float32.
        channels_last: Whether images lie in memory as (B, H, W, C); their shape stays.
        part: Begin and end of the share of every batch that is wanted, 0 to B; what is done to
            an image does not depend on it. None: whole batches.
        device: Where batches appear; None: where the split lies.

    Returns:
        Pairs of images (B, C, H, W), normalized, and labels (B,) int64, or targets (B, K) float32
        where images are mixed.

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
    whole = [slice(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]
    parts = [slice(n.start + begin, min(n.start + end, n.stop)) for n in whole]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = device or split.device
    if train:
        change = None if policy is None else Policy(policy, seed, epoch)
        shown = _Shown.of(split, augment or dataset.augment, device, seed, epoch)
        pairs = _training_pairs(dataset, split, whole, parts, shown, change, mixing)
    else:
        normalized, labels = _normalizer(dataset, device), split.labels.to(device)
        supply = _supply(dataset, split, parts, None, device)
        pairs = ((normalized(i), labels[n]) for i, n in zip(supply, parts, strict=True))
    found = (
        (images.to(dtype=dtype).contiguous(memory_format=layout), labels)
        for images, labels in pairs
    )
    if device.type == "cpu" and (split.is_encoded or policy is not None):
        return _in_one_thread(found)
    return found


def _in_one_thread(pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Make every batch in one thread: waiting threads would take the cores of the readers."""
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
    """Draw images to score blocks with: at random, without repetition, not augmented.

    A larger batch of the same seed contains the smaller one.

    Args:
        dataset: Gives the normalization and K.
        split: Where to draw from, usually the training split.
        images: B, how many to draw.
        seed: Decides which, and their order.
        balanced: Whether every class is drawn equally often; of a class with too few images all
            are drawn, and a warning is logged.

    Returns:
        Images (B, C, H, W) float32, normalized, and labels (B,) int64, on the split's device.

    Raises:
        LayerticketError: If B is below 1 or no multiple of K, or there are too few images.
    """
    if images < 1 or not len(split) or (images > len(split) and not balanced):
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
        chosen = chosen[rank_in_class(labels) < each]
        if len(chosen) < images:
            fewest = int(labels.bincount(minlength=dataset.classes).min())
            log.warning(
                "the scoring batch has %d images in place of %d: of every class %d were wanted, "
                "or all there are; the rarest has %d.",
                len(chosen),
                images,
                each,
                fewest,
            )
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
    if images.device.type == "cpu" and height * width >= COPIED_FROM:
        places = zip((top - pad).tolist(), (left - pad).tolist(), flip.tolist(), strict=True)
        return _shifted(images, places)
    bordered = F.pad(images, (pad, pad, pad, pad))
    crops = bordered.unfold(2, height, 1).unfold(3, width, 1)  # view (B, C, 2P+1, 2P+1, H, W)
    images = crops[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """What an epoch shows: by position in its order, which image and how it is cropped."""

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
    def of(
        cls, split: ImageSource, augment: Augment, device: torch.device, seed: int, epoch: int
    ) -> "_Shown":
        """Draw an epoch."""
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
    shown: _Shown,
    change: Policy | None,
    mixing: Mixing,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented batches."""
    device = shown.labels.device
    normalized = _normalizer(dataset, device)
    partners = [_partners(one, all_) for one, all_ in zip(parts, whole, strict=True)]
    needed = parts if mixing == Mixing() else [torch.unique(torch.cat(pair)) for pair in partners]
    supply = _supply(dataset, split, [shown.order[n] for n in needed], change, device)
    draws = torch.rand(
        len(whole), 4, generator=generator("mixing", *shown.key), dtype=torch.float64
    )
    for number, (here, pixels) in enumerate(zip(needed, supply, strict=True)):
        images = normalized(pixels)
        images = augmented(images, shown.pad, shown.top[here], shown.left[here], shown.flip[here])
        labels = shown.labels[here]
        if isinstance(here, Tensor):  # images are mixed
            own, other = (torch.searchsorted(here, one).to(device) for one in partners[number])
            targets = F.one_hot(labels, dataset.classes).float()
            one, two = (images[own], targets[own]), (images[other], targets[other])
            images, labels = mixed(one, two, mixing, draws[number].tolist())
        yield images, labels


def _partners(part: slice, batch: slice) -> tuple[Tensor, Tensor]:
    """Places of some images, and of those they are mixed with: the one before; first with last."""
    own = torch.arange(part.start, part.stop)
    return own, torch.where(own == batch.start, batch.stop, own) - 1


def mixed(
    one: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    mixing: Mixing,
    draws: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Mix the images of a batch with others, and their targets in the same shares.

    Args:
        one: Images (B, C, H, W) and targets (B, K).
        other: The same of those they are mixed with.
        mixing: The Beta distributions.
        draws: Four numbers, uniform in [0, 1): which of the two ways, the share of `one`, and the
            middle of the rectangle, downwards and to the right, in shares of the image.

    Returns:
        Images and targets. CutMix: the rectangle of `other` has sides of sqrt(1 - share) of the
        image's; where it is cut off at the border, the share is what is left of `one`.
    """
    (images, targets), (images_too, targets_too) = one, other
    which, share, down, right = draws
    height, width = images.shape[2:]
    if mixing.cutmix and (not mixing.mixup or which < 0.5):
        side = (1 - float(betaincinv(mixing.cutmix, mixing.cutmix, share))) ** 0.5
        top, left = int(down * height), int(right * width)
        tall, wide = int(side * height / 2), int(side * width / 2)
        rows = slice(max(top - tall, 0), min(top + tall, height))
        columns = slice(max(left - wide, 0), min(left + wide, width))
        images = images.clone()
        images[..., rows, columns] = images_too[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        kept = 1 - area / (height * width)
    else:
        kept = float(betaincinv(mixing.mixup, mixing.mixup, share))
        images = images * kept + images_too * (1 - kept)
    return images, targets * kept + targets_too * (1 - kept)


def _shifted(images: Tensor, places: Iterable[tuple[int, int, bool]]) -> Tensor:
    """Do what `augmented` does by copying what is left of every image."""
    height, width = images.shape[2:]
    found = torch.zeros_like(images)
    for target, image, (down, right, mirrored) in zip(found, images, places, strict=True):
        rows = slice(max(down, 0), max(height + down, 0))
        columns = slice(max(right, 0), max(width + right, 0))
        kept = image[:, rows, columns]
        to_rows = slice(max(-down, 0), max(height - down, 0))
        to_columns = max(-right, 0)
        if mirrored:
            kept, to_columns = kept.flip(2), max(width - to_columns - kept.shape[2], 0)
        target[:, to_rows, to_columns : to_columns + kept.shape[2]] = kept
    return found


def _supply(
    dataset: Dataset,
    split: ImageSource,
    rows: Sequence[Tensor | slice],
    change: Policy | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """Fetch one batch after another, in workers where each image is work of its own."""
    if change is None and not split.is_encoded:
        return (split.fetch(some).to(device) for some in rows)
    return read_ahead(split, rows, change, workers=dataset.reading.readers, device=device)


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
