"""The records refuse what does not fit together; splits and statistics, by hand."""

import hashlib

import numpy as np
import pytest
import torch

from layerticket.data.dataset import (
    Augment,
    Dataset,
    Split,
    fingerprint,
    hold_out,
    rank_in_class,
    statistics,
)
from layerticket.data.sources import DATASETS, load_data
from layerticket.errors import LayerticketError


def split(count=4, classes=2, shape=(1, 2, 2)):
    images = torch.arange(count * shape[0] * shape[1] * shape[2]).remainder(251).to(torch.uint8)
    return Split(images=images.view(count, *shape), labels=torch.arange(count) % classes)


def dataset(**changes):
    parts = {"train": split(), "validation": split(2), "test": split(2)}
    rest = {"name": "x", "title": "X", "classes": 2, "mean": (0.5,), "std": (0.25,)}
    rest |= {"augment": Augment(pad=1, flip=False), "fingerprint": ""}
    return Dataset(**(parts | rest | changes))


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), "torch.float32 of shape"),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "N, C, H, W"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), "labels are torch.float32"),
        (
            torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            "2 images have 3 labels",
        ),
    ],
)
def test_split_refuses(images, labels, said):
    with pytest.raises(LayerticketError, match=said):
        Split(images=images, labels=labels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test": split(2, shape=(1, 3, 2))}, "differ in"),
        ({"test": split(4, classes=3)}, "labels of the test split go from 0 to 2; with 2 classes"),
        ({"classes": 1}, "number of classes: 1; a classifier needs at least 2"),
        ({"mean": (0.5, 0.5)}, "2 means and 1 deviations for 1 channels"),
        ({"std": (0.0,)}, "std above 0"),
        ({"mean": (float("nan"),)}, "finite"),
    ],
)
def test_dataset_refuses(changes, said):
    assert dataset().classes == 2
    with pytest.raises(LayerticketError, match=said):
        dataset(**changes)


def test_negative_border_is_refused():
    with pytest.raises(LayerticketError, match="pad is -1"):
        Augment(pad=-1, flip=False)


def test_empty_validation_is_allowed():
    assert len(dataset(validation=split(0)).validation) == 0


def test_rank_in_class_by_hand():
    assert rank_in_class(torch.tensor([2, 0, 2, 2, 0])).tolist() == [0, 0, 1, 2, 1]


def test_hold_out_takes_the_same_share_of_every_class_and_keeps_order():
    whole = Split(
        images=torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1),
        labels=torch.tensor([0] * 10 + [1] * 30),
    )
    stays, aside = hold_out(whole, 0.2, "test of this")
    assert aside.labels.bincount().tolist() == [2, 6]
    ids = stays.images.flatten().tolist(), aside.images.flatten().tolist()
    assert sorted(ids[0] + ids[1]) == list(range(40))
    assert list(ids[0]) == sorted(ids[0])
    assert list(ids[1]) == sorted(ids[1])
    more = hold_out(whole, 0.4, "test of this")[1].images.flatten().tolist()
    assert set(ids[1]) < set(more)
    assert hold_out(whole, 0.2, "another")[1].images.flatten().tolist() != ids[1]
    assert hold_out(whole, 0.2, "test of this")[1].images.flatten().tolist() == ids[1]


def test_statistics_by_hand():
    # Channel 0: 0, 0, 255, 255 -> mean 1/2, deviation 1/2. Channel 1: 51 three times, 255 once:
    # mean (3 * 0.2 + 1) / 4 = 0.4, variance (3 * 0.04 + 1) / 4 - 0.16 = 0.12.
    images = torch.tensor([[[[0, 0]], [[51, 51]]], [[[255, 255]], [[51, 255]]]], dtype=torch.uint8)
    means, deviations = statistics(Split(images=images, labels=torch.zeros(2, dtype=torch.int64)))
    assert means == pytest.approx((0.5, 0.4))
    assert deviations == pytest.approx((0.5, 0.12**0.5))


def test_fingerprint_is_sha256_of_shapes_and_bytes():
    part = split(1)
    expected = hashlib.sha256(b"(1, 1, 2, 2)" + bytes([0, 1, 2, 3]) + bytes(8)).hexdigest()
    assert fingerprint(part) == expected
    changed = Split(images=part.images, labels=part.labels + 1)
    assert fingerprint(changed) != expected
    assert fingerprint(part, split(0)) != expected


def test_digits():
    from sklearn import datasets

    data = load_data("digits", validation_fraction=0.1)
    assert (data.name, data.classes, data.augment) == ("digits", 10, Augment(pad=1, flip=False))
    parts = data.train, data.validation, data.test
    assert [len(part) for part in parts] == [1295, 143, 359]
    assert data.train.images.shape[1:] == (1, 8, 8)
    published = datasets.load_digits()
    ours = torch.cat([part.images for part in parts]).numpy().reshape(-1, 64)
    pixels = np.rint(published.images * 255 / 16).astype(np.uint8).reshape(-1, 64)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, pixels))
    assert data.test.labels.bincount().tolist() == [
        round(0.2 * n) for n in np.bincount(published.target)
    ]
    assert data.mean == pytest.approx((data.train.images.double().mean().item() / 255,))
    assert load_data("digits").fingerprint == data.fingerprint


def test_validation_fraction_moves_images_out_of_training_only():
    none, half = (load_data("digits", validation_fraction=f) for f in (0, 0.5))
    assert len(none.validation) == 0
    assert len(none.train) == 1438
    assert abs(len(half.validation) - 719) <= 5
    assert torch.equal(none.test.images, half.test.images)
    assert none.fingerprint != half.fingerprint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "digit"}, r"data set 'digit' is not known. Did you mean 'digits'\?"),
        ({"name": "digits", "validation_fraction": 0.51}, "must lie in 0 to 0.5"),
        ({"name": "digits", "validation_fraction": float("nan")}, "must lie in 0 to 0.5"),
        ({"name": "digits", "data_dir": "x"}, "needs neither"),
        ({"name": "digits", "download": True}, "needs neither"),
        ({"name": "cifar10"}, r"--data-dir.*--download"),
        ({"name": "cifar100", "data_dir": "no/such/folder"}, "does not exist"),
    ],
)
def test_load_data_refuses(arguments, said):
    with pytest.raises(LayerticketError, match=said):
        load_data(**arguments)


def test_names():
    own = ("imagefolder:DIR", "datasets:DIR", "arrays:FILE.npz", "package.module:function")
    assert ("digits", "cifar10", "cifar100", *own) == DATASETS
