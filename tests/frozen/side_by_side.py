"""Trains the frozen study with the tree of the freeze and with this one, on the machine at hand,
and compares the final test accuracies by method and seed: `make frozen`. Exit code 1: they differ.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def git(*words):
    done = subprocess.run(["git", "-C", REPO, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def freeze_commit():
    """Return the commit that brought the freeze."""
    file = "tests/frozen/freeze.py"
    found = git("log", "--diff-filter=A", "--format=%H", "--", file).splitlines()
    if not found:
        sys.exit(f"{file} is in no commit yet, so there is nothing to compare with")
    return found[-1]


def trained(tree, study, out):
    """Run a study with the source of a tree."""
    words = ["-m", "layerticket.cli", "study", "run", study, "--out", out]
    words += ["--workers", "1", "--threads", "1", "--device", "cpu"]
    paths = {"PYTHONPATH": str(tree / "src"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *words], env=os.environ | ONE | paths, stdout=subprocess.DEVNULL, cwd=out
    )
    if done.returncode:
        sys.exit(f"the study ended with exit code {done.returncode}, run from {tree / 'src'}")
    return json.loads((out / "study.json").read_text())


def at_the_freeze(record):
    """Read accuracies from study.json as it was at the freeze."""
    return {(row["method"], row["seed"]): row["test_accuracy"] for row in record["runs"]}


def today(record):
    """Read accuracies from study.json as this tree writes it; follow its changes here."""
    return {(label(row), row["seed"]): row["test_accuracy"] for row in record["runs"]}


def label(row):
    """Name a row as the freeze did: the number of the draw stood in the label."""
    return row["method"] if row["draw"] is None else f"{row['method']} {row['draw']}"


def main():
    commit = freeze_commit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        old, outs = folder / "tree", (folder / "before", folder / "after")
        for out in outs:
            out.mkdir()
        git("worktree", "add", "--detach", str(old), commit)
        try:
            before = at_the_freeze(trained(old, old / "tests/frozen/quick.toml", outs[0]))
            after = today(trained(REPO, HERE / "quick.toml", outs[1]))
        finally:
            git("worktree", "remove", "--force", str(old))
    print(f"{'method':12} {'seed':>4} {'freeze ' + commit[:9]:>16} {'this tree':>16}")
    differing = 0
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key), after.get(key)
        differs = a is None or a != b
        differing += differs
        print(f"{key[0]:12} {key[1]:>4} {a!s:>16.16} {b!s:>16.16}{'  differs' if differs else ''}")
    print(f"{differing} of {len(before)} accuracies differ")
    return 1 if differing or not before else 0


if __name__ == "__main__":
    sys.exit(main())
