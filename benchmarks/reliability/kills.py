"""Kill trainings and studies, resume them, and compare the results with an uninterrupted run.

    python benchmarks/reliability/kills.py --moments 30 --studies 9

Trainings are killed (SIGKILL) at random moments, and before and after each call that makes a file
durable, renames or deletes it. Of studies, all processes, one worker or only the runner are killed,
in turns. Each is then resumed by the same command.
"""

import argparse
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import bits, ended, kill_group, leftovers, run, scratch, start, study_words, timed
from common import train_words as train

CALLS = ("fsync", "replace", "unlink", "rename")


def count_calls(folder: Path) -> int:
    """Count the calls that change the disk durably, in an uninterrupted training."""

    def prepare() -> None:
        counted = [0]
        for name in CALLS:
            _wrap(name, lambda: counted.__setitem__(0, counted[0] + 1), lambda: None)
        leave = os._exit

        def note(code: int) -> None:
            (folder / "calls").write_text(str(counted[0]))
            leave(code)

        os._exit = note  # type: ignore[assignment]

    assert run(train(folder / "counted"), prepare) == 0
    return int((folder / "calls").read_text())


def _wrap(name: str, before: Callable[[], object], after: Callable[[], object]) -> None:
    call = getattr(os, name)

    def wrapped(*args: object, **named: object) -> object:
        before()
        found = call(*args, **named)
        after()
        return found

    setattr(os, name, wrapped)


def die_at(number: int, *, behind: bool) -> Callable[[], None]:
    """Make a process kill itself before or after a call that changes the disk, by its number."""

    def prepare() -> None:
        left = [number]

        def before() -> None:
            if not behind and left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def after() -> None:
            if behind and left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        for name in CALLS:
            _wrap(name, before, after)

    return prepare


def judge(found: Counter[str], what: str, folder: Path, wanted: dict[str, object]) -> None:
    """Record whether a resumed run has the bits of the uninterrupted one and no files left over."""
    found[f"{what}: kills"] += 1
    found[f"{what}: bit-identical"] += bits(folder) == wanted
    found[f"{what}: files left over"] += len(leftovers(folder))


def at_moments(folder: Path, number: int, draws: random.Random) -> Counter[str]:
    """Kill trainings at random moments."""
    found: Counter[str] = Counter()
    seconds = timed(train(folder / "whole"))
    for _ in range(number):
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        pid = start(train(out))
        time.sleep(draws.uniform(0, seconds))
        kill_group(pid)
        found["training, any moment: done before"] += ended(pid) == 0
        assert run(train(out)) == 0
        judge(found, "training, any moment", out, bits(folder / "whole"))
    return found


def at_writes(folder: Path, most: int, draws: random.Random) -> Counter[str]:
    """Kill trainings before and after each call that changes the disk, or at `most` of these."""
    found: Counter[str] = Counter()
    assert run(train(folder / "whole")) == 0
    points = [(number, behind) for number in range(count_calls(folder)) for behind in (0, 1)]
    found["training, at a write: points"] = len(points)
    for number, behind in points if len(points) <= most else draws.sample(points, most):
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        assert run(train(out), die_at(number, behind=bool(behind))) == -signal.SIGKILL
        assert run(train(out)) == 0
        judge(found, "training, at a write", out, bits(folder / "whole"))
    return found


def workers_of(folder: Path) -> list[int]:
    """Return the numbers of the processes that are running a job."""
    found = []
    for path in folder.glob("jobs/*/.holder"):
        try:
            found.append(int(json.loads(path.read_text())["pid"]))
        except (OSError, ValueError, KeyError):
            continue
    return found


def studies(folder: Path, number: int, draws: random.Random) -> Counter[str]:
    """Kill all processes of a study, one worker, or only the runner, in turns."""
    found: Counter[str] = Counter()
    whole = folder / "whole-study"
    seconds = timed(study_words(whole, "local"))
    wanted = bits(whole)
    for turn in range(number):
        what = ("whole", "worker", "runner")[turn % 3]
        out = folder / "killed-study"
        shutil.rmtree(out, ignore_errors=True)
        words = study_words(out, "local")
        pid = start(words)
        if what != "worker":  # a worker is killed as soon as there is one
            time.sleep(draws.uniform(0.2, 0.9) * seconds)
        if what == "whole":
            kill_group(pid)
        elif what == "runner":
            os.kill(pid, signal.SIGKILL)
        else:
            while not (working := workers_of(out)):
                over = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                assert over is None, "the study ended before a worker was seen"
                time.sleep(0.01)
            os.kill(working[0], signal.SIGKILL)
        ended(pid)
        until_free(out)
        assert run(words) == 0
        judge(found, f"study, {what}", out, wanted)
    return found


def until_free(folder: Path, seconds: float = 30) -> None:
    """Wait until the workers of a killed runner have ended, as they must."""
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in workers_of(folder)):
        assert time.monotonic() < end, "a worker still runs after its runner was killed"
        time.sleep(0.05)


def main() -> None:
    """Measure, and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--writes", type=int, default=1000, help="most writes to kill at")
    parser.add_argument("--studies", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draws = random.Random(given.seed)
    asked = ((at_moments, given.moments), (at_writes, given.writes), (studies, given.studies))
    for measure, number in asked:
        if number:
            with scratch() as folder:
                print(json.dumps(measure(folder, number, draws)), flush=True)


if __name__ == "__main__":
    main()
