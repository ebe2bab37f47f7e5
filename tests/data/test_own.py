"""A user's own images: read as they are, the same from memory and from disk, refused by name."""

import dataclasses
import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import layerticket as lt
from layerticket.cli.app import main
from layerticket.data import Augment, Reading, from_array_file, from_arrays, from_folder, load_data
from layerticket.data.batches import batches
from layerticket.data.dataset import Split
from layerticket.data.images import Form, read_image, resized
from layerticket.data.streaming import EncodedSplit, ResizedSplit
from layerticket.errors import LayerticketError
from layerticket.training.checkpoint import CHECKPOINT
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe

DISK = Reading(image_memory="1kB", readers=1)
ALONE = Reading(image_memory="1kB", readers=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


def pixels(seed, height=8, width=8, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(folder, classes=("ant", "bee"), count=5, **shape):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            path = folder / name / f"{i}.png"
            Image.fromarray(pixels(100 * number + i, **shape)).save(path)
            os.utime(path, (0, 0))  # long settled, so that digests are kept
    return folder


def png16(values, colour):
    """Write 16 bits a channel; Pillow cannot."""

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [("IHDR", header), ("IDAT", zlib.compress(rows)), ("IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name.encode(), data) for name, data in parts)


# Folders


def test_a_folder_with_splits(tmp_path):
    write(tmp_path / "train", count=4)
    write(tmp_path / "val", count=2)
    write(tmp_path / "test", ("bee",), count=3)
    data = from_folder(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.validation.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [1] * 3
    assert torch.equal(data.train.images[5], torch.from_numpy(pixels(101)).permute(2, 0, 1))
    assert data.augment == Augment(pad=1, flip=True)
    assert data.name == f"imagefolder:{tmp_path}"


@pytest.mark.parametrize(("one", "other"), [("train", "training"), ("valid", "validation")])
def test_two_folders_for_one_split_are_refused(tmp_path, one, other):
    for name in {"train", one, other}:
        write(tmp_path / name)
    with pytest.raises(LayerticketError, match=f"holds both '{one}' and '{other}'"):
        from_folder(tmp_path)


def test_what_is_missing_is_carved(tmp_path):
    data = from_folder(write(tmp_path / "a", count=10))
    parts = (data.train, data.validation, data.test)
    assert [part.labels.bincount().tolist() for part in parts] == [[7, 7], [1, 1], [2, 2]]
    write(tmp_path / "b" / "train", count=10)
    write(tmp_path / "b" / "val", count=3)
    other = from_folder(tmp_path / "b")
    assert len(other.test) == 6, "val alone serves as the test set"
    assert other.validation.labels.bincount().tolist() == [1, 1]


def test_classes_named_by_numbers_count_by_them(tmp_path):
    data = from_folder(write(tmp_path, tuple(map(str, range(11)))))
    assert data.class_names[2:] == ("2", "3", "4", "5", "6", "7", "8", "9", "10")


def test_sizes_that_differ_need_a_size(tmp_path):
    write(tmp_path, ("ant",))
    write(tmp_path, ("bee",), height=9)
    with pytest.raises(
        LayerticketError, match=r"0.png' has 9x8 pixels, .*0.png' 8x8.*--image-size"
    ):
        from_folder(tmp_path)
    data = from_folder(tmp_path, image_size=(6, 4), validation_fraction=0)
    assert data.shape == (3, 6, 4)
    assert data.image_size == (6, 4)


def test_resizing_is_that_of_pillow():
    for channels in (1, 3):
        image = pixels(0, 30, 20, channels)
        wanted = np.asarray(Image.fromarray(image).resize((7, 9), Image.Resampling.BILINEAR))
        found = resized(image.reshape(30, 20, channels).transpose(2, 0, 1), (9, 7))
        assert np.array_equal(found.transpose(1, 2, 0), wanted.reshape(9, 7, channels))
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        assert np.array_equal(read_image(content.getvalue(), Form(channels, 8, 9, 7)), found)


def test_resizing_keeps_16_bits():
    # Halving a column of four by triangles of width 2: weights 3/7, 3/7, 1/7 of the nearest three.
    column = np.array([0, 7000, 42000, 63000], np.uint16).reshape(1, 4, 1)
    assert resized(column, (2, 1)).flatten().tolist() == [9000, 46000]
    flat = np.full((2, 4, 4), 60_001, np.uint16)
    assert (resized(flat, (3, 2)) == 60_001).all()
    assert resized(flat, (3, 2)).dtype == np.uint16


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [(("L", "L"), 1), (("LA", "LA"), 2), (("RGBA", "RGBA"), 4), (("L", "RGB"), 3), (("P", "1"), 3)],
)
def test_one_to_four_channels(tmp_path, kinds, channels):
    for name, kind in zip("ab", kinds, strict=True):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(pixels(i)).convert(kind).save(tmp_path / name / f"{i}.png")
    data = from_folder(tmp_path)
    assert data.shape == (channels, 8, 8)
    if kinds == ("L", "RGB"):  # grey is repeated, colours stay
        grey = from_folder(tmp_path, validation_fraction=0).train
        same = (grey.images[:, 0] == grey.images[:, 1]).flatten(1).all(1)
        assert same.tolist() == (grey.labels == 0).tolist()


def test_16_bits_stay_16_bits(tmp_path):
    values = np.arange(10 * 64).reshape(10, 8, 8) * 6
    for name, part in (("a", values[:5]), ("b", values[5:])):
        (tmp_path / name).mkdir()
        for i, one in enumerate(part):
            Image.fromarray(one.astype(np.uint16)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(LayerticketError, match=r"16 bits; give the values.*--value-range 0,65535"):
        from_folder(tmp_path)
    data = from_folder(tmp_path, value_range=(0, 4095), validation_fraction=0)
    assert data.train.images.dtype == torch.uint16
    assert data.train.images.numpy().max() > 3000
    ((images, _),) = batches(data, data.train, 8, seed=0, epoch=0, train=False)
    wanted = (data.train.images.float() / 4095 - data.mean[0]) / data.std[0]
    torch.testing.assert_close(images, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(LayerticketError, match="outside of the value_range"):
        from_folder(tmp_path, value_range=(0, 300))


def test_colours_of_16_bits_are_not_cut_to_8(tmp_path):
    values = np.random.default_rng(0).integers(0, 65_536, (8, 8, 3), dtype=np.uint16)
    path = tmp_path / "x.png"
    path.write_bytes(png16(values, 2))
    assert np.array_equal(read_image(path, Form(3, 16, 8, 8)).transpose(1, 2, 0), values)


# The same from memory and from disk


def both(folder, **options):
    inside = from_folder(folder, **options)
    outside = from_folder(folder, reading=DISK, **options)
    assert isinstance(inside.train, Split)
    assert isinstance(outside.train, EncodedSplit)
    return inside, outside


def equal(one, other):
    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(
        torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("policy", [None, "trivialaugment"])
def test_memory_and_disk_give_the_same_bits(tmp_path, policy):
    write(tmp_path, ("ant",), count=12, height=20)
    write(tmp_path, ("bee",), count=12, width=17)
    inside, outside = both(tmp_path, image_size=16)
    assert inside.fingerprint == outside.fingerprint
    assert (inside.mean, inside.std) == (outside.mean, outside.std)
    how = {"seed": 3, "epoch": 1, "train": True, "policy": policy}
    one, other = (list(batches(d, d.train, 8, **how)) for d in (inside, outside))
    assert equal(one, other)
    part = list(batches(outside, outside.train, 8, part=(2, 5), **how))
    assert equal(part, [(images[2:5], labels[2:5]) for images, labels in one])
    plain = {"seed": 0, "epoch": 0, "train": False}
    assert equal(*(list(batches(d, d.test, 3, **plain)) for d in (inside, outside)))


def test_one_that_is_killed_ends_in_the_same_bits(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    write(tmp_path / "images", count=12)
    inside, outside = both(tmp_path / "images")
    recipe = Recipe(epochs=2, batch_size=8, precision="fp32", augmentation="randaugment")
    quiet, ends = Where(device="cpu", progress=False), {}
    for name, data in (("inside", inside), ("outside", outside)):
        model = lt.build_model("resnet14", classes=2, channels=3, seed=0)
        calls = iter([lambda _: 0.5, stop])
        if name == "outside":
            with pytest.raises(KeyboardInterrupt):
                fit(model, data, recipe, seed=1, folder=tmp_path / name, where=quiet,
                    validate=lambda m, c=calls: next(c)(m))  # fmt: skip
            assert (tmp_path / name / CHECKPOINT).exists()
        fit(model, data, recipe, seed=1, folder=tmp_path / name, where=quiet)
        ends[name] = model.state_dict()
    assert all(torch.equal(ends["inside"][key], ends["outside"][key]) for key in ends["inside"])


@pytest.mark.gpu
@pytest.mark.parametrize("policy", [None, "trivialaugment"])
def test_workers_feed_the_gpu_with_the_bits_of_the_cpu(tmp_path, policy):
    write(tmp_path, count=12)
    how = {"seed": 3, "epoch": 1, "train": True, "policy": policy}
    for data in both(tmp_path):
        there = list(batches(data, data.train, 8, device=torch.device("cuda:0"), **how))
        here = list(batches(data, data.train, 8, **how))
        for (one, labels), (other, wanted) in zip(there, here, strict=True):
            assert one.is_cuda
            torch.testing.assert_close(one.cpu(), other)
            assert torch.equal(labels.cpu(), wanted)


def test_another_image_makes_another_fingerprint(tmp_path):
    write(tmp_path)
    before = from_folder(tmp_path).fingerprint
    assert from_folder(tmp_path).fingerprint == before
    assert from_folder(tmp_path, image_size=4).fingerprint != before
    assert from_folder(tmp_path, validation_fraction=0.4).fingerprint != before
    Image.fromarray(pixels(999)).save(tmp_path / "ant" / "0.png")
    assert from_folder(tmp_path).fingerprint != before


# Refusals: one line that names the file, exit code 2


def spoil(home, case):
    path = home / "bee" / "1.png"
    if case == "broken":
        path.write_bytes(path.read_bytes()[:60])
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "no image":
        path = home / "bee" / "notes.txt"
        path.write_text("hello")
    elif case == "no image inside":
        path.write_text("hello")
    elif case == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif case == "beside":
        path = home / "list.csv"
        path.write_text("a,b")
    elif case == "folder":
        path = home / "bee" / "more"
        path.mkdir()
    elif case == "class without images":
        path = home / "cat"
        path.mkdir()
    elif case == "bits":
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    elif case == "pictures":
        frames = [Image.fromarray(pixels(i)) for i in range(2)]
        path = home / "bee" / "1.tiff"
        frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


CASES = ("broken", "empty", "no image", "no image inside", "pipe", "beside", "folder",
         "class without images", "bits", "pictures")  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_named_in_one_line(tmp_path, case, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = spoil(write(tmp_path / "images"), case)
    words = ["find", "resnet14", "--remove", "1", "--data", "imagefolder:images", "--out", "t"]
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1, told.err
    assert str(path) in told.err
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != ".cache"] == ["images"]


def test_a_decompression_bomb_is_not_read(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(LayerticketError, match=r"0.png' has more than 60 pixels"):
        from_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(LayerticketError, match=r"0.png' has more than 20 pixels"):
        from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", bytes(1000)])
def test_a_file_that_is_no_image_is_named_alone(tmp_path, content):
    write(tmp_path)
    (tmp_path / "bee" / "0.png").write_bytes(content)
    with pytest.raises(LayerticketError, match=r"bee/0\.png' is empty, or not an image") as caught:
        from_folder(tmp_path)
    assert "object at 0x" not in str(caught.value)


def test_classes_that_training_lacks_are_refused(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "val", ("bee", "cat"))
    with pytest.raises(LayerticketError, match=r"val/cat' is a class without training images"):
        from_folder(tmp_path)


@pytest.mark.parametrize("reading", [DISK, ALONE])
def test_a_file_that_breaks_meanwhile_is_named(tmp_path, reading):
    data = from_folder(write(tmp_path), reading=reading)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(LayerticketError, match=r"\.png' cannot be read") as caught:
        list(batches(data, data.train, 4, seed=0, epoch=0, train=True))
    assert len(str(caught.value).splitlines()) == 1


# Arrays, functions, data sets of other libraries

IMAGES = np.stack([pixels(i) for i in range(20)])
LABELS = np.arange(20) % 2


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "torch"])
def test_arrays(layout):
    images = IMAGES if layout == "NHWC" else IMAGES.transpose(0, 3, 1, 2)
    labels = LABELS[:, None] if layout == "NHWC" else LABELS
    if layout == "torch":
        images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    data = from_arrays(images, labels, validation_fraction=0, class_names=("a", "b"))
    assert data.shape == (3, 8, 8)
    whole = torch.cat([data.train.images, data.test.images])
    assert sorted(whole.flatten().tolist()) == sorted(IMAGES.flatten().tolist())
    assert data.fingerprint == from_arrays(IMAGES, LABELS, validation_fraction=0).fingerprint
    small = from_arrays(images, labels, image_size=4)
    assert small.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES / 255, LABELS, "are float64; they must be whole numbers of 8 or 16 bits"),
        (IMAGES[..., None], LABELS, "fits neither .* nor"),
        (IMAGES[:, :3, :, :], LABELS, "fits both .* and"),
        (IMAGES, LABELS[:-1], r"they must be whole numbers of shape \(20,\)"),
        (IMAGES, LABELS / 2, "labels of the train split are float64"),
        (IMAGES, LABELS * 2, "class 1 of 'arrays' has no training images"),
        (IMAGES, LABELS - 1, "go from -1 to 0"),
    ],
)
def test_wrong_arrays_are_refused(images, labels, said):
    with pytest.raises(LayerticketError, match=said):
        from_arrays(images, labels)


def test_more_classes_for_testing_are_refused():
    with pytest.raises(LayerticketError, match="labels of the test split go from 0 to 2"):
        from_arrays(IMAGES, LABELS, test=(IMAGES[:3], [0, 1, 2]))


def test_array_files(tmp_path):
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    np.savez(whole, images=IMAGES, labels=LABELS, class_names=np.array(["x", "y"]))
    data = load_data(f"arrays:{whole}", validation_fraction=0.2)
    assert (data.class_names, len(data.train), len(data.test)) == (("x", "y"), 12, 4)
    named = {"train_images": IMAGES[:12], "train_labels": LABELS[:12, None]}
    named |= {"val_images": IMAGES[12:15], "val_labels": LABELS[12:15, None]}
    np.savez_compressed(parts, **named, test_images=IMAGES[15:], test_labels=LABELS[15:])
    data = from_array_file(parts)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 3, 5]
    with pytest.raises(LayerticketError, match=r"more than the 100 that may be kept.*image-memory"):
        from_array_file(whole, reading=Reading(image_memory=100))
    np.savez(whole, images=IMAGES, labels=LABELS, val_images=IMAGES, val_label=LABELS)
    with pytest.raises(LayerticketError, match="holds 'val_images' but not 'val_labels'"):
        from_array_file(whole)
    for one, other in (("", "train_"), ("train_", "training_"), ("validation_", "val_")):
        names = {"" if one == "" else "train_", one, other}
        twice = {f"{name}images": IMAGES for name in names}
        twice |= {f"{name}labels": LABELS for name in names}
        np.savez(whole, **twice)
        with pytest.raises(LayerticketError, match=f"holds both '{one}images' and '{other}images'"):
            from_array_file(whole)
    np.savez(whole, images=np.array([None]), labels=[0])
    with pytest.raises(LayerticketError, match=r"'whole.npz' cannot be read"):
        from_array_file(whole)
    whole.write_bytes(b"no zip")
    with pytest.raises(LayerticketError, match=r"'whole.npz' cannot be read"):
        from_array_file(whole)
    np.savez(whole, x=IMAGES)
    with pytest.raises(LayerticketError, match=r"holds x; it needs images and labels"):
        from_array_file(whole)


FUNCTION = """
import numpy as np
from layerticket.data import from_arrays

def images(validation_fraction=0.1):
    draws = np.random.default_rng(0)
    return from_arrays(draws.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 4,
                       validation_fraction=validation_fraction)

def nothing():
    return 3
"""


def test_a_function(tmp_path, monkeypatch):
    (tmp_path / "own_images_of_mine.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    data = load_data("own_images_of_mine:images", validation_fraction=0.5)
    assert (data.name, len(data.validation)) == ("own_images_of_mine:images", 16)
    for name, said in (
        ("own_images_of_mine:nothing", "returned a int; it must return a layerticket.Dataset"),
        ("own_images_of_mine:absent", "has no function 'absent'"),
        ("no_such_module_at_all:f", "there is no module 'no_such_module_at_all'"),
    ):
        with pytest.raises(LayerticketError, match=said):
            load_data(name)
    with pytest.raises(LayerticketError, match="images has no parameter image_size"):
        load_data("own_images_of_mine:images", image_size=4)


def test_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    datasets.disable_progress_bars()
    home = write(tmp_path / "images", ("bee", "ant"), count=6)
    names = datasets.ClassLabel(names=["ant", "bee"])
    rows = [(str(p), p.parent.name) for p in sorted(home.rglob("*.png"))]
    columns = {"image": [p for p, _ in rows], "label": [names.str2int(c) for _, c in rows]}
    kinds = datasets.Features({"image": datasets.Image(), "label": names})
    whole = datasets.Dataset.from_dict(columns, features=kinds)
    both_parts = whole.train_test_split(4, seed=0)
    both_parts.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    for part, table in both_parts.items():
        table.to_parquet(tmp_path / "parquet" / f"{part}-00000-of-00001.parquet")
    inside = load_data(f"datasets:{tmp_path / 'saved'}", validation_fraction=0.25)
    assert (inside.class_names, len(inside.test), inside.shape) == (("ant", "bee"), 4, (3, 8, 8))
    label = both_parts["test"][0]["label"]
    assert inside.test.labels[0] == label
    shown = np.asarray(both_parts["test"][0]["image"])
    assert np.array_equal(inside.test.images[0].permute(1, 2, 0), shown)
    for name, reading in (("saved", DISK), ("parquet", Reading()), ("parquet", DISK)):
        other = load_data(f"datasets:{tmp_path / name}", validation_fraction=0.25, reading=reading)
        assert other.fingerprint == inside.fingerprint
        passes = [
            list(batches(d, d.train, 4, seed=0, epoch=0, train=True)) for d in (inside, other)
        ]
        assert equal(*passes)
    saved = sorted((tmp_path / "saved").rglob("*.arrow"))
    (tmp_path / "saved" / "stray.parquet").write_bytes(b"")
    os.utime(tmp_path / "saved" / "stray.parquet", (0, 0))
    for seconds, table in enumerate((both_parts, whole.train_test_split(4, seed=1)), start=1):
        for path in saved:
            path.unlink()
        table.save_to_disk(tmp_path / "other")
        for path in saved:
            new = tmp_path / "other" / path.relative_to(tmp_path / "saved")
            os.utime(new, (seconds, seconds))
            new.rename(path)
        inside = load_data(f"datasets:{tmp_path / 'saved'}")
        shown = np.asarray(table["test"][0]["image"])
        assert np.array_equal(inside.test.images[0].permute(1, 2, 0), shown)
    with pytest.raises(LayerticketError, match="neither a data set saved with save_to_disk"):
        load_data(f"datasets:{home}")


def test_digits_can_be_resized():
    plain, large = load_data("digits"), load_data("digits", image_size=16)
    assert large.shape == (1, 16, 16)
    assert large.augment == Augment(pad=2, flip=False)
    assert large.fingerprint != plain.fingerprint
    assert large.train.labels.tolist() == plain.train.labels.tolist()
    lazily = load_data("digits", image_size=16, reading=ALONE)
    assert isinstance(lazily.test, ResizedSplit)
    assert torch.equal(lazily.test.fetch(slice(5)), large.test.fetch(slice(5)))
    assert (lazily.mean, lazily.fingerprint) == (large.mean, large.fingerprint)


# On the command line


def told(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_find_train_and_evaluate(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "images", ("ant",), count=16, height=10)
    write(tmp_path / "images", ("bee",), count=16)
    data = ("--data", "imagefolder:images", "--image-size", "8")
    found = told(capsys, "find", "resnet14", "--remove", 1, *data, "--out", "t", "--device", "cpu")
    assert found["input"]["shape"] == [3, 8, 8]
    assert found["input"]["from"] == f"data imagefolder:{tmp_path / 'images'}"
    disk = ("--image-memory", "1kB", "--readers", "0")
    words = ("train", "resnet14", "--epochs", 1, "--batch-size", 8, *data, *disk)
    words += ("--warmup-epochs", 0, "--device", "cpu")
    trained = told(capsys, *words, "--ticket", "t", "--out", "runs")
    monkeypatch.chdir(tmp_path / "runs")
    write(tmp_path / "other", ("ant", "bee"), count=2, height=12)
    on = f"test,imagefolder:{tmp_path / 'other'}"
    where = tmp_path / "runs" / trained["run"].rpartition("/")[2]
    results = told(capsys, "evaluate", where, "--on", on, "--device", "cpu")["results"]
    assert results["test"]["accuracy"] == trained["test_accuracy"]
    assert results[f"imagefolder:{tmp_path / 'other'}"]["images"] == 4
    shape = told(capsys, "blocks", "resnet14", "--data", f"imagefolder:{tmp_path / 'other'}")
    assert shape["input"]["shape"] == [3, 12, 8]


def test_the_public_names():
    assert lt.data.from_folder is from_folder
    for name in lt.data.__all__:
        assert getattr(lt.data, name)
    assert dataclasses.is_dataclass(lt.data.Dataset)
