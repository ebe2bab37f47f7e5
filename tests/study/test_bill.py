"""The energy of a run is training and search, and null when a part of it is."""

import contextlib

import pytest

from layerticket.evaluation.energy import Metering
from layerticket.study.record import (
    LATER_KEYS,
    RESULT_KEYS,
    SearchBill,
    energy_bill,
    execute,
    load_result,
    write_record,
)
from layerticket.training.device import Energy, Tally
from study_toy import CONFIG
from toy_training import make_data, make_model


class Meter:
    def __init__(self):
        self.laps = 0

    def lap(self):
        self.laps += 1
        return Energy(cpu_kwh=1.0)


@pytest.fixture
def meter(monkeypatch):
    meter = Meter()
    lent = contextlib.nullcontext((meter, "fake"))
    monkeypatch.setattr("layerticket.study.record.metered", lambda *_: lent)
    return meter


def run(out, **options):
    return execute(
        CONFIG,
        dataset=make_data(),
        build=make_model,
        out=out,
        device="cpu",
        progress=False,
        **options,
    )


def test_training_and_search_make_the_bill(tmp_path, meter):
    search = SearchBill(seconds=1.0, kwh=0.5, method="fake")
    found = run(tmp_path, metering=Metering(carbon_intensity=0.5), search=search)
    assert tuple(found) == RESULT_KEYS
    # one lap before training, one at the end of the first epoch, one at the end
    trained = found["energy"]["train_kwh"]
    assert trained == meter.laps - 1 == 2
    assert found["energy_kwh"] == trained + 0.5
    assert found["co2_kg"] == pytest.approx(0.5 * found["energy_kwh"])
    assert found["energy_method"] == "fake"
    assert found["energy"]["gpu_kwh"] is None
    assert 0 < found["data_wait_share"] < 1


def test_a_search_that_was_not_metered_leaves_the_sum_null(tmp_path, meter):
    bill = energy_bill({"cpu_kwh": 2.0}, SearchBill.of(tmp_path), Metering(cpu_tdp=1), "m")
    assert bill["energy_kwh"] is None
    assert bill["co2_kg"] is None
    assert bill["energy"]["train_kwh"] == 2.0


def test_bills_lie_beside_tickets(tmp_path):
    bill = SearchBill(seconds=2.0, kwh=0.25, method="m")
    bill.save(tmp_path)
    assert SearchBill.of(tmp_path) == bill
    assert SearchBill.of(None) == SearchBill(seconds=0.0, kwh=0.0)


def test_a_training_metered_in_part_is_not_metered():
    assert Tally(Meter(), None, fresh=False).read(final=True) is None
    assert Tally(None, {"cpu_kwh": 1.0}, fresh=False).read(final=True) is None
    carried = Tally(Meter(), {"cpu_kwh": 1.0}, fresh=False)
    assert carried.read(final=True)["cpu_kwh"] == 2.0
    quick = Tally(Meter(), {"cpu_kwh": 1.0}, fresh=False)
    assert quick.read(final=False)["cpu_kwh"] == 1.0  # shares the next lap


def test_results_from_before_these_figures_read_as_null(tmp_path):
    found = run(tmp_path)
    folder = tmp_path / CONFIG.name
    old = {key: value for key, value in found.items() if key not in LATER_KEYS}
    write_record(folder / "result.json", old)
    read = load_result(folder)
    assert tuple(read) == RESULT_KEYS
    assert all(read[key] is None for key in LATER_KEYS)


def test_what_was_paid_before_is_part_of_the_bill():
    dense = SearchBill(seconds=10.0, kwh=2.0)
    assert dense.plus(SearchBill(seconds=1.0, kwh=0.5, method="m")) == SearchBill(
        seconds=11.0, kwh=2.5, method="m"
    )
    assert SearchBill(seconds=1.0, kwh=None).plus(dense).kwh is None
