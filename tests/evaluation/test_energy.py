"""Energy: nothing is guessed, null stays null, and the library's traps stay shut."""

import logging
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import (
    CodeCarbonMeter,
    Metering,
    carbon_kg,
    intensity_of,
    metered,
)
from layerticket.training.device import Energy, Where


class FakeTracker:
    """Uses 1, 2, 3, ... kWh of CPU from lap to lap."""

    def __init__(self):
        self.laps, self.open = 0, False

    def start_task(self, name):
        assert not self.open
        self.open = True

    def stop_task(self):
        assert self.open
        self.open, self.laps = False, self.laps + 1
        return SimpleNamespace(cpu_energy=self.laps, gpu_energy=7.0, ram_energy=0.5)


def test_laps_name_only_the_parts_that_were_asked_for():
    meter = CodeCarbonMeter(FakeTracker(), ram=False, gpu=None)
    assert meter.lap() == Energy(cpu_kwh=1.0)
    assert meter.lap() == Energy(cpu_kwh=2.0)
    with_ram = CodeCarbonMeter(FakeTracker(), ram=True, gpu=None)
    assert with_ram.lap().kwh == 1.5


def test_parts_add_up_and_a_missing_part_stays_missing():
    assert Energy().kwh is None
    assert Energy(cpu_kwh=1.0) + Energy(cpu_kwh=2.0, gpu_kwh=1.0) == Energy(cpu_kwh=3.0)


def test_nothing_stated_is_null_and_needs_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with metered(Where(device="cpu")) as found:
        assert found == (None, None)
    assert carbon_kg(1.0, Metering()) is None
    assert carbon_kg(1.0, Metering(cpu_tdp=100)) is None
    assert carbon_kg(None, Metering(carbon_intensity=0.4)) is None
    assert carbon_kg(2.0, Metering(carbon_intensity=0.4)) == 0.8


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with (
        pytest.raises(LayerticketError, match=r'pip install "layerticket\[carbon\]"'),
        metered(Where(device="cpu", metering=Metering(cpu_tdp=100))),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"country": "DEU", "carbon_intensity": 0.4}, "both given"),
        ({"carbon_intensity": 381}, "kg, not g"),
        ({"carbon_intensity": 0}, "above 0"),
        ({"cpu_tdp": -1}, "above 0"),
    ],
)
def test_impossible_statements_are_refused(given, words):
    with pytest.raises(LayerticketError, match=words):
        Metering(**given)


def test_countries_are_looked_up_and_unknown_ones_refused():
    pytest.importorskip("codecarbon")
    value, source = intensity_of(Metering(country="deu"))
    assert 0.2 < value < 0.6
    assert "DEU in 20" in source
    with pytest.raises(LayerticketError, match=r"'GER' is not in .* DEU"):
        intensity_of(Metering(country="GER"))


def test_a_processor_without_counters_and_power_is_refused(monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.setattr("codecarbon.core.cpu.is_rapl_available", lambda: False)
    with (
        pytest.raises(LayerticketError, match="--cpu-tdp"),
        metered(Where(device="cpu", metering=Metering(carbon_intensity=0.4))),
    ):
        pass


def test_cpu_time_is_metered_in_silence(capfd):
    pytest.importorskip("codecarbon")
    level = logging.getLogger("codecarbon").level
    with metered(Where(device="cpu", metering=Metering(cpu_tdp=3600.0, carbon_intensity=0.4))) as (
        meter,
        method,
    ):
        meter.lap()
        matrix = torch.rand(300, 300)
        for _ in range(150):
            matrix @ matrix
        used = meter.lap()
    assert used.gpu_kwh is None
    assert used.ram_kwh is None
    assert 0 < used.cpu_kwh < 60 / 1000  # 3600 W for at most a minute
    assert "3600 W (stated)" in method
    assert "0.4 kg CO2e/kWh (stated by the user)" in method
    assert logging.getLogger("codecarbon").level == level
    assert capfd.readouterr() == ("", "")


BUSY = "import time\nwhile time.process_time() < 0.6: pass\nprint(flush=True)\n"


def test_energy_is_the_cpu_time_of_the_process_and_its_children(monkeypatch):
    codecarbon = pytest.importorskip("codecarbon")
    samples = []
    trackers = codecarbon.OfflineEmissionsTracker
    monkeypatch.setattr(trackers, "_monitor_power", lambda self: samples.append(self))
    threads = os.cpu_count()
    with metered(Where(device="cpu", metering=Metering(cpu_tdp=3.6e6 * threads))) as (meter, _):
        meter.lap()
        before = time.process_time()
        while time.process_time() < before + 1.2:  # longer than a second between two samples
            math.factorial(500)
        subprocess.run([sys.executable, "-c", BUSY], check=True, stdout=subprocess.DEVNULL)
        waiting = [sys.executable, "-c", f"{BUSY}input()"]
        with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            own = time.process_time() - before
            used = [meter.lap().cpu_kwh]  # 1 kW h for each second of one thread
            child.communicate(b"\n")
        used.append(meter.lap().cpu_kwh)
    assert own + 1.2 <= used[0] + 0.03  # times of processes are in hundredths of a second
    assert used[0] < own + 2.2  # starting Python takes time too
    assert 0 <= used[1] < 0.5  # what the second child used is not counted twice
    assert not samples
