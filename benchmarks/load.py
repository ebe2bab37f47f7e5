"""How busy a machine is with other programs while something is timed."""

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUSY = 0.05
"""Share of processor time of other processes above which a machine counts as busy."""
PR_SET_CHILD_SUBREAPER = 36  # source: man 2 prctl


@contextmanager
def neighbours() -> Iterator[dict[str, float | None]]:
    """Measure the share of processor time that other processes use inside; None if unknown.

    Linux counts the time of all cores in /proc/stat. Time that is neither idle nor used by this
    process and its descendants is that of others. Descendants whose parent has ended, such as the
    process that jobs of a study are forked from, become children of this process.
    """
    found: dict[str, float | None] = {"share": None}
    with _adopting_orphans():
        before = _processor_seconds()
        yield found
        after = _processor_seconds()
    if before is not None and after is not None:
        busy, whole, own = (b - a for a, b in zip(before, after, strict=True))
        found["share"] = max(0.0, busy - own) / whole if whole else 0.0


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Let descendants whose parent ends become children of this process; Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        yield
        return
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _processor_seconds() -> tuple[float, float, float] | None:
    """Return seconds so far: busy and in total, of all cores; and of this process's family."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    ticks = [int(n) for n in stat.read_text().split("\n", 1)[0].split()[1:9]]
    whole, idle = sum(ticks), ticks[3] + ticks[4]  # idle, and waiting for a disk
    own = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        own += used.ru_utime + used.ru_stime
    rate = os.sysconf("SC_CLK_TCK")
    return (whole - idle) / rate, whole / rate, own + _descendants_ticks() / rate


def _descendants_ticks() -> int:
    """Return clock ticks of all living descendants, and of those that they have waited for."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            numbers = path.read_text().rpartition(")")[2].split()  # from the third field on
            pid = int(path.parent.name)
            children.setdefault(int(numbers[1]), []).append(pid)
            ticks[pid] = sum(map(int, numbers[11:15]))  # utime, stime, cutime, cstime
    found, left = 0, list(children.get(os.getpid(), ()))
    while left:
        pid = left.pop()
        found += ticks[pid]
        left += children.get(pid, ())
    return found
