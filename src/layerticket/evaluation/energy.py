"""Measure electrical energy with CodeCarbon, and compute carbon from it.

Energy is measured only if the user describes the electricity or the processor. Nothing is guessed:
without a counter and a stated power, metering raises an error. Only CodeCarbon's energies are used,
not its carbon: for an unknown country it uses 475 g/kWh and only writes a log line.
"""

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from layerticket.errors import LayerticketError, need
from layerticket.training.device import Energy, Meter, Metering, Where, resolve_device

if TYPE_CHECKING:
    import torch

WHY = (
    "metering energy needs CodeCarbon. Leave out country, carbon intensity, CPU and RAM power "
    "(energy is then null), or install it"
)


class CodeCarbonMeter:
    """A running CodeCarbon tracker, read in laps."""

    def __init__(
        self,
        tracker: Any,  # noqa: ANN401 - CodeCarbon has no types
        *,
        ram: bool,
        gpu: "torch.device | None",
        cpu_tdp: float | None = None,
    ) -> None:
        self._tracker, self._ram, self._gpu, self._tdp = tracker, ram, gpu, cpu_tdp
        self._seconds = 0.0 if cpu_tdp is None else cpu_seconds()
        self._tracker.start_task(uuid.uuid4().hex)

    def lap(self) -> Energy:
        """Return the energy since the last lap; a lap costs about 4 ms."""
        if self._gpu is not None:
            import torch

            torch.cuda.synchronize(self._gpu)
        used = self._tracker.stop_task()
        self._tracker.start_task(uuid.uuid4().hex)
        cpu_kwh = float(used.cpu_energy)
        if self._tdp is not None:
            # CodeCarbon misses what a child process uses after its last sample of it.
            seconds, self._seconds = self._seconds, max(self._seconds, cpu_seconds())
            cpu_kwh = (self._seconds - seconds) * self._tdp / (os.cpu_count() or 1) / 3.6e6
        return Energy(
            cpu_kwh=cpu_kwh,
            gpu_kwh=float(used.gpu_energy) if self._gpu is not None else None,
            ram_kwh=float(used.ram_energy) if self._ram else None,
        )


def cpu_seconds() -> float:
    """Return the CPU seconds that this process and its child processes have used, ended or not.

    A process that outlives its parent is no child any more.
    """
    import psutil

    seconds = sum(os.times()[:4])  # its own, and those of children that have ended
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended in the meantime
            seconds += sum(child.cpu_times()[:4])
    return seconds


@contextmanager
def metered(where: Where) -> Iterator[tuple[Meter | None, str | None]]:
    """Start an energy meter; this takes seconds, which are not in the first lap.

    Args:
        where: Energy settings, and the device; a GPU is metered too.

    Yields:
        The meter and a sentence on how it measures; None and None without energy settings.

    Raises:
        LayerticketError: If CodeCarbon is not installed or does not know the country, or the
            processor has neither a readable counter nor a stated power.
    """
    if not where.metering.wanted:
        yield None, None
        return
    device = resolve_device(where.device)
    with _tracker(where.metering, device) as (tracker, method):
        gpu = device if device.type == "cuda" else None
        ram, tdp = where.metering.ram_power is not None, where.metering.cpu_tdp
        meter = CodeCarbonMeter(tracker, ram=ram, gpu=gpu, cpu_tdp=tdp)
        yield meter, method


def carbon_kg(kwh: float | None, metering: Metering) -> float | None:
    """Return the carbon of an energy: kWh times intensity; None if either is not known.

    Args:
        kwh: Energy.
        metering: Gives the intensity, or the country to look it up.

    Returns:
        kg CO2e.

    Example:
        >>> carbon_kg(2.0, Metering(carbon_intensity=0.25))
        0.5
    """
    intensity = None if kwh is None else intensity_of(metering)
    return None if kwh is None or intensity is None else kwh * intensity[0]


def intensity_of(metering: Metering) -> tuple[float, str] | None:
    """Return the carbon intensity in kg CO2e per kWh, and its source; None if not given.

    Raises:
        LayerticketError: If CodeCarbon is not installed or does not know the country.
    """
    if metering.carbon_intensity is not None:
        return metering.carbon_intensity, "stated by the user"
    if metering.country is None:
        return None
    table = _codecarbon("codecarbon.input").DataSource().get_global_energy_mix_data()
    code = metering.country.upper()
    if code not in table:
        near = sorted(c for c in table if c[:2] == code[:2])
        raise LayerticketError(
            f"country {metering.country!r} is not in CodeCarbon's table of {len(table)} countries. "
            f"Give the three letters of ISO 3166, such as {', '.join([*near, 'DEU', 'USA'][:3])}, "
            "or the carbon intensity in kg CO2e per kWh."
        )
    entry = table[code]
    return entry["carbon_intensity"] / 1000, f"{code} in {entry['year']}, table of CodeCarbon"


@contextmanager
def _tracker(metering: Metering, device: "torch.device") -> Iterator[tuple[Any, str]]:
    """Start and stop a silent tracker."""
    codecarbon = _codecarbon()
    logger = logging.getLogger("codecarbon")
    before = logger.level
    logger.setLevel(logging.ERROR)  # its log_level is set too late for the first lines
    try:
        method = _method(metering, device)
        tracker = codecarbon.OfflineEmissionsTracker(
            tracking_mode="process",
            force_cpu_power=metering.cpu_tdp,
            force_ram_power=metering.ram_power or 0,
            force_carbon_intensity_g_co2e_kwh=1.0,  # not used, see above
            country_iso_code="DEU",  # not used either, but must be valid
            gpu_ids=_gpu_ids(device),
            pue=1.0,
            output_methods=[],
            allow_multiple_runs=True,
            log_level="error",
        )
        sampler = getattr(tracker, "_scheduler_monitor_power", None)
        if sampler is not None and device.type == "cpu":
            # Its samples, one a second, cost a training 1 % of a core. No energy here needs them:
            # counters, CPU time and the time of the RAM are read at laps.
            sampler.interval = threading.TIMEOUT_MAX
        tracker.start()
        if getattr(tracker, "_start_time", None) is None:  # it hides its own errors
            raise RuntimeError(
                "CodeCarbon did not start, so energy cannot be metered. Leave out the energy "
                f"options, or install another version than {version('codecarbon')}."
            )
        try:
            yield tracker, method
        finally:
            tracker.stop()
    finally:
        logger.setLevel(before)


def _method(metering: Metering, device: "torch.device") -> str:
    """Return a sentence on how energy is measured here; raise if it would be a guess."""
    if metering.cpu_tdp is not None:
        power = f"{metering.cpu_tdp:g} W (stated)"
        cpu = f"CPU time of the process and its children x {power} / hardware threads"
    elif _codecarbon("codecarbon.core.cpu").is_rapl_available():
        cpu = "CPU by its RAPL counters (the whole package)"
    else:
        raise LayerticketError(
            "the energy counters of this processor (RAPL) cannot be read. Give its power at full "
            "load in W with --cpu-tdp, or leave out all energy options (energy is then null)."
        )
    gpu = "GPU by its NVML counter (the whole board)" if device.type == "cuda" else "no GPU"
    ram = f"RAM {metering.ram_power:g} W (stated)" if metering.ram_power else "RAM left out"
    intensity = intensity_of(metering)
    carbon = f"{intensity[0]:g} kg CO2e/kWh ({intensity[1]})" if intensity else "carbon not asked"
    return f"CodeCarbon {version('codecarbon')}: {cpu}; {gpu}; {ram}; {carbon}"


def _gpu_ids(device: "torch.device") -> list[int] | None:
    """Return the number of the GPU in NVML, which CUDA_VISIBLE_DEVICES does not change."""
    if device.type != "cuda":
        return None
    import pynvml
    import torch

    pynvml.nvmlInit()
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return [int(pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(name)))]


def _codecarbon(module: str = "codecarbon") -> Any:  # noqa: ANN401 - a module without types
    """Import CodeCarbon, or a module of it; if missing, raise with the install command."""
    return need(module, extra="carbon", why=WHY)
