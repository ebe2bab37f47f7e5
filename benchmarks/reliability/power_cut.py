"""A power cut at every moment of a training: what was not made durable is gone.

    python benchmarks/reliability/power_cut.py

While a training runs, a second tree is kept as a disk that lost its cache would hold it: the
contents of a file as of its last fsync (else nothing), the names in a folder as of the last fsync
of the folder. Each such tree is resumed by the same command.
"""

import argparse
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from common import bits, rubbish, run, scratch, train_words

Tree = dict[str, str]


def recorder(root: Path, target: Path) -> Callable[[], None]:
    """Make a process write down the durable tree after every fsync of a folder."""

    def prepare() -> None:
        contents: dict[tuple[int, int], str] = {}  # of an inode, in hexadecimal
        tree: Tree = {}
        states: list[Tree] = []
        fsync, leave = os.fsync, os._exit

        def noted(handle: int) -> None:
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

        def note(code: int) -> None:
            target.write_text(json.dumps(states))
            leave(code)

        os.fsync = noted
        os._exit = note  # type: ignore[assignment]

    return prepare


def cuts(folder: Path) -> dict[str, object]:
    """Train once, then resume from what a power cut would have left at each moment."""
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
        left += len(rubbish(out))
    return {"moments": len(states) + 1, "bit-identical": same, "files left over": left}


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with scratch() as folder:
        print(json.dumps(cuts(folder)))


if __name__ == "__main__":
    main()
