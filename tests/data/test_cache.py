"""Digests of files are cached by path, size and time, for other processes too."""

import os
import subprocess
import sys

import pytest

from layerticket.data import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(cache, "_known", {})
    return tmp_path / "xdg" / "layerticket"


class Counted:
    """Reads a file and counts how often."""

    def __init__(self, path):
        self.path, self.times = path, 0

    def __call__(self):
        self.times += 1
        return self.path.read_text()


def old(path, text, *, seconds=100):
    path.write_text(text)
    os.utime(path, (seconds, seconds))
    return path


def test_computed_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    path = old(tmp_path / "a", "one")
    read = Counted(path)
    for _ in range(3):
        assert cache.cached_by_files("x", [path], read) == "one"
    assert read.times == 1
    monkeypatch.setattr(cache, "_known", {})  # as in another process
    assert cache.cached_by_files("x", [path], read) == "one"
    assert read.times == 1
    assert cache.cached_by_files("another purpose", [path], read) == "one"
    assert read.times == 2
    old(path, "two", seconds=200)  # the size is the same
    assert cache.cached_by_files("x", [path], read) == "two"
    old(path, "three", seconds=200)  # the time is the same
    assert cache.cached_by_files("x", [path], read) == "three"
    other = old(tmp_path / "b", "three", seconds=200)
    assert cache.cached_by_files("x", [path, other], read) == "three"
    assert read.times == 5


def test_a_file_written_just_now_is_read_again(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    read = Counted(path)
    for _ in range(2):  # it could change again without its time changing
        assert cache.cached_by_files("x", [path], read) == "one"
    assert read.times == 2


def test_another_process_knows_it_too(tmp_path, own_cache):
    path = old(tmp_path / "a", "one")
    assert cache.sha256_of([path], start="") == cache.sha256_of([path], start="")
    assert cache.sha256_of([path], start="") != cache.sha256_of([path], start="label")
    code = (
        "import hashlib, sys; from pathlib import Path; from layerticket.data import cache\n"
        "cache.cached_by_files(sys.argv[2], [Path(sys.argv[1])], lambda: 1 / 0)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, path, "sha256 label"]
    subprocess.run(command, env=env, check=True)


@pytest.mark.parametrize("damage", ["{", "[]", '{"other": 1}'])
def test_a_damaged_record_is_made_again(tmp_path, own_cache, monkeypatch, damage):
    path = old(tmp_path / "a", "one")
    cache.cached_by_files("x", [path], Counted(path))
    (record,) = (own_cache / "digests").iterdir()
    record.write_text(damage)
    monkeypatch.setattr(cache, "_known", {})
    assert cache.cached_by_files("x", [path], Counted(path)) == "one"
    assert '"digest": "one"' in record.read_text()


def test_an_unwritable_cache_stops_nothing(tmp_path, own_cache, caplog):
    path = old(tmp_path / "a", "one")
    own_cache.parent.mkdir()
    own_cache.write_text("a file where the folder should be")
    read = Counted(path)
    assert cache.cached_by_files("x", [path], read) == "one"
    assert "cannot be cached" in caplog.text
    assert cache.cached_by_files("x", [path], read) == "one"  # this process knows it
    assert read.times == 1
