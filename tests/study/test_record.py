"""Costs: each training and search has its own, and they are added up, each once."""

import pytest

from layerticket.errors import LayerticketError
from layerticket.study.record import Bill, Cost, energy_figures, environment, run_folder
from layerticket.training.device import Energy, EnergyMeter, Metering


class Meter:
    def __init__(self):
        self.laps = 0

    def lap(self):
        self.laps += 1
        return Energy(cpu_kwh=1.0)


def test_what_is_shared_counts_once():
    dense = Bill(items={"dense": Cost(train_seconds=10.0, energy_kwh=2.0, co2_kg=1.0)})
    part = Bill(items={"dense": Cost(train_seconds=5.0, energy_kwh=1.0, co2_kg=0.5)})
    search = Bill(items={"search-a": Cost(search_seconds=1.0, energy_kwh=0.5, co2_kg=0.25)})
    assert (part | search).total == Cost(
        train_seconds=5.0, search_seconds=1.0, energy_kwh=1.5, co2_kg=0.75
    )
    assert (part | dense).total == (dense | part).total == dense.total  # the longer part
    assert (dense | search | part | search).total.energy_kwh == 2.5
    assert Bill.of((dense | search).as_record()) == dense | search


def test_what_was_not_metered_leaves_the_sum_null():
    half = Cost(train_seconds=1.0, energy_kwh=None, co2_kg=None)
    total = half + Cost(train_seconds=1.0, energy_kwh=1.0, co2_kg=1.0)
    assert (total.train_seconds, total.energy_kwh, total.co2_kg) == (2.0, None, None)
    assert half.share(0.5) == Cost(train_seconds=0.5, energy_kwh=None, co2_kg=None)
    assert Bill.of_ticket(None) == Bill(items={})
    assert energy_figures(None, "m", Metering(cpu_tdp=1)) == {
        "energy_kwh": None, "co2_kg": None, "energy": None, "energy_method": None
    }  # fmt: skip


def test_a_training_metered_in_part_is_not_metered():
    assert EnergyMeter(Meter(), None, fresh=False).read(final=True) is None
    assert EnergyMeter(None, {"cpu_kwh": 1.0}, fresh=False).read(final=True) is None
    carried = EnergyMeter(Meter(), {"cpu_kwh": 1.0}, fresh=False)
    assert carried.read(final=True)["cpu_kwh"] == 2.0
    quick = EnergyMeter(Meter(), {"cpu_kwh": 1.0}, fresh=False)
    assert quick.read(final=False)["cpu_kwh"] == 1.0  # shares the next lap


def test_a_ticket_without_a_bill_has_no_known_cost(tmp_path):
    assert Bill.of_ticket(tmp_path) is None


def test_no_device_is_looked_at_unless_asked(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: 1 / 0)
    assert environment()["gpu"] is None


def test_one_run_in_a_folder_is_meant(tmp_path):
    with pytest.raises(LayerticketError, match="is not a run"):
        run_folder(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    assert run_folder(tmp_path / "a") == tmp_path / "a"
    with pytest.raises(LayerticketError, match="contains 2 runs; name one of them: a, b"):
        run_folder(tmp_path)
