"""Where a training runs and how it is observed: device, precision, peak memory, energy."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from layerticket.errors import LayerticketError
from layerticket.settings import DeviceName, Flag, Positive, Text, settings

if TYPE_CHECKING:  # torch takes a second to import, and options have to be there before it
    import torch
    from torch import nn

    from layerticket.training.distributed import Processes


@settings
class Metering:
    """What is known about energy; with none of it given, energy and carbon are null."""

    country: Text | None = None
    """Country of the electricity, three letters (ISO 3166: DEU, FRA, USA), for its carbon
    intensity."""
    carbon_intensity: Positive | None = None
    """Its carbon intensity in kg CO2e per kWh, instead of the country; e.g. 0.381."""
    cpu_tdp: Positive | None = None
    """Power of the processor at full load in W, where its counters cannot be read; for a virtual
    machine that of its share."""
    ram_power: Positive | None = None
    """Power of the memory in W; left out unless given."""

    def __post_init__(self) -> None:
        if self.country is not None and self.carbon_intensity is not None:
            raise LayerticketError(
                "country and carbon intensity are both given; the one stands for the other. "
                "Choose one."
            )
        if self.carbon_intensity is not None and self.carbon_intensity > 3:
            raise LayerticketError(
                f"carbon_intensity is {self.carbon_intensity} kg CO2e per kWh, more than any "
                "power station emits. Give kg, not g: 0.381 and not 381."
            )

    @property
    def wanted(self) -> bool:
        """Whether anything was stated, so that energy is to be metered."""
        stated = (self.country, self.carbon_intensity, self.cpu_tdp, self.ram_power)
        return any(value is not None for value in stated)


@settings
class Where:
    """Where work is done and how it is observed; never part of what identifies a training."""

    device: DeviceName = "auto"
    """auto, cpu, cuda or cuda:N."""
    progress: Flag = True
    """Whether a progress bar is drawn on stderr."""
    metering: Metering = Metering()
    """What is known about energy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Electrical energy in kWh, by part; None for a part that was not measured."""

    cpu_kwh: float | None = None
    gpu_kwh: float | None = None
    ram_kwh: float | None = None

    @property
    def kwh(self) -> float | None:
        """Sum of the parts that were measured; None when none was.

        Example:
            >>> Energy(cpu_kwh=0.25, gpu_kwh=0.5).kwh
            0.75
        """
        known = [part for part in (self.cpu_kwh, self.gpu_kwh, self.ram_kwh) if part is not None]
        return sum(known) if known else None

    def __add__(self, other: Energy) -> Energy:
        """Add part by part; a part that one side lacks is lacking in the sum."""
        mine, theirs = asdict(self), asdict(other)
        return Energy(
            **{
                name: None if mine[name] is None or theirs[name] is None else value + theirs[name]
                for name, value in mine.items()
            }
        )


class Meter(Protocol):
    """A meter of energy that runs."""

    def lap(self) -> Energy:
        """Return the energy since the last lap, or since the meter was started."""


class EnergyMeter:
    """Adds the laps of a session to what earlier sessions of the same training used."""

    # A lap costs milliseconds, so epochs shorter than this share one.
    every_seconds = 1.0

    def __init__(
        self, meter: Meter | None, carried: Mapping[str, float | None] | None, *, fresh: bool
    ) -> None:
        """Start from the energy of earlier sessions, which is None where it was not metered."""
        self._meter = meter if fresh or carried is not None else None
        self._sum = None if carried is None else Energy(**carried)
        self._last = time.perf_counter()
        if self._meter is not None:
            self._meter.lap()  # what came before training is not its own

    def read(self, *, final: bool) -> dict[str, float | None] | None:
        """Energy so far by part, as JSON values; None when a part of the training was unmetered."""
        if self._meter is None:
            return None
        now = time.perf_counter()
        if final or self._sum is None or now - self._last >= self.every_seconds:
            lap = self._meter.lap()
            self._sum = lap if self._sum is None else self._sum + lap
            self._last = now
        return asdict(self._sum)


def resolve_device(wish: str) -> torch.device:
    """Device for a wish: "auto" is the GPU where there is one, else the CPU."""
    import torch

    available = torch.cuda.is_available()
    if wish == "auto":
        wish = "cuda" if available else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError as err:
        raise LayerticketError(
            f"device {wish!r} is not known. Use auto, cpu, cuda or cuda:N."
        ) from err
    if device.type not in ("cpu", "cuda"):
        raise LayerticketError(f"device {wish!r} is not supported. Use auto, cpu, cuda or cuda:N.")
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if available else 0
    if (device.index or 0) >= count:
        raise LayerticketError(
            f"device {wish!r} is not on this machine; GPUs found: {count}. Use device auto."
        )
    return torch.device("cuda", device.index or 0)


def device_of(wish: str, group: Processes) -> torch.device:
    """Device of this process: as `resolve_device`, or the GPU that has the process's number."""
    device = resolve_device(wish)
    if group.count == 1 or device.type == "cpu":
        return device
    if ":" in wish:
        raise LayerticketError(
            f"device {wish!r} cannot serve {group.count} processes. Use auto: each takes the GPU "
            "of its number; CUDA_VISIBLE_DEVICES leaves out the others."
        )
    return resolve_device(f"cuda:{group.local_rank}")


def resolve_precision(
    wish: Literal["auto", "bf16", "fp32"], device: torch.device
) -> Literal["bf16", "fp32"]:
    """Precision for a wish: "auto" is bf16 where the hardware multiplies in it, else fp32.

    On a CPU that means AVX512_BF16 or AMX: without them bf16 is emulated and slower than fp32.
    """
    if wish not in ("auto", "bf16", "fp32"):
        raise LayerticketError(f"precision {wish!r} is not known. Use auto, bf16 or fp32.")
    if wish != "auto":
        return wish
    import torch

    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        capable = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if capable else "fp32"


# Below this many steps compiling takes longer than it saves: tens of seconds of compilation
# against a few milliseconds saved a step of a small network.
_COMPILE_PAYS_FROM_STEPS = 20_000


def compile_pays(wish: Literal["auto", "on", "off"], steps: int, device: torch.device) -> bool:
    """Whether to compile: as wished, or on CUDA in a run of many steps with a compiler at hand."""
    if wish != "auto":
        return wish == "on"
    compilers = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    return device.type == "cuda" and steps >= _COMPILE_PAYS_FROM_STEPS and compilers


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> None:
    """Bring a model to the device in the memory format asked for, in place."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs


def seed_epoch(seed: int, epoch: int, device: torch.device, rank: int = 0) -> None:
    """Seed torch's random numbers (dropout and the like) from seed, epoch and process alone."""
    import torch

    words = f"{seed} {epoch} {rank}" if rank else f"{seed} {epoch}"
    value = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7])
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)


@contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Put torch's global random state back as it was at the end."""
    import torch

    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        yield


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """Let cuDNN use only kernels that give the same bits each time."""
    import torch

    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESTARTED = 32 * 2**20  # bytes; what other threads take between two looks is far less


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: by torch's allocator on a GPU, else by the whole process.

    So far: since the process began, or since `restart_peak_memory` began anew.
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
    """Let `peak_memory_bytes` count from now on; return whether it does.

    On a GPU torch does so. On a CPU Linux does, where a process may write its own
    ``/proc/self/clear_refs``; what was freed is given back first, as far as glibc can.
    """
    if device.type == "cuda":
        import torch

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
    """Read an entry of ``/proc/self/status``, which Linux counts in KiB."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
