"""Finding a ticket leaves its bill, and the command line forecasts; on the digits."""

import json

import pytest

from layerticket.cli.app import main
from layerticket.cli.options import bytes_of
from layerticket.errors import LayerticketError
from layerticket.study.record import SearchBill


def answer(capsys, *words):
    assert main([*words, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_find_leaves_a_bill_and_forecasts(tmp_path, capsys):
    words = ["find", "resnet20", "--remove", "2", "--out", str(tmp_path / "t")]
    words += ["--criterion", "snip", "--forecast-epochs", "2", "--timing-rounds", "3"]
    found = answer(capsys, *words, "--batch-size", "16")
    bill = SearchBill.of(tmp_path / "t")
    assert bill.seconds == found["search_seconds"] >= found["score_seconds"]
    assert bill.kwh is None is found["search_co2_kg"]
    assert found["measured"] is None
    foreseen = found["forecast"]
    assert foreseen["steps"] == 2 * (1293 // 16)
    assert foreseen["dense"]["train_seconds"] > 0
    assert foreseen["dense"]["energy_kwh"] is None
    assert foreseen["saving"]["macs"] == 1 - found["macs"]["ticket"] / found["macs"]["dense"]


def test_a_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = answer(capsys, "train", "resnet20", "--dry-run", "--epochs", "3", "--batch-size", "16")
    assert found["epochs"] == 3
    assert found["saving"] is found["ticket"] is None
    assert not list(tmp_path.iterdir())


def test_a_ticket_of_a_trained_network_is_billed_its_training(tmp_path, capsys):
    runs = str(tmp_path / "runs")
    words = ["--epochs", "1", "--keep", "0", "--batch-size", "64", "--out", runs]
    trained = answer(capsys, "train", "resnet20", *words)
    assert main(["find", "--run", runs, "--remove", "1", "--criterion", "snip", "--json", "--out",
                 str(tmp_path / "t")]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["search_seconds"] > trained["train_seconds"]
    assert found["search_energy_kwh"] is None


def test_a_ticket_that_cannot_be_is_refused_with_what_is_possible(tmp_path, capsys):
    words = ["find", "resnet20", "--criterion", "snip", "--out", str(tmp_path / "t")]
    assert main([*words, "--save-energy", "0.2"]) == 2
    assert "--cpu-tdp" in capsys.readouterr().err
    assert main([*words, "--max-memory", "lots"]) == 2
    assert "no amount of memory" in capsys.readouterr().err
    assert main([*words, "--save-time", "0.2", "--remove", "1"]) == 2
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [("123", 123), ("2GiB", 2**31), ("900 MB", 9 * 10**8), ("1.5kB", 1500), (None, None)],
)
def test_amounts_of_memory(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "2 G", "GiB", "-1", "1e9", "2 Gibibytes"])
def test_no_amount_of_memory(text):
    with pytest.raises(LayerticketError):
        bytes_of(text)
