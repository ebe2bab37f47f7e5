"""Published files: read as they are, refused in one line when they are not what they should be."""

import dataclasses
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from layerticket.data.cifar import read_pickle
from layerticket.data.folders import read_folder, read_hub
from layerticket.data.shifts import find_published, open_published, read_shift
from layerticket.data.sources import SHIFTS
from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors
from toy_training import make_data

COUNT = 12
DRAWS = np.random.default_rng(0)
PIXELS = DRAWS.integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
LABELS = DRAWS.integers(0, 10, COUNT)
PAIR, DICT = SHIFTS["cifar10.1"], SHIFTS["cifar10.2"]


@pytest.fixture(autouse=True)
def short_sets(monkeypatch):
    monkeypatch.setitem(SHIFTS, "cifar10.2", dataclasses.replace(DICT, count=COUNT))
    monkeypatch.setitem(SHIFTS, "cifar10.1", dataclasses.replace(PAIR, count=COUNT))


def write_pair(folder, pixels=PIXELS, labels=LABELS):
    np.save(folder / PAIR.images, pixels)
    np.save(folder / PAIR.labels, labels)


def write_dict(folder, content, **how):
    np.save(folder / DICT.images, np.array(content, dtype=object), allow_pickle=True, **how)


def same(split, pixels=PIXELS, labels=LABELS):
    return (
        torch.equal(split.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
        and split.labels.tolist() == labels.tolist()
    )


def test_the_published_sets():
    counts = {name: shift.count for name, shift in SHIFTS.items() if name[-3:] in ("-v4", "-v6")}
    assert counts == {"cifar10.1-v4": 2021, "cifar10.1-v6": 2000}
    assert SHIFTS["cifar10.2-train"].count == 10_000


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_reads_a_pair_of_files_from_the_folder_that_has_it(tmp_path, kind):
    write_pair(tmp_path, labels=LABELS.astype(kind))
    assert same(read_shift("cifar10.1", [tmp_path / "other", tmp_path]))


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.int32), LABELS.tolist(), list(LABELS)])
@pytest.mark.parametrize("keys", ["text", "bytes"])
def test_reads_the_pickled_dictionary(tmp_path, labels, keys):
    content = {"images": PIXELS, "labels": labels}
    if keys == "bytes":
        content = {key.encode(): value for key, value in content.items()}
    write_dict(tmp_path, content)
    assert same(read_shift("cifar10.2", [tmp_path]))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_dictionary_runs_nothing(tmp_path):
    write_dict(tmp_path, {"images": PIXELS, "labels": Evil(tmp_path / "run")})
    with pytest.raises(LayerticketError, match="could run code; it was not loaded"):
        read_shift("cifar10.2", [tmp_path])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pixels", "labels", "said"),
    [
        (PIXELS[:-1], LABELS, r"shape \(11, 32, 32, 3\); it must hold uint8"),
        (PIXELS, LABELS[:-1], r"shape \(11,\); it must hold whole numbers of shape \(12,\)"),
        (PIXELS.astype(np.float32), LABELS, "holds float32"),
        (PIXELS.transpose(0, 3, 1, 2), LABELS, r"shape \(12, 3, 32, 32\)"),
        (PIXELS, LABELS / 1.0, "holds float64"),
        (PIXELS, LABELS + 1, "go from . to 10; with 10 classes they must lie in 0 to 9"),
        (PIXELS, np.array([{}] * COUNT), "cannot be read as an array"),
    ],
)
def test_wrong_pairs_are_refused(tmp_path, pixels, labels, said):
    labels = np.maximum(labels, 10) if said.startswith("go") else labels
    write_pair(tmp_path, pixels, labels)
    with pytest.raises(LayerticketError, match=said.replace("from .", "from 10")):
        read_shift("cifar10.1", [tmp_path])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": PIXELS}, "lacks 'images'"),
        ({"images": [1], "labels": LABELS}, "lacks 'images'"),
        ({"images": PIXELS, "labels": LABELS[:3]}, r"must hold whole numbers of shape \(12,\)"),
        ({"images": PIXELS.astype(np.float32), "labels": LABELS}, "cannot be read"),
        ([1, 2], "cannot be read"),
        (None, "lacks 'images'"),
    ],
)
def test_wrong_dictionaries_are_refused(tmp_path, content, said):
    write_dict(tmp_path, content)
    with pytest.raises(LayerticketError, match=said):
        read_shift("cifar10.2", [tmp_path])


def test_truncated_and_foreign_files_are_refused(tmp_path):
    write_pair(tmp_path)
    write_dict(tmp_path, {"images": PIXELS, "labels": LABELS})
    for name, file in (("cifar10.1", PAIR.images), ("cifar10.2", DICT.images)):
        whole = (tmp_path / file).read_bytes()
        for content in (whole[:-200], whole[:50], b"", b"text"):
            (tmp_path / file).write_bytes(content)
            with pytest.raises(LayerticketError, match="cannot be read") as caught:
                read_shift(name, [tmp_path])
            assert "\n" not in str(caught.value)
    (tmp_path / DICT.images).write_bytes(pickle.dumps({}))
    with pytest.raises(LayerticketError, match="cannot be read"):
        read_shift("cifar10.2", [tmp_path])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(LayerticketError, match=r"needs cifar10.1_v6_data.npy and .*--shift-dir"):
        read_shift("cifar10.1", [tmp_path])
    np.save(tmp_path / PAIR.images, PIXELS)
    with pytest.raises(LayerticketError, match=r"'cifar10.1_v6_labels.npy' is missing"):
        read_shift("cifar10.1", [tmp_path])
    with pytest.raises(LayerticketError, match=r"Did you mean 'cifar10\.2'"):
        read_shift("cifar10,2", [tmp_path])


def write_corrupted(folder, names, rows=5 * 3, labels=None):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        pixels = np.arange(rows, dtype=np.uint8).reshape(-1, 1, 1, 1) + np.uint8(100 * i)
        np.save(folder / f"{name}.npy", np.broadcast_to(pixels, (rows, 32, 32, 3)))
    np.save(folder / "labels.npy", np.tile([4, 5, 6], 5) if labels is None else labels)


def test_published_corruptions_are_read_by_severity(tmp_path):
    write_corrupted(tmp_path / "CIFAR-10-C", ["gaussian_noise", "fog"])
    folder = find_published("cifar10", [tmp_path / "none", tmp_path])
    assert folder == tmp_path / "CIFAR-10-C" == find_published("cifar10", [folder])
    assert find_published("cifar100", [tmp_path]) is None
    files = open_published(folder, ["gaussian_noise", "fog"], 3, (3, 32, 32), 10)
    third = files.severity("fog", 3, 2)
    assert third.images.shape == (2, 3, 32, 32)
    assert third.images[:, 0, 0, 0].tolist() == [106, 107]
    assert third.labels.tolist() == [4, 5]
    before = files.fingerprint()
    write_corrupted(folder, ["gaussian_noise", "fog"], labels=np.tile([4, 5, 7], 5))
    files = open_published(folder, ["gaussian_noise", "fog"], 3, (3, 32, 32), 10)
    assert files.fingerprint() != before


@pytest.mark.parametrize(
    ("names", "rows", "labels", "said"),
    [
        (["gaussian_noise"], 15, None, "'fog.npy' is missing"),
        (["gaussian_noise", "fog"], 14, None, r"shape \(14, 32, 32, 3\)"),
        (["gaussian_noise", "fog"], 15, np.zeros(3, int), r"'labels.npy' .* of shape \(15,\)"),
        (["gaussian_noise", "fog"], 15, np.full(15, 10), "go from 10 to 10"),
    ],
)
def test_wrong_published_corruptions_are_refused(tmp_path, names, rows, labels, said):
    write_corrupted(tmp_path, names, rows, labels)
    with pytest.raises(LayerticketError, match=said):
        open_published(tmp_path, ["gaussian_noise", "fog"], 3, (3, 32, 32), 10)


# A user's own images. The toy network knows 3 classes of 3x8x8.


def write_images(folder, names, size=(8, 8)):
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(2):
            Image.new("RGB", size, (i, j, 7)).save(folder / name / f"{j}.png")


@pytest.mark.parametrize(
    ("names", "labels"),
    [(["cat", "ape", "bee"], [0, 0, 1, 1, 2, 2]), (["2", "0"], [0, 0, 2, 2])],
)
def test_an_image_folder(tmp_path, names, labels):
    write_images(tmp_path, names)
    (tmp_path / names[0] / ".hidden").write_text("of the system")
    split = read_folder(tmp_path, make_data(), image_size=None)
    assert split.labels.tolist() == labels
    assert split.images.shape == (len(labels), 3, 8, 8)
    assert split.images[:, 0, 0, 0].tolist() == [
        names.index(name) for name in sorted(names) for _ in range(2)
    ]


def test_images_of_another_size_are_resized_only_on_request(tmp_path):
    write_images(tmp_path, "abc", size=(10, 9))
    with pytest.raises(LayerticketError, match=r"9x10 pixels.*8x8.*--image-size 8,8"):
        read_folder(tmp_path, make_data(), image_size=None)
    with pytest.raises(LayerticketError, match=r"trained on 8x8 pixels. Give 8,8"):
        read_folder(tmp_path, make_data(), image_size=(9, 10))
    split = read_folder(tmp_path, make_data(), image_size=(8, 8))
    assert split.images.shape == (6, 3, 8, 8)
    assert split.images[5, :, 3, 3].tolist() == [2, 1, 7]


def test_classes_with_names_are_told_by_them(tmp_path):
    write_images(tmp_path, ["bee", "ape"])
    named = dataclasses.replace(make_data(), class_names=("ape", "cow", "bee"))
    assert read_folder(tmp_path, named, image_size=None).labels.tolist() == [0, 0, 2, 2]
    with pytest.raises(LayerticketError, match=r"has 3 classes \(x, y, z\)"):
        read_folder(tmp_path, dataclasses.replace(named, class_names=tuple("xyz")), image_size=None)


def test_wrong_image_folders_are_refused(tmp_path):
    data = make_data()
    with pytest.raises(LayerticketError, match="does not exist"):
        read_folder(tmp_path / "absent", data, image_size=None)
    with pytest.raises(LayerticketError, match="0 folders, but the network has 3 classes"):
        read_folder(tmp_path, data, image_size=None)
    for name in "012":
        (tmp_path / name).mkdir()
    with pytest.raises(LayerticketError, match="0' holds no images"):
        read_folder(tmp_path, data, image_size=None)
    for name in "012":
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    (tmp_path / "1" / "notes.txt").write_text("no image")
    with pytest.raises(LayerticketError, match=r"notes.txt' is not an image file"):
        read_folder(tmp_path, data, image_size=None)
    (tmp_path / "1" / "notes.txt").unlink()
    (tmp_path / "1" / "x.jpg").write_bytes(b"damaged")
    with pytest.raises(LayerticketError, match=r"x.jpg' is empty, or not an image"):
        read_folder(tmp_path, data, image_size=None)


def test_hugging_face_sets(tmp_path, monkeypatch):
    with pytest.raises(LayerticketError, match="not a folder, and the Hugging Face Hub"):
        read_hub("nobody/nothing", make_data(), image_size=None)
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write_images(tmp_path / "set" / "test", ["a", "b", "c"])
    split = read_hub(str(tmp_path / "set"), make_data(), image_size=None)
    assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(LayerticketError, match="cannot be read"):
        read_hub(f"{tmp_path / 'set'}@nosuch", make_data(), image_size=None)
    write_images(tmp_path / "four" / "test", "abcd")
    with pytest.raises(LayerticketError, match="go from 0 to 3"):
        read_hub(str(tmp_path / "four"), make_data(), image_size=None)


def test_archives_ragged_labels_and_broken_headers(tmp_path):
    write_pair(tmp_path)
    with (tmp_path / PAIR.images).open("wb") as file:
        np.savez(file, PIXELS)  # an archive under the name of an array
    with pytest.raises(LayerticketError, match="an archive of arrays"):
        read_shift("cifar10.1", [tmp_path])
    whole = (tmp_path / PAIR.labels).read_bytes()
    for broken in (whole.replace(b"'shape'", b"'shapo'"), whole.replace(b"{'", b"((("),
                   whole.replace(b"False", b"\xff\xfe\x00\x01\x02"), b"", whole[:9],
                   whole.replace(b"(12,)", b"(-1,)")):  # fmt: skip
        write_pair(tmp_path)
        (tmp_path / PAIR.images).write_bytes(broken)
        with pytest.raises(LayerticketError, match=PAIR.images):
            read_shift("cifar10.1", [tmp_path])
    write_dict(tmp_path, {"images": PIXELS, "labels": [[1, 2], *range(COUNT - 1)]})
    with pytest.raises(LayerticketError, match="labels of unequal length"):
        read_shift("cifar10.2", [tmp_path])


def test_folders_are_named_by_numbers_or_not(tmp_path):
    data = make_data()
    names = [str(n) for n in range(data.classes - 1)]
    for last in ("²", "٣", "mine"):
        folder = tmp_path / f"with-{ord(last[0])}"
        for name in (*names, last):
            (folder / name).mkdir(parents=True)
        with pytest.raises(LayerticketError, match="not both"):
            read_folder(folder, data, image_size=(8, 8))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_nobody_waits_for_a_pipe(tmp_path):
    data = make_data()
    (tmp_path / "images" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "images" / "0" / "a.png")
    with pytest.raises(LayerticketError, match=r"a.png is not a regular file"):
        read_folder(tmp_path / "images", data, image_size=(8, 8))
    os.mkfifo(tmp_path / "labels.npy")
    np.save(tmp_path / "gaussian_noise.npy", PIXELS)
    with pytest.raises(LayerticketError, match=r"labels.npy is not a regular file"):
        open_published(tmp_path, ["gaussian_noise"], COUNT, (3, 32, 32), 10)
    os.mkfifo(tmp_path / "batch")
    with pytest.raises(LayerticketError, match="batch is not a regular file"):
        read_pickle(tmp_path / "batch", "CIFAR batch")
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(LayerticketError, match=r"a.safetensors is not a regular file"):
        load_tensors(tmp_path / "a.safetensors")
