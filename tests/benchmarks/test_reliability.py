"""The measurements of reliability, in small: nothing is lost, nothing hangs, nothing leaks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "benchmarks" / "reliability"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc"),
]


def measured(*words):
    command = [sys.executable, "-W", "ignore", str(HERE / words[0]), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    faults = [line for line in lines if not line.startswith("{")]
    assert not faults
    return [json.loads(line) for line in lines]


def test_a_power_cut_at_every_moment():
    (found,) = measured("power_cut.py")
    assert found["moments"] >= 8
    assert found["bit-identical"] == found["moments"]
    assert found["files left over"] == 0


def test_killed_trainings_and_studies():
    moments, writes, studies = measured("kills.py", "--moments", 3, "--writes", 8, "--studies", 3)
    for found in (moments, writes, studies):
        for what in [key.removesuffix(": kills") for key in found if key.endswith(": kills")]:
            assert found[f"{what}: bit-identical"] == found[f"{what}: kills"]
            assert found.get(f"{what}: files left over", 0) == 0
    assert writes["training, at a write: kills"] == 8


def test_several_runners_on_one_folder():
    (found,) = measured("runners.py", "--runners", 4)
    assert found["ended with 0"] == found["runners"] == 4
    assert found["jobs done once"] == found["jobs"] > 0
    assert found["bit-identical"] is True


@pytest.mark.parametrize("kind", ["tickets", "study files", "data folders", "command lines"])
def test_generated_bad_inputs(kind):
    (found,) = measured("inputs.py", "--kind", kind, "--each", 40, "--seed", 7)
    assert sum(found[kind].values()) == 40
    assert set(found[kind]) <= {"one-line error", "accepted"}
    assert found[kind]["one-line error"] > 20


def test_nothing_is_held_from_run_to_run():
    (found,) = measured("leaks.py", "--runs", 5)
    before, after = found["after warm-up"], found["at the end"]
    for name in ("file_handles", "threads", "tensors"):
        assert after[name] <= before[name]
    assert after["resident_bytes"] - before["resident_bytes"] < 5 * 2**20
