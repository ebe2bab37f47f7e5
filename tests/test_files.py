"""One spelling per JSON value, whole files, one writer per folder, and looking that never locks."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerticket.errors import LayerticketError
from layerticket.files import (
    FolderInUse,
    Process,
    canonical_json,
    digest,
    exclusive,
    holder_of,
    in_use,
    is_held,
    open_to_append,
    read_json,
    remove_written,
    write_atomically,
    write_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_order_of_keys_does_not_matter(value):
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(backwards) == canonical_json(value)
    assert digest(backwards) == digest(value)


def test_digest_is_a_known_one():
    # printf '{"a":1}' | sha256sum
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize(
    "value", [float("nan"), [float("inf")], {1: 2}, [{True: 1}], {"a": object()}, {"a": {1, 2}}]
)
def test_refuses_what_is_no_json(value, tmp_path):
    with pytest.raises(LayerticketError):
        canonical_json(value)
    with pytest.raises(LayerticketError):
        write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_json_is_written_in_one_spelling_and_keeps_its_order(tmp_path):
    value = {"b": [1, 0.5], "a": "é"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text == '{\n "b": [\n  1,\n  0.5\n ],\n "a": "é"\n}\n'
    assert read_json(tmp_path / "x.json") == value


def test_writes_text_and_bytes_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_unreadable_json_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(LayerticketError, match=r"x\.json"):
        read_json(path)
    with pytest.raises(LayerticketError, match="missing"):
        read_json(tmp_path / "missing")


def test_second_use_in_the_same_process_is_refused_and_the_lock_is_let_go(tmp_path):
    with exclusive(tmp_path), pytest.raises(FolderInUse), exclusive(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        raise ZeroDivisionError
    with exclusive(tmp_path):
        assert in_use(tmp_path)
        assert holder_of(tmp_path).startswith(f"pid {os.getpid()} on ")
    assert not in_use(tmp_path)
    assert holder_of(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


HOLDER = """
import sys
from pathlib import Path
from layerticket.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_another_process_is_named_and_its_lock_dies_with_it(tmp_path, holder):
    with (
        pytest.raises(FolderInUse, match=f"{tmp_path}.*pid {holder.pid} "),
        exclusive(tmp_path),
    ):
        pass
    assert in_use(tmp_path)
    assert holder_of(tmp_path).startswith(f"pid {holder.pid} on ")
    holder.kill()
    deadline = time.monotonic() + 10
    while in_use(tmp_path):  # dead as soon as the system says so, reaped by its parent or not
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / ".holder").exists()  # nothing could tidy up
    holder.wait()
    assert not in_use(tmp_path)
    with exclusive(tmp_path):
        assert holder_of(tmp_path).startswith(f"pid {os.getpid()} on ")


def test_looking_never_refuses_a_writer(tmp_path):
    stop = threading.Event()
    seen = set()

    def look():
        while not stop.is_set():
            seen.add(in_use(tmp_path))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for number in range(300):
            with exclusive(tmp_path):
                while number == 0 and True not in seen:
                    time.sleep(0.001)
    finally:
        stop.set()
        looker.join()
    assert True in seen
    assert not in_use(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"started": "1"}, sys.platform != "linux"),  # the number was used again
        ({"pid": 2**22 + 1}, False),  # no system counts that far
        ({"host": "elsewhere"}, True),  # cannot be asked, so it is believed
        ({"machine": "another start of this host"}, False),
    ],
)
def test_a_holder_counts_while_it_runs(tmp_path, change, expected):
    record = dataclasses.asdict(Process.current()) | change
    (tmp_path / ".holder").write_text(json.dumps(record))
    assert in_use(tmp_path) == expected
    assert (holder_of(tmp_path) is not None) == expected
    with exclusive(tmp_path):  # the lock knows better than the file
        assert holder_of(tmp_path).startswith(f"pid {os.getpid()} on ")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}'])
def test_an_unreadable_holder_is_nobody(tmp_path, content):
    (tmp_path / ".holder").write_text(content)
    assert not in_use(tmp_path)
    assert not in_use(tmp_path / "missing")


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_nothing_is_written_through_links_pipes_or_folders(tmp_path, kind):
    (tmp_path / "victim").write_text("untouched")
    for name in (".lock", "log.txt", "x.json"):
        path = tmp_path / "work" / name
        path.parent.mkdir(exist_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / ("victim" if kind == "link" else "absent"))
    with pytest.raises(LayerticketError, match="not a regular file"), exclusive(tmp_path / "work"):
        pass
    with pytest.raises(LayerticketError, match="not a regular file"):
        open_to_append(tmp_path / "work" / "log.txt")
    if kind != "folder":
        write_json(tmp_path / "work" / "x.json", {})  # takes the place of the link
        assert not (tmp_path / "work" / "x.json").is_symlink()
        assert read_json(tmp_path / "work" / "x.json") == {}
    assert (tmp_path / "victim").read_text() == "untouched"
    assert not (tmp_path / "absent").exists()


def test_a_log_is_continued(tmp_path):
    for text in (b"one\n", b"two\n"):
        with open_to_append(tmp_path / "log.txt") as log:
            log.write(text)
    assert (tmp_path / "log.txt").read_bytes() == b"one\ntwo\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_reading_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(LayerticketError, match="not a regular file"):
        read_json(tmp_path / "x.json")


WRITER = """
import os, sys
from pathlib import Path
from layerticket import files
def die(*_):
    print("writing", flush=True)
    sys.stdin.read()
os.replace = die
files.write_atomically(Path(sys.argv[1]), b"half")
"""


def test_part_written_files_of_a_killed_writer_are_cleared_by_the_next(tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe) as writer:
        try:
            assert writer.stdout.readline() == b"writing\n"
            write_atomically(tmp_path / "file", b"mine")
            assert len(list(tmp_path.glob(".file.*.partial"))) == 1  # its writer lives
        finally:
            writer.kill()
    foreign = tmp_path / ".file.0123456789ab-1-1-x.partial"  # of another machine
    foreign.write_bytes(b"")
    mine = tmp_path / ".mine.partial"  # of somebody else
    mine.write_bytes(b"")
    write_atomically(tmp_path / "other", b"")  # whatever the next writer writes
    assert {path.name for path in tmp_path.iterdir()} == {
        "file", "other", foreign.name, mine.name
    }  # fmt: skip
    os.utime(foreign, (0, 0))
    write_atomically(tmp_path / "other", b"mine again")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other", mine.name}


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_only_what_we_wrote_is_removed(tmp_path):
    folder, other = tmp_path / "work", tmp_path / "other.json"
    (folder / "inside").mkdir(parents=True)
    other.write_text("untouched")
    for name in ("a.json", "b.safetensors", ".lock", "mine.txt", "A.JSON"):
        (folder / name).write_text("")
    (folder / "c.json").symlink_to(other)
    assert remove_written(folder, ("*.json", "b.safetensors")) == ["A.JSON", "inside", "mine.txt"]
    assert other.read_text() == "untouched"
    for name in ("A.JSON", "mine.txt"):
        (folder / name).unlink()
    (folder / "inside").rmdir()
    assert remove_written(folder, ()) == []
    assert not folder.exists()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.json").write_text("")
    folder.symlink_to(tmp_path / "real")
    assert remove_written(folder, ("*.json",)) == []
    assert (tmp_path / "real" / "a.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_looking_for_a_holder_opens_no_link(tmp_path):
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".lock").symlink_to(tmp_path / "victim")
    far = Process(pid=1, host="elsewhere", machine="", started="")
    (tmp_path / "work" / ".holder").write_text(json.dumps(dataclasses.asdict(far)))
    with pytest.raises(LayerticketError, match="links are not followed"):
        is_held(tmp_path / "work")
    assert (tmp_path / "victim").read_text() == "untouched"
