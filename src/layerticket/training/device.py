"""Device, precision, peak memory and energy meter of a training."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from layerticket.errors import LayerticketError
from layerticket.settings import DeviceName, Flag, Positive, Text, checked, settings

if TYPE_CHECKING:  # options must not import torch, which takes a second
    import torch
    from torch import nn

    from layerticket.training.distributed import Processes


@settings
class Metering:
    """Facts about the electricity and the processor; without them, energy and carbon are null."""

    country: Text | None = None
    """Country of the electricity, three letters (ISO 3166: DEU, FRA, USA), for its carbon
    intensity."""
    carbon_intensity: Positive | None = None
    """Carbon intensity in kg CO2e per kWh, instead of the country; e.g. 0.381."""
    cpu_tdp: Positive | None = None
    """Power of the processor at full load in W, if its counters cannot be read; for a virtual
    machine, the power of its share."""
    ram_power: Positive | None = None
    """Power of the memory in W; by default not counted."""

    def __post_init__(self) -> None:
        if self.country is not None and self.carbon_intensity is not None:
            raise LayerticketError(
                "country and carbon intensity are both given, but each gives the carbon intensity. "
                "Choose one."
            )
        if self.carbon_intensity is not None and self.carbon_intensity > 3:
            raise LayerticketError(
                f"carbon_intensity is {self.carbon_intensity} kg CO2e per kWh, more than any "
                "power station emits. Give kg, not g: 0.381 and not 381."
            )

    @property
    def wanted(self) -> bool:
        """Whether energy is metered: any setting is given."""
        stated = (self.country, self.carbon_intensity, self.cpu_tdp, self.ram_power)
        return any(value is not None for value in stated)


@settings
class Where:
    """Device, progress bar and energy metering; never part of the identity of a training."""

    device: DeviceName = "auto"
    """auto, cpu, cuda or cuda:N."""
    progress: Flag = True
    """Whether a progress bar is drawn on stderr."""
    metering: Metering = Metering()
    """Facts about the electricity and the processor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Electrical energy in kWh by part; None for a part that was not measured."""

    cpu_kwh: float | None = None
    gpu_kwh: float | None = None
    ram_kwh: float | None = None

    @property
    def kwh(self) -> float | None:
        """Sum of the measured parts; None if none was measured.

        Example:
            >>> Energy(cpu_kwh=0.25, gpu_kwh=0.5).kwh
            0.75
        """
        known = [part for part in (self.cpu_kwh, self.gpu_kwh, self.ram_kwh) if part is not None]
        return sum(known) if known else None

    def __add__(self, other: Energy) -> Energy:
        """Add part by part; a part that is None on one side is None in the sum."""
        mine, theirs = asdict(self), asdict(other)
        return Energy(
            **{
                name: None if mine[name] is None or theirs[name] is None else value + theirs[name]
                for name, value in mine.items()
            }
        )


class Meter(Protocol):
    """A running energy meter."""

    def lap(self) -> Energy:
        """Return the energy since the last lap, or since the start of the meter."""


class EnergyMeter:
    """Adds the energy of this session to that of earlier sessions of the same training."""

    # A lap takes milliseconds, so epochs shorter than this share one.
    every_seconds = 1.0

    def __init__(
        self, meter: Meter | None, carried: Mapping[str, float | None] | None, *, fresh: bool
    ) -> None:
        """Start from the energy of earlier sessions, None if it was not metered."""
        self._meter = meter if fresh or carried is not None else None
        self._sum = None if carried is None else Energy(**carried)
        self._last = time.perf_counter()
        if self._meter is not None:
            self._meter.lap()  # discard energy used before training

    def read(self, *, final: bool) -> dict[str, float | None] | None:
        """Return the energy so far by part, as JSON values; None if a part was not metered."""
        if self._meter is None:
            return None
        now = time.perf_counter()
        if final or self._sum is None or now - self._last >= self.every_seconds:
            lap = self._meter.lap()
            self._sum = lap if self._sum is None else self._sum + lap
            self._last = now
        return asdict(self._sum)


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: "auto" is the GPU if there is one, else the CPU."""
    import torch

    kind, _, number = checked("device", DeviceName, name).partition(":")
    available = torch.cuda.is_available()
    if kind == "cpu" or (kind == "auto" and not available):
        return torch.device("cpu")
    index, count = int(number or 0), torch.cuda.device_count() if available else 0
    if index >= count:
        raise LayerticketError(
            f"device {name!r} is not on this machine; GPUs found: {count}. Use device auto."
        )
    return torch.device("cuda", index)


def device_of(name: str, group: Processes) -> torch.device:
    """Return the device of this process: with several processes, the GPU of its local rank."""
    device = resolve_device(name)
    if group.count == 1 or device.type == "cpu":
        return device
    if ":" in name:
        raise LayerticketError(
            f"device {name!r} cannot be used by {group.count} processes. Use auto: each uses the "
            "GPU of its local rank; choose GPUs with CUDA_VISIBLE_DEVICES."
        )
    return resolve_device(f"cuda:{group.local_rank}")


def resolve_precision(
    asked: Literal["auto", "bf16", "fp32"], device: torch.device
) -> Literal["bf16", "fp32"]:
    """Return the precision to use: "auto" is bf16 if the hardware supports it, else fp32.

    On a CPU, support means AVX512_BF16 or AMX: without them bf16 is emulated and slower than fp32.
    """
    if asked not in ("auto", "bf16", "fp32"):
        raise LayerticketError(f"precision {asked!r} is not known. Use auto, bf16 or fp32.")
    if asked != "auto":
        return asked
    import torch

    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        capable = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if capable else "fp32"


def has_compiler() -> bool:
    """Whether a C++ compiler is installed, which compiling needs."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


# Training steps whose savings equal the time of compiling with an empty cache (ResNet-32, batch
# 128). CPU: two cores with AVX-512, highest of five rounds (1,070 to 1,818), `make bench
# ROWS=compile`. CUDA: compiled steps were not faster than eager ones (H200, `make bench
# ROWS=gpu-compiled`), and graphs of compiled steps, which a training would use, were not measured,
# so "auto" does not compile.
_BREAK_EVEN = {"cpu": 1818, "cuda": math.inf}


def compile_pays(asked: Literal["auto", "on", "off"], steps: int, device: torch.device) -> bool:
    """Whether to compile: as asked; for auto, if the steps are twice the measured break-even.

    Twice, because larger networks take longer to compile. With the network in the compiler's cache
    on disk it takes less time. Still the cache does not decide: the last bits of a training would
    depend on what was compiled before it. Needs a C++ compiler.
    """
    if asked != "auto":
        return asked == "on"
    return has_compiler() and steps >= 2 * _BREAK_EVEN[device.type]


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> None:
    """Move a model to a device and memory format, in place."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs


def seed_epoch(seed: int, epoch: int, device: torch.device, rank: int = 0) -> None:
    """Seed torch's random numbers (dropout etc.) from seed, epoch and process only."""
    import torch

    words = f"{seed} {epoch} {rank}" if rank else f"{seed} {epoch}"
    value = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7])
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """Use only cuDNN kernels that give the same bits each time; convolutions without TF32."""
    import torch

    cudnn = torch.backends.cudnn
    wanted = {"deterministic": True, "benchmark": False}
    if torch.cuda.is_available():
        wanted["allow_tf32"] = False
    before = {name: getattr(cudnn, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESTARTED = 32 * 2**20
"""Bytes by which peak and current memory may differ right after the peak was reset."""


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of all tensors on a GPU, else of the whole process.

    It counts since the start of the process, or since `restart_peak_memory`. On a GPU it is
    `torch.cuda.max_memory_allocated`: every tensor of this process, also from before the training,
    and the step that is recorded as a CUDA graph. Memory that PyTorch only reserves does not count:
    its cache, and that of a graph after it was recorded, which validation cannot use.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():  # getrusage also remembers the process that started us
        return _status_bytes("VmHWM")
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB, except on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak_memory(device: torch.device) -> bool:
    """Restart the count of `peak_memory_bytes`; return whether this is possible.

    It is possible on a GPU, and on Linux if the process may write ``/proc/self/clear_refs``. Freed
    memory is first returned to the system, as far as glibc can.
    """
    if device.type == "cuda":
        import torch

        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if not STATUS.exists():
        return False
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        CLEAR.write_text("5")
        return _status_bytes("VmHWM") - _status_bytes("VmRSS") < RESTARTED
    except OSError:
        return False


def _status_bytes(name: str) -> int:
    """Return an entry of ``/proc/self/status`` in bytes; Linux writes KiB."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
