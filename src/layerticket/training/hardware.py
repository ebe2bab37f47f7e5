"""What the machine can do, and process-wide switches that are always put back as they were.

Enters: a wish ("auto", "bf16", "cuda"). Leaves: a device, a precision, or a context that ends
without a trace. Refuses to know networks, recipes and data.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.training.processes import Processes

__all__ = [
    "compile_pays",
    "forked_random_state",
    "own_accelerator",
    "own_device",
    "place",
    "repeatable_kernels",
    "resolve_device",
    "resolve_precision",
    "seed_epoch",
]

# Below this many steps compiling takes longer than it saves: tens of seconds of compilation
# against a few milliseconds saved a step of a small network.
_COMPILE_PAYS_FROM_STEPS = 20_000


def resolve_device(wish: str) -> torch.device:
    """Device for a wish: "auto" is the GPU where there is one, else the CPU.

    Args:
        wish: "auto", "cpu", "cuda" or "cuda:1".

    Returns:
        The device.

    Raises:
        LayerticketError: If the device is unknown or absent.
    """
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
    if device.type == "cuda":
        count = torch.cuda.device_count() if available else 0
        if (device.index or 0) >= count:
            raise LayerticketError(
                f"device {wish!r} is not on this machine; GPUs found: {count}. Use device auto."
            )
        return torch.device("cuda", device.index or 0)
    return torch.device("cpu")


def own_device(wish: str, team: Processes) -> torch.device:
    """Device of this process: as `resolve_device`, or the GPU that has the process's number.

    Args:
        wish: "auto", "cpu" or "cuda"; "cuda:1" too where there is one process.
        team: The processes.

    Returns:
        The device.

    Raises:
        LayerticketError: If the device is unknown or absent, or is to serve several processes.
    """
    device = resolve_device(wish)
    if team.count == 1 or device.type == "cpu":
        return device
    if ":" in wish:
        raise LayerticketError(
            f"device {wish!r} cannot serve {team.count} processes. Use auto: each takes the GPU of "
            "its number; CUDA_VISIBLE_DEVICES leaves out the others."
        )
    return resolve_device(f"cuda:{team.local_rank}")


def resolve_precision(
    wish: Literal["auto", "bf16", "fp32"], device: torch.device
) -> Literal["bf16", "fp32"]:
    """Precision for a wish: "auto" is bf16 where the hardware multiplies in it, else fp32.

    On a CPU that means AVX512_BF16 or AMX: without them bf16 is emulated and slower than fp32.

    Args:
        wish: "auto", "bf16" or "fp32"; the last two are taken at their word.
        device: Where the mathematics runs.

    Returns:
        The precision.

    Raises:
        LayerticketError: If the wish is another word.
    """
    if wish not in ("auto", "bf16", "fp32"):
        raise LayerticketError(f"precision {wish!r} is not known. Use auto, bf16 or fp32.")
    if wish != "auto":
        return wish
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        capable = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if capable else "fp32"


def compile_pays(wish: Literal["auto", "on", "off"], steps: int, device: torch.device) -> bool:
    """Whether to compile: as wished, or on CUDA in a run of many steps with a compiler at hand."""
    if wish != "auto":
        return wish == "on"
    compilers = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    return device.type == "cuda" and steps >= _COMPILE_PAYS_FROM_STEPS and compilers


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> None:
    """Bring a model to the device in the memory format asked for, in place."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs


def seed_epoch(seed: int, epoch: int, device: torch.device, rank: int = 0) -> None:
    """Seed torch's random numbers (dropout and the like) from seed, epoch and process alone."""
    words = f"{seed} {epoch} {rank}" if rank else f"{seed} {epoch}"
    value = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7])
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)


@contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Put torch's global random state back as it was at the end."""
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        yield


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """Let cuDNN use only kernels that give the same bits each time."""
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def own_accelerator(
    device: torch.device,
    precision: Literal["bf16", "fp32"],
    *,
    compiled: bool,
    count: int = 1,
    **more: Any,  # noqa: ANN401 - handed on as it is
) -> Iterator[Accelerator]:
    """Lend an Accelerator of our own, leaving one that the caller may have as it was.

    Accelerate keeps precision and device once per process; two trainings of one process may
    differ in both, so the shared state is set aside and brought back.

    Args:
        device: Where this process computes.
        precision: Number format of the mathematics.
        compiled: Whether torch.compile is used.
        count: How many processes take part; another number is refused.
        more: Further arguments of Accelerator.
    """
    shared = (AcceleratorState._shared_state, PartialState._shared_state)
    before = [dict(state) for state in shared]
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            device_placement=False,
            mixed_precision="bf16" if precision == "bf16" else "no",
            cpu=device.type == "cpu",
            dynamo_backend="inductor" if compiled else "no",
            **more,
        )
        if accelerator.num_processes != count:
            raise LayerticketError(
                f"{accelerator.num_processes} processes were started, but this is done by {count}. "
                "Start this in one process; to train in several, use torchrun or accelerate launch."
            )
        yield accelerator
    finally:
        for state, content in zip(shared, before, strict=True):
            state.clear()
            state.update(content)
