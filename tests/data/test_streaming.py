"""Images read from disk in chunks: the same bits as in memory, whatever is asked of them."""

import dataclasses

import numpy as np
import pytest
import torch

from layerticket.data.batches import batches, scoring_batch
from layerticket.data.dataset import Augment, Split, assemble, fingerprint, first_images, statistics
from layerticket.data.streaming import open_chunks
from layerticket.errors import LayerticketError

KINDS = {"uint8": (np.uint8, (0, 255)), "uint16": (np.uint16, (10, 40_000))}
COUNT = 61


def stored(folder, kind, sizes=(7, 0, 30, 24)):
    """The same images in memory and on disk, in files of several sizes."""
    dtype, (low, high) = KINDS[kind]
    draws = np.random.default_rng(0)
    images = draws.integers(low, high, (COUNT, 2, 6, 5), dtype, endpoint=True)
    images[0].flat[:2] = low, high
    labels = np.arange(COUNT) % 3
    np.save(folder / "labels.npy", labels.astype(np.int32))
    files, start = [], 0
    for number, size in enumerate(sizes):
        files.append(folder / f"{number}.npy")
        np.save(files[-1], images[start : start + size])
        start += size
    memory = Split(images=torch.from_numpy(images), labels=torch.from_numpy(labels))
    return memory, open_chunks(files, folder / "labels.npy")


@pytest.fixture(params=KINDS)
def both(tmp_path, request):
    return [
        assemble(
            "x",
            "X",
            source,
            first_images(source, 9),
            classes=3,
            augment=Augment(pad=2, flip=True),
            validation_fraction=0.25,
            value_range=KINDS[request.param][1],
        )
        for source in stored(tmp_path, request.param)
    ]


def test_splits_statistics_and_fingerprint_are_the_same(both):
    memory, disk = both
    assert (memory.mean, memory.std) == (disk.mean, disk.std)
    assert memory.fingerprint == disk.fingerprint
    for name in ("train", "validation", "test"):
        one, other = getattr(memory, name), getattr(disk, name)
        assert isinstance(one, Split)
        assert not isinstance(other, Split)
        assert (one.shape, one.dtype, len(one)) == (other.shape, other.dtype, len(other))
        assert torch.equal(one.labels, other.labels)
        assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("part", [None, (0, 3), (3, 8)])
@pytest.mark.parametrize("augment", [None, Augment(pad=0, flip=False), Augment(pad=1, flip=True)])
def test_batches_have_the_same_bits(both, train, part, augment):
    found = [
        list(
            batches(
                data, data.train, 8, seed=3, epoch=2, train=train, part=part, augment=augment,
                drop_last=True,
            )
        )
        for data in both
    ]  # fmt: skip
    assert len(found[0]) == len(found[1]) == len(both[0].train) // 8
    for (images, labels), (others, other_labels) in zip(*found, strict=True):
        assert images.dtype == others.dtype == torch.float32
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_processes_share_what_one_process_gets(both):
    for data in both:
        parts = [
            list(batches(data, data.train, 8, seed=3, epoch=2, train=True, part=part))
            for part in ((0, 4), (4, 8))
        ]
        whole = list(batches(data, data.train, 8, seed=3, epoch=2, train=True))
        for (one, _), (other, _), (images, _) in zip(*parts, whole, strict=True):
            assert torch.equal(torch.cat([one, other]), images)


def test_scoring_batches_have_the_same_bits(both):
    (one, labels), (other, others) = (scoring_batch(d, d.train, 12, seed=1) for d in both)
    assert torch.equal(one, other)
    assert torch.equal(labels, others)


def test_pixels_of_16_bits_are_scaled_by_their_range(tmp_path):
    # Black 10 and white 40,000: mean and deviation are of (x - 10) / 39,990.
    memory, _ = stored(tmp_path, "uint16")
    mean, std = statistics(memory, (10, 40_000))
    unit = (memory.images.double() - 10) / 39_990
    assert mean == pytest.approx(unit.mean(dim=(0, 2, 3)).tolist())
    assert std == pytest.approx(unit.std(dim=(0, 2, 3), correction=0).tolist())
    data = assemble(
        "x", "X", memory, memory, classes=3, augment=Augment(pad=0, flip=False),
        validation_fraction=0, value_range=(10, 40_000),
    )  # fmt: skip
    ((images, _),) = batches(data, data.train, COUNT, seed=0, epoch=0, train=False)
    wanted = (unit - torch.tensor(mean).view(1, 2, 1, 1)) / torch.tensor(std).view(1, 2, 1, 1)
    torch.testing.assert_close(images, wanted.float(), rtol=1e-5, atol=1e-5)
    with pytest.raises(LayerticketError, match=r"outside of the value_range \(11, 40000\)"):
        statistics(memory, (11, 40_000))


def test_a_16_bit_data_set_states_its_range(tmp_path):
    memory, _ = stored(tmp_path, "uint16")
    how = {"classes": 3, "augment": Augment(pad=0, flip=False), "validation_fraction": 0.1}
    for wrong in ((0, 255), (5, 5), (0, 65_536), (-1, 1000)):
        with pytest.raises(LayerticketError, match=r"such as \(0, 65535\)"):
            assemble("x", "X", memory, memory, value_range=wrong, **how)
    data = assemble("x", "X", memory, memory, value_range=(0, 65_535), **how)
    small = Split(images=memory.images.to(torch.uint8), labels=memory.labels)
    with pytest.raises(LayerticketError, match="the splits differ in type"):
        dataclasses.replace(data, test=small)


def test_type_is_part_of_the_fingerprint():
    wide, labels = torch.zeros(1, 1, 2, 2, dtype=torch.uint16), torch.zeros(1, dtype=torch.int64)
    narrow = torch.zeros(1, 1, 2, 4, dtype=torch.uint8)
    assert fingerprint(Split(images=wide, labels=labels)) != fingerprint(
        Split(images=narrow, labels=labels)
    )


def test_files_that_do_not_fit_are_refused(tmp_path):
    stored(tmp_path, "uint8", sizes=(30, 31))
    labels = tmp_path / "labels.npy"
    good, other = tmp_path / "0.npy", tmp_path / "other.npy"
    with pytest.raises(LayerticketError, match="at least one file of images"):
        open_chunks([], labels)
    with pytest.raises(LayerticketError, match=r"'absent\.npy' is missing"):
        open_chunks([tmp_path / "absent.npy"], labels)
    with pytest.raises(LayerticketError, match=r"'labels.npy' holds int32 of shape \(61,\)"):
        open_chunks([good], labels)
    for array in (
        np.zeros((31, 2, 6, 4), np.uint8),
        np.zeros((31, 2, 6, 5), np.uint16),
        np.zeros((31, 2, 6, 5), np.float32),
        np.zeros((31, 60), np.uint8),
    ):
        np.save(other, array)
        with pytest.raises(LayerticketError, match=r"'other\.npy' holds"):
            open_chunks([good, other], labels)
    np.save(other, np.zeros((61, 2, 6, 5), np.float32))
    with pytest.raises(LayerticketError, match=r"'other\.npy' holds float32"):
        open_chunks([other], labels)
    good.write_bytes(good.read_bytes()[:-9])
    with pytest.raises(LayerticketError, match=r"'0.npy' cannot be read as an array"):
        open_chunks([good], labels)


@pytest.mark.gpu
def test_the_same_on_the_gpu(both):
    for data in both:
        there = data.train.to("cuda")
        for train in (True, False):
            pairs = zip(
                batches(data, there, 8, seed=3, epoch=1, train=train),
                batches(data, data.train, 8, seed=3, epoch=1, train=train),
                strict=True,
            )
            for (images, labels), (others, other_labels) in pairs:
                assert images.is_cuda
                assert torch.equal(images.cpu(), others)
                assert torch.equal(labels.cpu(), other_labels)
