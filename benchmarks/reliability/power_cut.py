"""Simulate a power cut at every moment of a training: everything that was not synced is lost.

    python benchmarks/reliability/power_cut.py

While a training runs, the files that would survive a power cut are recorded: the contents of a file
at its last fsync (else empty), under the names in its folder at the last fsync of the folder. The
training is then resumed from each such state by the same command.
"""

import argparse
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from common import bits, leftovers, run, scratch, train_words

Tree = dict[str, str]


def recorder(root: Path, target: Path) -> Callable[[], None]:
    """Make a process record the durable files after every fsync of a folder."""

    def prepare() -> None:
        contents: dict[tuple[int, int], str] = {}  # of an inode, in hexadecimal
        tree: Tree = {}
        states: list[Tree] = []
        fsync, leave = os.fsync, os._exit

        def recorded(handle: int) -> None:
            fsync(handle)
            found, place = os.fstat(handle), Path(os.readlink(f"/proc/self/fd/{handle}"))
            if stat.S_ISREG(found.st_mode):
                contents[found.st_dev, found.st_ino] = place.read_bytes().hex()
                return
            inside = f"{place.relative_to(root)}/"
            for name in [n for n in tree if n.startswith(inside) and "/" not in n[len(inside) :]]:
                del tree[name]
            for path in place.iterdir():
                if path.is_file():
                    one = path.stat()
                    key = str(path.relative_to(root))
                    tree[key] = contents.get((one.st_dev, one.st_ino), "")
            states.append(dict(tree))

        def write_and_leave(code: int) -> None:
            target.write_text(json.dumps(states))
            leave(code)

        os.fsync = recorded
        os._exit = write_and_leave  # type: ignore[assignment]

    return prepare


def cuts(folder: Path) -> dict[str, object]:
    """Train once, then resume from the files that a power cut at each moment would leave."""
    out, target = folder / "runs", folder / "states.json"
    assert run(train_words(out), recorder(folder, target)) == 0
    wanted = bits(out)
    states: list[Tree] = json.loads(target.read_text())
    same = left = 0
    for state in [{}, *states]:
        shutil.rmtree(out)
        for name, content in state.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes.fromhex(content))
        assert run(train_words(out)) == 0
        same += bits(out) == wanted
        left += len(leftovers(out))
    return {"moments": len(states) + 1, "bit-identical": same, "files left over": left}


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with scratch() as folder:
        print(json.dumps(cuts(folder)))


if __name__ == "__main__":
    main()
