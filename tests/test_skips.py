"""What continuous integration skips, it skips for a reason that is known."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

def test_gpu():
    pytest.skip("needs a CUDA device")

def test_package():
    pytest.importorskip("no_such_package")
"""


@pytest.mark.slow
def test_a_test_that_is_skipped_for_another_reason_fails_continuous_integration(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_two.py").write_text(SKIPS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider"],
        cwd=tmp_path, env=os.environ | {"CI": "true"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if "must not be skipped" in line]
    assert len(told) == 1
    assert "test_package" in told[0]
    assert "no_such_package" in told[0]
