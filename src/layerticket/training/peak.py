"""The most memory that was held, of one training alone and not of what the process did before.

Enters: a device. Leaves: bytes, and whether they could be counted anew.
"""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

__all__ = ["peak_memory_bytes", "restart_peak_memory"]

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESTARTED = 32 * 2**20  # bytes; what other threads take between two looks is far less


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: by torch's allocator on a GPU, else by the whole process.

    So far: since the process began, or since `restart_peak_memory` began anew.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():  # getrusage also remembers the process that started us
        return _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB, except on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak_memory(device: torch.device) -> bool:
    """Let `peak_memory_bytes` count from now on, so that it is not that of earlier work.

    On a GPU torch does so. On a CPU Linux does, where a process may write its own
    ``/proc/self/clear_refs``; what was freed is given back first, as far as glibc can.

    Args:
        device: Whose peak is meant.

    Returns:
        Whether it does. If not, the peak is that of the whole life of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    _give_back()
    try:
        CLEAR.write_text("5")
        return _status_bytes("VmHWM") - _status_bytes("VmRSS") < RESTARTED
    except OSError:
        return False


def _give_back() -> None:
    """Return memory that was freed to the system, where the C library offers that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(name: str) -> int:
    """Read an entry of ``/proc/self/status``, which Linux counts in KiB."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
