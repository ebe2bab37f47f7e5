"""The store: one spelling per value, whole files, one writer per folder."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerticket.errors import LayerticketError
from layerticket.files import canonical_json, digest, exclusive, read_json, write_atomically

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
def test_refuses_what_is_no_json(value):
    with pytest.raises(LayerticketError):
        canonical_json(value)


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
    with exclusive(tmp_path), pytest.raises(LayerticketError), exclusive(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path):
        raise ZeroDivisionError
    with exclusive(tmp_path):
        pass


HOLDER = """
import sys
from pathlib import Path
from layerticket.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_named_and_its_lock_dies_with_it(tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(LayerticketError, match=f"{tmp_path}.*pid {holder.pid} "),
                exclusive(tmp_path),
            ):
                pass
        finally:
            holder.kill()
    with exclusive(tmp_path):
        pass


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
