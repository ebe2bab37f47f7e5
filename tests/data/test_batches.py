"""Batches: normalization, crops and mirrors by hand; order and draws follow from (seed, epoch)."""

import pytest
import torch
from torch.nn import functional as F

from layerticket.data.batches import augmented, batches, scoring_batch
from layerticket.data.dataset import Augment, Dataset, Split
from layerticket.errors import LayerticketError


def make(count=60, classes=3, shape=(2, 6, 5), pad=2, flip=True):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    images[:, 0, 0, 0] = torch.arange(count)  # tells which image it is
    part = Split(images=images, labels=torch.arange(count) % classes)
    return Dataset(
        name="x",
        title="X",
        train=part,
        validation=part,
        test=part,
        classes=classes,
        mean=(0.2, 0.4),
        std=(0.5, 0.25),
        augment=Augment(pad=pad, flip=flip),
        fingerprint="",
    )


def run(data, size=16, seed=0, epoch=0, train=True, **options):
    pairs = list(batches(data, data.train, size, seed=seed, epoch=epoch, train=train, **options))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def test_normalization_by_hand():
    # Channel 0: (51 / 255 - 0.2) / 0.5 = 0; channel 1: (204 / 255 - 0.4) / 0.25 = 1.6.
    data = make(count=1)
    data.train.images[:, 0] = 51
    data.train.images[:, 1] = 204
    images, _ = run(data, train=False)
    torch.testing.assert_close(images[0, 0], torch.zeros(6, 5))
    torch.testing.assert_close(images[0, 1], torch.full((6, 5), 1.6))


def test_crop_and_mirror_by_hand():
    # Rows 1 2 3 / 4 5 6 / 7 8 9 in a border of one zero. Crop at (0, 2): one row down, one left.
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    batch = image.repeat(3, 1, 1, 1)
    got = augmented(
        batch,
        pad=1,
        top=torch.tensor([0, 0, 1]),
        left=torch.tensor([2, 2, 1]),
        flip=torch.tensor([False, True, False]),
    )
    crop = torch.tensor([[0.0, 0.0, 0.0], [2.0, 3.0, 0.0], [5.0, 6.0, 0.0]])
    assert torch.equal(got[0, 0], crop)
    assert torch.equal(got[1, 0], crop.flip(1))
    assert torch.equal(got[2, 0], image[0, 0])


def test_every_training_image_is_a_crop_of_the_bordered_image():
    data = make(count=40)
    plain, _ = run(data, train=False)
    order, _ = run(make(count=40, pad=0, flip=False))
    images, labels = run(data)
    seen = set()
    for image, original in zip(images, order, strict=True):
        bordered = F.pad(original, (2, 2, 2, 2))
        found = {
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(
                image.flip(2) if flip else image, bordered[:, top : top + 6, left : left + 5]
            )
        }
        assert len(found) == 1
        seen |= found
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))
    assert {flip for _, _, flip in seen} == {False, True}
    assert not torch.equal(order, plain)
    assert sorted(labels.tolist()) == sorted(data.train.labels.tolist())


def test_without_augmentation_a_pass_is_a_permutation():
    data = make(pad=0, flip=False)
    plain, plain_labels = run(data, train=False)
    images, labels = run(data)
    which = [int(((plain == image).flatten(1).all(1)).nonzero()) for image in images]
    assert sorted(which) == list(range(60))
    assert torch.equal(labels, plain_labels[which])


def test_a_pass_follows_from_seed_and_epoch_alone():
    data = make()
    first, labels = run(data, seed=1, epoch=2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, again_labels = run(data, seed=1, epoch=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert torch.equal(labels, again_labels)
    assert not torch.equal(first, run(data, seed=1, epoch=3)[0])
    assert not torch.equal(first, run(data, seed=2, epoch=2)[0])
    assert not torch.equal(first, run(data, seed=2, epoch=1)[0])


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_batch_size_changes_nothing_else(size):
    data = make()
    images, labels = run(data, size=16)
    others, other_labels = run(data, size=size)
    assert torch.equal(images, others)
    assert torch.equal(labels, other_labels)


def test_sizes_and_drop_last():
    data = make()

    def sizes(**options):
        pairs = batches(data, data.train, 16, seed=0, epoch=0, **options)
        return [len(x) for x, _ in pairs]

    assert sizes(train=True) == sizes(train=False) == [16, 16, 16, 12]
    assert sizes(train=True, drop_last=True) == sizes(train=False, drop_last=True) == [16] * 3
    assert torch.equal(run(data, drop_last=True)[0], run(data)[0][:48])


@pytest.mark.parametrize("train", [True, False])
def test_type_and_memory_layout(train):
    data = make()
    images, _ = run(data, train=train)
    assert images.dtype == torch.float32
    pair = next(batches(data, data.train, 16, seed=0, epoch=0, train=train, channels_last=True))
    assert pair[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pair[0], images[:16])
    assert pair[1].dtype == torch.int64


@pytest.mark.parametrize("pad", [0, 3, 9])
def test_large_images_are_cropped_by_the_same_rule(pad, monkeypatch):
    random = torch.Generator().manual_seed(pad)
    images = torch.rand(60, 2, 7, 5, generator=random)
    top, left = (torch.randint(0, 2 * pad + 1, (60,), generator=random) for _ in range(2))
    flip = torch.rand(60, generator=random) < 0.5
    small = augmented(images, pad, top, left, flip)
    monkeypatch.setattr("layerticket.data.batches.COPIED_FROM", 1)
    assert torch.equal(augmented(images, pad, top, left, flip), small)


def test_plain_images_do_not_write_to_the_split():
    data = make()
    before = data.train.images.clone()
    run(data, train=False)
    run(data)
    scoring_batch(data, data.train, 6, seed=0)
    assert torch.equal(data.train.images, before)


def test_empty_split_gives_no_batch():
    data = make(count=0)
    assert list(batches(data, data.train, 4, seed=0, epoch=0, train=False)) == []
    assert list(batches(data, data.train, 4, seed=0, epoch=0, train=True, drop_last=True)) == []


def test_refusals_come_before_the_first_batch():
    data = make()
    with pytest.raises(LayerticketError, match="batch_size is 0"):
        batches(data, data.train, 0, seed=0, epoch=0, train=True)
    with pytest.raises(LayerticketError, match="drop_last leaves no batch: 60 images"):
        batches(data, data.train, 61, seed=0, epoch=0, train=True, drop_last=True)


def test_scoring_batch_is_balanced_and_not_augmented():
    data = make()
    images, labels = scoring_batch(data, data.train, 12, seed=4)
    assert labels.bincount().tolist() == [4, 4, 4]
    assert images.dtype == torch.float32
    plain, plain_labels = run(data, train=False)
    which = [int(((plain == image).flatten(1).all(1)).nonzero()) for image in images]
    assert len(set(which)) == 12
    assert torch.equal(labels, plain_labels[which])
    assert torch.equal(scoring_batch(data, data.train, 12, seed=4)[0], images)
    assert not torch.equal(scoring_batch(data, data.train, 12, seed=5)[0], images)
    larger = scoring_batch(data, data.train, 15, seed=4)[0]
    assert all((larger == image).flatten(1).all(1).any() for image in images)


def test_unbalanced_scoring_batch_takes_any_number():
    data = make()
    images, labels = scoring_batch(data, data.train, 17, seed=0, balanced=False)
    assert len(images) == len(labels) == 17


def test_of_a_rare_class_the_batch_takes_what_there_is_and_says_so(caplog):
    data = make()
    rare = torch.cat([(data.train.labels == 0).nonzero()[:2], (data.train.labels > 0).nonzero()])
    few = data.train.subset(rare.flatten())
    _, labels = scoring_batch(data, few, 15, seed=4)
    assert labels.bincount().tolist() == [2, 5, 5]
    assert "has 12 images instead of 15" in caplog.text
    assert "the rarest class has only 2" in caplog.text
    _, labels = scoring_batch(data, few, 3000, seed=4)
    assert len(labels) == len(few)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "allowed are 1 to 60"),
        (16, "with 3 classes. Take a multiple of 3, such as 15"),
        (2, "such as 3, or an unbalanced"),
    ],
)
def test_scoring_batch_refuses(count, said):
    data = make()
    with pytest.raises(LayerticketError, match=said):
        scoring_batch(data, data.train, count, seed=0)
    with pytest.raises(LayerticketError, match="allowed are 1 to 60"):
        scoring_batch(data, data.train, 61, seed=0, balanced=False)


@pytest.mark.gpu
def test_same_on_the_gpu():
    data = make()
    there = data.train.to("cuda")
    for train in (True, False):
        on_gpu = list(batches(data, there, 16, seed=3, epoch=1, train=train, channels_last=True))
        on_cpu = list(
            batches(data, data.train, 16, seed=3, epoch=1, train=train, channels_last=True)
        )
        for (x, y), (a, b) in zip(on_gpu, on_cpu, strict=True):
            assert x.is_cuda
            assert y.is_cuda
            assert torch.equal(x.cpu(), a)
            assert torch.equal(y.cpu(), b)
    images, labels = scoring_batch(data, there, 12, seed=0)
    expected, expected_labels = scoring_batch(data, data.train, 12, seed=0)
    assert torch.equal(images.cpu(), expected)
    assert torch.equal(labels.cpu(), expected_labels)
