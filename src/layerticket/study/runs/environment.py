"""Where a run took place. Leaves: versions and hardware as JSON values; no names of people."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from layerticket.training import resolve_device

__all__ = ["environment"]


def environment(device: str = "auto") -> dict[str, Any]:
    """Describe the software and the hardware that decide how fast and how exactly a run goes.

    Args:
        device: As in `layerticket.training.fit`.

    Returns:
        Versions, platform, CPU, threads of torch, and the GPU (None when the CPU is used).

    Raises:
        LayerticketError: If the device is absent.
    """
    where = resolve_device(device)
    return {
        "layerticket": version("layerticket"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "accelerate": version("accelerate"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" else None,
    }


def _cpu() -> str:
    """Name of the processor, with what torch makes of it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
