"""How busy a machine is with other programs while something is timed."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSY = 0.05
"""Share of processor time of other processes above which a machine counts as busy."""


@contextmanager
def neighbours() -> Iterator[dict[str, float | None]]:
    """Measure the share of processor time that other processes use inside; None if unknown.

    Linux counts the time of all cores in /proc/stat. Time that is neither idle nor used by this
    process and its children is that of others.
    """
    found: dict[str, float | None] = {"share": None}
    before = _processor_seconds()
    yield found
    after = _processor_seconds()
    if before is not None and after is not None:
        busy, whole, own = (b - a for a, b in zip(before, after, strict=True))
        found["share"] = max(0.0, busy - own) / whole if whole else 0.0


def _processor_seconds() -> tuple[float, float, float] | None:
    """Return seconds so far: busy and in total, of all cores; and of this process and children."""
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
    return (whole - idle) / rate, whole / rate, own
