"""Jobs for executors, in place of those of a study: the first word of its name says what one does.

A job leaves a file when it begins (its process and that one's parent) and when it is done.
"""

import os
import signal
import sys
import time
from pathlib import Path

from layerticket.files import FolderInUse, exclusive

GO, MET = "go", "met"


def job(root, name):
    with exclusive(root / "jobs" / name):
        begun = root / f"{name}.begun"
        begun.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
        begun.with_suffix(".new").replace(begun)
        DOES[name.partition("-")[0]](root, name)
        (root / f"{name}.done").touch()


def state(root):
    """A look at jobs, as a queue takes it."""
    return lambda name: "done" if (root / f"{name}.done").exists() else "open"


def until(ready, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(pid):
    """Whether a process has ended; one that nobody has asked for its exit code has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def prints(root, name):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"from below Python\n")


def raises(root, name):
    raise ArithmeticError("does not add up")


def leaves(root, name):
    sys.exit(0)


def ends(root, name):
    print("last words")
    os._exit(int(name.partition("-")[2]))


def falls(root, name):
    os.kill(os.getpid(), signal.SIGSEGV)


def dies(root, name):
    """Die once."""
    if not (root / f"{name}.died").exists():
        (root / f"{name}.died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def busy(root, name):
    raise FolderInUse("another process is doing it")


def waits(root, name):
    until((root / GO).exists)


def meets(root, name):
    """Wait until every other job that meets has begun, too."""
    until(lambda: len([*root.glob("meets-*.begun")]) >= int((root / MET).read_text()))


def looks(root, name):
    """Leave what is seen of threads, GPUs and garbage collection."""
    import gc

    import torch
    from threadpoolctl import threadpool_info

    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    seen = [torch.get_num_threads(), *(os.environ.get(name) for name in names)]
    seen += sorted({library["num_threads"] for library in threadpool_info()})
    seen += [gc.isenabled(), gc.get_freeze_count() > 0]
    (root / f"{name}.seen").write_text(" ".join(map(str, seen)))


DOES = {
    does.__name__: does
    for does in (prints, raises, leaves, ends, falls, dies, busy, waits, meets, looks)
}

if __name__ == "__main__":  # a runner, to be killed: the folder, how to start processes, the jobs
    from layerticket.study.running import executors

    folder, method, *jobs = sys.argv[1:]
    if method == "spawn":
        executors.multiprocessing.get_all_start_methods = lambda: ["spawn"]
    executor = executors.LocalExecutor(job, Path(folder), [None] * len(jobs), 1)
    for name in jobs:
        executor.submit(name)
    while True:
        for end in executor.wait(1.0):
            print(end.job, end.fate, flush=True)
