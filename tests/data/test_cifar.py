"""CIFAR files in the published layouts, and every way in which they can be wrong."""

import copyreg
import dataclasses
import hashlib
import io
import logging
import pickle
import socket
import tarfile
import tracemalloc
import urllib.error

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from layerticket.data import cifar
from layerticket.data.cifar import CIFARS, KNOWN, read_batches, read_pickle
from layerticket.data.dataset import Augment
from layerticket.data.sources import load_data
from layerticket.errors import LayerticketError

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)  # (N, H, W, C)
LABELS = [i % 10 for i in range(40)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "layerticket"


def encoded(pixels, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=kind)
    return out.getvalue()


def write_parquet(path, pixels=PIXELS, labels=LABELS, *, kind="PNG", image="img", label="label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encoded(p, kind), "path": None} for p in pixels]
    pyarrow.parquet.write_table(pyarrow.table({image: rows, label: labels}), path)


def write_both(folder, train="train.parquet", test="test.parquet", **options):
    write_parquet(folder / train, **options)
    write_parquet(folder / test, PIXELS[:10], LABELS[:10], **options)


def load(folder, name="cifar10", fraction=0.25):
    return load_data(name, data_dir=folder, validation_fraction=fraction)


def in_python2(data, labels, key=b"labels"):
    """Pickle a batch in the very opcodes of the published files (protocol 2, from Python 2)."""

    def text(raw):
        return b"T" + len(raw).to_bytes(4, "little") + raw

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85" + text(b"b") + b"\x87R"  # _reconstruct(ndarray, (0,), 'b')
        b"(K\x01K" + bytes([len(data)]) + b"M\x00\x0c\x86"  # state: version, (N, 3072)
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + text(data.tobytes()) + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key) + numbers + b"u."


def chw(pixels):
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(-1, 3072)


def write_batches(folder):
    folder.mkdir(parents=True)
    for i in range(5):
        part = slice(8 * i, 8 * i + 8)
        content = in_python2(chw(PIXELS[part]), LABELS[part])
        (folder / f"data_batch_{i + 1}").write_bytes(content)
    (folder / "test_batch").write_bytes(in_python2(chw(PIXELS[:10]), LABELS[:10]))


# Layouts


@pytest.mark.parametrize(
    ("inside", "train", "test", "image"),
    [
        ("", "train.parquet", "test.parquet", "img"),
        ("data", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "image"),
        ("plain_text", "train-00000-of-00001.parquet", "test-00000-of-00001.parquet", "img"),
        ("cifar10/plain_text", "train.parquet", "test.parquet", "img"),
    ],
)
def test_parquet_layouts(tmp_path, inside, train, test, image):
    write_both(tmp_path / "d" / inside, train, test, image=image)
    data = load(tmp_path / "d", fraction=0)
    assert torch.equal(data.train.images.permute(0, 2, 3, 1), torch.from_numpy(PIXELS))
    assert data.train.labels.tolist() == LABELS
    assert torch.equal(data.test.images, data.train.images[:10])
    assert (data.title, data.classes) == ("CIFAR-10", 10)
    assert data.augment == Augment(pad=4, flip=True)


def test_parquet_in_several_files(tmp_path):
    for i in range(2):
        part = slice(20 * i, 20 * i + 20)
        write_parquet(tmp_path / f"train-0000{i}-of-00002.parquet", PIXELS[part], LABELS[part])
    write_parquet(tmp_path / "test.parquet")
    data = load(tmp_path, fraction=0)
    assert torch.equal(data.train.images, data.test.images)
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(LayerticketError, match="1 of 2 train files"):
        load(tmp_path)


def test_stored_jpegs_are_said_to_be_so(tmp_path):
    write_both(tmp_path, kind="JPEG")
    data = load(tmp_path)
    assert data.title == "CIFAR-10 (JPEG)"
    assert load(tmp_path).title == "CIFAR-10 (JPEG)"  # from the cache


def test_validation_images_come_from_training(tmp_path):
    write_both(tmp_path)
    data = load(tmp_path)
    assert data.validation.labels.bincount().tolist() == [1] * 10
    assert data.train.labels.bincount().tolist() == [3] * 10


@pytest.mark.parametrize("given", ["cifar-10-batches-py", ""])
def test_original_batches(tmp_path, given):
    write_batches(tmp_path / "cifar-10-batches-py")
    data = load(tmp_path / given, fraction=0)
    assert torch.equal(data.train.images.permute(0, 2, 3, 1), torch.from_numpy(PIXELS))
    assert data.train.labels.tolist() == LABELS
    assert data.title == "CIFAR-10"
    write_both(tmp_path / "parquet")
    assert load(tmp_path / "parquet", fraction=0).fingerprint == data.fingerprint


@pytest.mark.parametrize("layout", ["batches", "parquet"])
def test_cifar100(tmp_path, layout):
    labels = [90 + label for label in LABELS]
    if layout == "parquet":
        write_both(tmp_path / "cifar100", label="fine_label")
    else:
        (tmp_path / "cifar-100-python").mkdir()
        for name in ("train", "test"):
            content = in_python2(chw(PIXELS), labels, b"fine_labels")
            (tmp_path / "cifar-100-python" / name).write_bytes(content)
    data = load(tmp_path, "cifar100", fraction=0)
    assert (data.title, data.classes) == ("CIFAR-100", 100)
    assert data.train.labels.tolist() == (LABELS if layout == "parquet" else labels)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_batches_written_by_python_3(tmp_path, protocol):
    for order in "CF":
        array = np.array(chw(PIXELS), order=order)
        content = pickle.dumps({b"data": array, b"labels": LABELS}, protocol=protocol)
        (tmp_path / "batch").write_bytes(content)
        split = read_batches([tmp_path / "batch"], "labels", 10)
        assert torch.equal(split.images.permute(0, 2, 3, 1), torch.from_numpy(PIXELS))


# What is refused


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_runs_nothing(tmp_path, protocol):
    write_batches(tmp_path / "b")
    victim = tmp_path / "victim"
    evil = {b"data": Evil(open, str(victim), "w"), b"labels": [1]}
    (tmp_path / "b" / "data_batch_3").write_bytes(pickle.dumps(evil, protocol=protocol))
    with pytest.raises(LayerticketError, match=r"'data_batch_3' refers to .*open, which a CIFAR"):
        load(tmp_path / "b")
    assert not victim.exists()


# Each names something else than the table does, or calls what stands in the table in odd ways.
HOSTILE = {
    "system": b"cos\nsystem\n(S'touch run'\ntR.",
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "attribute": b"\x80\x04\x8c\x15numpy.core.multiarray\x8c\x18_reconstruct.__globals__\x93.",
    "copyreg": b"ccopyreg\n_reconstructor\n(cnumpy\nndarray\ncbuiltins\nobject\nNtR.",
    "numpy function": b"cnumpy\nload\n(S'x'\ntR.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pname\n.",
    "dtype of objects": b"cnumpy\ndtype\n(S'O8'\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb.",
    "raw objects": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\nS'AAAAAAAA'\ntb."
    ),
    "shape": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        b"(I1000000\nI1000000\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntRI00\nS'A'\ntb."
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path / "b")
    (tmp_path / "b" / "test_batch").write_bytes(HOSTILE[name])
    with pytest.raises(LayerticketError, match=r"'test_batch' (refers to|cannot be read|lacks)"):
        load(tmp_path / "b")
    assert not (tmp_path / "run").exists()


SLOTS = b"N}X\x04\x00\x00\x00evilK\x01s\x86"  # (None, {"evil": 1}): set attributes
VALUES = b"}X\x04\x00\x00\x00evilK\x01s"  # {"evil": 1}: update __dict__


@pytest.mark.parametrize("state", [SLOTS, VALUES], ids=["slots", "values"])
@pytest.mark.parametrize("name", KNOWN, ids=".".join)
def test_a_pickle_changes_no_class_or_function_that_reads_it(tmp_path, name, state):
    file = tmp_path / "batch"
    module, attribute = (text.encode() for text in name)
    file.write_bytes(b"\x80\x02c" + module + b"\n" + attribute + b"\n" + state + b"b.")
    before = set(vars(KNOWN[name]))
    with pytest.raises(LayerticketError, match="cannot be read"):
        read_pickle(file, "CIFAR batch")
    assert set(vars(KNOWN[name])) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as a CIFAR batch"),
        (b"not a pickle", "cannot be read"),
        (in_python2(chw(PIXELS), LABELS)[:5000], "cannot be read"),
        (pickle.dumps([1, 2]), "lacks 'data'"),
        (pickle.dumps({b"data": [1], b"labels": [1]}), "lacks 'data'"),
        (in_python2(chw(PIXELS), LABELS, b"fine_labels"), "or 'labels'"),
        (in_python2(chw(PIXELS), LABELS[:-1]), "holds 40 images and 39 labels"),
        (
            in_python2(chw(PIXELS), [*LABELS[:-1], 10]),
            "go from 0 to 10; with 10 classes they must lie in 0 to 9",
        ),
        (
            pickle.dumps({b"data": chw(PIXELS)[:, :99].copy(), b"labels": LABELS}, protocol=2),
            r"uint8 of shape \(40, 99\); it must hold uint8 of shape \(N, 3072\)",
        ),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, protocol=2), "'f8'"),
        (pickle.dumps({b"data": np.array([1, {}]), b"labels": [1, 2]}, protocol=2), "lacks 'data'"),
        (
            pickle.dumps({b"data": np.array([len]), b"labels": [1]}, protocol=2),
            "builtin.*len, which",
        ),
    ],
)
def test_damaged_batches(tmp_path, content, said):
    write_batches(tmp_path / "b")
    (tmp_path / "b" / "data_batch_2").write_bytes(content)
    with pytest.raises(LayerticketError, match=said):
        load(tmp_path / "b")


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "text":
        path.write_text("hello")
    elif how == "empty":
        write_parquet(path, PIXELS[:0], LABELS[:0])
    elif how == "label column":
        write_parquet(path, label="fine_label")
    elif how == "image column":
        write_parquet(path, image="picture")
    elif how == "no struct":
        pyarrow.parquet.write_table(pyarrow.table({"img": [b"x"], "label": [1]}), path)
    elif how == "no bytes":
        row = pyarrow.array(
            [{"bytes": None, "path": "a.png"}],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )
        pyarrow.parquet.write_table(pyarrow.table({"img": row, "label": [1]}), path)
    elif how == "label":
        write_parquet(path, PIXELS, [*LABELS[:-1], 10])
    elif how == "size":
        write_parquet(path, PIXELS[:, :31])
    elif how == "image":
        whole = encoded(PIXELS[0])
        rows = [{"bytes": raw, "path": None} for raw in (whole, whole[:-500])]
        pyarrow.parquet.write_table(pyarrow.table({"img": rows, "label": [1, 2]}), path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "'train.parquet' cannot be read as parquet"),
        ("text", "cannot be read as parquet"),
        ("empty", "of type null"),
        ("label column", "has the columns img, fine_label; it needs 'label'"),
        ("image column", "has the columns picture, label"),
        ("no struct", "of type binary"),
        ("no bytes", "empty entries"),
        ("label", "go from 0 to 10; with 10 classes they must lie in 0 to 9"),
        ("size", "image 0 of 'train.parquet' is 32x31 pixels"),
        ("image", "image 1 of 'train.parquet' cannot be decoded"),
    ],
)
def test_damaged_parquet(tmp_path, how, said):
    write_both(tmp_path)
    damage(tmp_path / "train.parquet", how)
    with pytest.raises(LayerticketError, match=said):
        load(tmp_path)


def test_folder_without_the_files(tmp_path):
    write_parquet(tmp_path / "train.parquet")
    with pytest.raises(LayerticketError, match=r"no CIFAR-10 in .*test.parquet.*--data-dir"):
        load(tmp_path)


# The cache


def test_decoded_images_are_kept(tmp_path, own_cache, monkeypatch):
    write_both(tmp_path)
    first = load(tmp_path)
    assert len(list((own_cache / "decoded").iterdir())) == 2
    monkeypatch.setattr("layerticket.data.cifar._pixels", None)  # decoding would now fail
    assert load(tmp_path).fingerprint == first.fingerprint
    write_parquet(tmp_path / "train.parquet", PIXELS[::-1])
    with pytest.raises(TypeError):
        load(tmp_path)  # other content, so it is not taken from the cache


@pytest.mark.parametrize("how", ["cut", "bit", "garbage"])
def test_damaged_cache_is_made_again(tmp_path, own_cache, how):
    write_both(tmp_path)
    first = load(tmp_path).fingerprint
    for file in (own_cache / "decoded").iterdir():
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes({"cut": raw[:-100], "bit": raw, "garbage": b"x"}[how])
    with pytest.warns(UserWarning, match="is damaged; it is replaced"):
        assert load(tmp_path).fingerprint == first
    assert load(tmp_path).fingerprint == first  # no warning any more


def test_unwritable_cache_stops_nothing(tmp_path, own_cache, caplog):
    write_both(tmp_path)
    own_cache.parent.mkdir()
    own_cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(load(tmp_path, fraction=0).train) == 40
    assert "cannot be cached" in caplog.text


# Fetching


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serve an archive of tiny batches in place of the authors' site; count the visits."""
    write_batches(tmp_path / "made" / "cifar-10-batches-py")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "made", arcname=".")
    visits = []

    serve(monkeypatch, packed.getvalue(), visits)
    return visits


def serve(monkeypatch, raw, visits, sha256=""):
    class Answer(io.BytesIO):
        def info(self):
            return self

        def get_all(self, name):
            return [str(len(raw))] if name == "Content-Length" else None

    def urlopen(request):
        visits.append(request.full_url)
        return Answer(raw)

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    expected = dataclasses.replace(
        CIFARS["cifar10"], sha256=sha256 or hashlib.sha256(raw).hexdigest()
    )
    monkeypatch.setitem(CIFARS, "cifar10", expected)


def test_download_once(tmp_path, own_cache, site):
    data = load_data("cifar10", download=True, validation_fraction=0)
    assert site == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert data.train.labels.tolist() == LABELS
    assert [path.name for path in (own_cache / "data").iterdir()] == ["cifar-10-batches-py"]
    load_data("cifar10", download=True)
    assert len(site) == 1
    load_data("cifar10", download=True, data_dir=tmp_path / "other" / "place")
    assert len(site) == 2
    assert load(tmp_path / "other" / "place", fraction=0).fingerprint == data.fingerprint


def test_download_completes_a_folder(tmp_path, site):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "mine").write_text("stays")
    load_data("cifar10", download=True, data_dir=tmp_path)
    assert (tmp_path / "cifar-10-batches-py" / "mine").read_text() == "stays"


def test_published_checksums():
    assert {known.archive: known.sha256 for known in CIFARS.values()} == {
        "cifar-10-python.tar.gz": (
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
        ),
        "cifar-100-python.tar.gz": (
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
        ),
    }


def test_wrong_checksum_leaves_nothing(own_cache, site, monkeypatch):
    monkeypatch.setitem(CIFARS, "cifar10", dataclasses.replace(CIFARS["cifar10"], sha256="0" * 64))
    with pytest.raises(LayerticketError, match="invalid hash value"):
        load_data("cifar10", download=True)
    assert list((own_cache / "data").iterdir()) == []


def test_no_network_is_explained(own_cache, monkeypatch):
    def unreachable(request):
        assert socket.getdefaulttimeout() == 60  # a connection that hangs is given up
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(LayerticketError, match=r"no route to host.*by hand.*--data-dir"):
        load_data("cifar10", download=True)
    assert list((own_cache / "data").iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_archive_that_writes_elsewhere_is_refused(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../escaped"))
    serve(monkeypatch, packed.getvalue(), [])
    with pytest.raises(LayerticketError, match="could not be downloaded"):
        load_data("cifar10", download=True, data_dir=tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped"))


def test_the_real_test_images(cifar10_dir, tmp_path, monkeypatch):
    # The 10,000 test images stand in for the training images too: decoding 50,000 takes seconds.
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).symlink_to(cifar10_dir / "test.parquet")
    data = load(tmp_path, fraction=0.1)
    assert data.title == "CIFAR-10 (JPEG)"
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.train.labels.bincount().tolist() == [900] * 10
    assert data.mean == pytest.approx((0.49, 0.48, 0.45), abs=0.01)
    monkeypatch.setattr("PIL.Image.open", None)  # nothing is decoded again: it is in the cache
    assert load(tmp_path, fraction=0.1).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "build",
    [
        b"(X\x04\x00\x00\x00evilK\x01db",  # sets an attribute
        b"N(X\x07\x00\x00\x00__doc__X\x01\x00\x00\x00xd\x86b",  # sets one that it has
        b"N(X\x0c\x00\x00\x00__defaults__)d\x86b",
    ],
)
def test_a_pickle_cannot_change_the_functions_that_read_it(tmp_path, build):
    def state():
        own = cifar._encoded
        return dict(vars(own)), own.__doc__, own.__defaults__

    before, file = state(), tmp_path / "batch"
    file.write_bytes(b"\x80\x02c_codecs\nencode\n" + build + b".")
    with pytest.raises(LayerticketError, match="it has a function"):
        read_pickle(file, "CIFAR batch")
    assert state() == before


def test_a_registered_extension_code_is_refused_too(tmp_path, monkeypatch):
    """The unpickler takes such an object from a cache of the process and asks for no name."""
    ran = []
    monkeypatch.setitem(copyreg._extension_registry, ("made", "up"), 240)
    monkeypatch.setitem(copyreg._inverted_registry, 240, ("made", "up"))
    monkeypatch.setitem(copyreg._extension_cache, 240, ran.append)
    file = tmp_path / "data_batch_1"
    for code in (b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"):
        file.write_bytes(b"\x80\x02" + code + b"K\x01\x85R.")
        with pytest.raises(LayerticketError, match="refers to a registered extension, which a"):
            read_pickle(file, "CIFAR batch")
    assert not ran


def test_a_number_of_the_memo_that_takes_gigabytes_is_refused(tmp_path):
    """Python makes room for 2 x 4,000,000 addresses, if it gets that far."""
    file = tmp_path / "data_batch_1"
    for store in (b"r\x00\x09\x3d\x00", b"p4000000\n"):
        file.write_bytes(b"\x80\x02}" + store + b".")
        tracemalloc.start()
        with pytest.raises(LayerticketError, match="stores an object under the number 4000"):
            read_pickle(file, "CIFAR batch")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
    file.write_bytes(b"\x80\x02}q\x05.")  # as large as the file
    assert read_pickle(file, "CIFAR batch") == {}
