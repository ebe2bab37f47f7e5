"""Searches by name: found, saved with a bill, trained, evaluated, compared; on the digits."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from layerticket.baselines.controls import CONTROLS
from layerticket.cli.app import main
from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.study.evaluate import evaluate_run, similarity_of, trained_network
from layerticket.study.methods import (
    METHODS,
    ControlMethod,
    FiltersMethod,
    ImpMethod,
    LotteryMethod,
    ShallowerMethod,
    TicketMethod,
    WeightsMethod,
)
from layerticket.study.plan import unfold
from layerticket.study.record import Bill, Removal, Result
from layerticket.study.search import SEARCHES, Search, find, find_imp, find_shallower
from layerticket.study.toml import read_study
from layerticket.study.train import Networks, train_network
from layerticket.tensors import load_tensors, tensor_digest
from layerticket.ticket.ticket import Ticket, weights_digest
from layerticket.training.checkpoint import load_snapshot
from layerticket.training.device import Where
from layerticket.training.recipe import Recipe
from toy_lottery import few_digits

MODEL = "resnet20-projection"
RECIPE = Recipe(epochs=2, batch_size=64, precision="fp32")
HOW = {"seed": 0, "where": Where(device="cpu", progress=False)}
AT = {"model": MODEL, "seed": 0, "where": Where(device="cpu")}


def search(method, data, out, **at):
    at = AT | at
    return find(method, Search(networks=Networks.of(data), dataset=data, out=out, **at))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A ticket, and the dense training with its snapshots."""
    folder, data = tmp_path_factory.mktemp("baselines"), few_digits()
    search(TicketMethod(criterion="snip"), data, folder / "ticket", budget=Budget(remove=1))
    dense = train_network(MODEL, data, RECIPE, out=folder / "runs", snapshots="0,1", **HOW)
    return folder, data, Path(dense["run"])


@pytest.mark.parametrize(
    ("method", "at", "by"),
    [
        (ControlMethod(control="random"), {"draw": 1}, "macs"),
        (FiltersMethod(criterion="snip", match="filters"), {}, "filters"),
        (WeightsMethod(criterion="magnitude"), {}, "params"),
    ],
    ids=["control", "filters", "weights"],
)
def test_what_is_found_trains_and_is_compared(method, at, by, home, tmp_path):
    home_folder, data, dense = home
    at = at | {"reference": home_folder / "ticket"}
    record = json.loads(json.dumps(search(method, data, tmp_path / "found", **at)))
    assert record["match"]["by"] == by
    assert record["match"]["difference"] == 0
    bill = Bill.of_ticket(tmp_path / "found")
    assert bill.total.search_seconds == record["search_seconds"] > 0
    found = Ticket.load(record["ticket"])
    assert record["params"] == found.params
    assert record["macs"] == found.macs
    how = HOW | {"out": tmp_path / "runs", "ticket": tmp_path / "found"}
    run = train_network(MODEL, data, RECIPE, **how)
    folder = Path(run["run"])
    config = json.loads((folder / "run.json").read_text())["config"]
    assert config["removed"] == Removal.of(found).identity == Removal.load(folder).identity
    assert not (folder / "ticket").exists()  # what was removed, and never who chose it
    again = evaluate_run(folder, data, ["test"], device="cpu")
    assert again["results"]["test"]["accuracy"] == run["test_accuracy"]
    network = trained_network(folder, Networks.of(data))
    assert all("_orig" not in name for name in network.state_dict())
    likeness = similarity_of(data, Networks.of(data), folder, dense, images=60)
    values = [value for value in likeness["layers"].values() if value is not None]
    assert likeness["mean"] == pytest.approx(sum(values) / len(values))
    assert all(0 < value < 1 for value in values)
    lacking = {name for name, value in likeness["layers"].items() if value is None}
    assert lacking == (set(record["removed"]) if by == "macs" else set())
    assert len(likeness["layers"]) == 11  # stem, nine blocks, head


def test_each_block_alone(home, tmp_path):
    folder, data, _ = home
    reference = folder / "ticket"
    found = [
        search(ControlMethod(control="each"), data, tmp_path / str(i), draw=i, reference=reference)[
            "removed"
        ]
        for i in range(2)
    ]
    blocks = Ticket.load(reference).blocks
    assert found == [[blocks[0].name], [blocks[1].name]]


def test_iterative_pruning_trains_its_rounds_and_goes_on_where_it_was(home, tmp_path):
    folder, data, dense = home
    at = {"dense": dense, "reference": folder / "ticket"}
    method = ImpMethod(rounds=2, rewind="50%")
    record = search(method, data, tmp_path / "imp", **at)
    assert record["match"]["difference"] == 0
    assert len(record["rounds"]) == 2
    assert record["rounds"][0] == pytest.approx(record["rounds"][1] ** 0.5)
    first, last = (Ticket.load(tmp_path / "imp" / f) for f in ("rounds/ticket-1", ""))
    assert last.rewind_epoch == first.rewind_epoch == 1
    assert first.params["ticket"] > last.params["ticket"]
    (between,) = record["runs"]
    state = load_tensors(Path(between) / "model.safetensors")[0]
    for name, mask in first.masks.items():
        assert not state[f"{name}_orig"][~mask].any()
        assert bool((mask | ~last.masks[name]).all())
    # Rounds are trainings with a cost of their own; the bill has each once.
    bill = Bill.of_ticket(tmp_path / "imp")
    known = {dense.name, Path(between).name}
    assert known < bill.items.keys()
    trained = [Result.load(run).train_seconds for run in (dense, Path(between))]
    assert bill.total.train_seconds == pytest.approx(sum(trained))
    assert record["search_seconds"] > sum(trained)
    stamp = (Path(between) / "model.safetensors").stat().st_mtime_ns
    place = {"networks": Networks.of(data), "dataset": data, "out": tmp_path / "imp"}
    again = find_imp(method, Search(**AT, **at, **place))
    assert again["params"] == record["params"]
    # The search of every round counts, not only that of the last.
    rounds = [cost.search_seconds for cost in Bill.of_ticket(tmp_path / "imp").items.values()]
    assert again["search_seconds"] == pytest.approx(sum(rounds))
    assert again["search_seconds"] > max(rounds)
    assert (Path(between) / "model.safetensors").stat().st_mtime_ns == stamp
    how = HOW | {"out": tmp_path / "runs", "ticket": tmp_path / "imp"}
    run = train_network(MODEL, data, RECIPE, **how)
    assert run["epochs"] == 1
    with pytest.raises(LayerticketError, match="starts from the dense network"):
        search(method, data, tmp_path / "x", **at | {"dense": Path(run["run"])})


def test_a_ticket_of_a_trained_network_is_billed_the_epochs_it_needs(home, tmp_path):
    _, data, dense = home
    whole = Result.load(dense).train_seconds
    bills = []
    for score, rewind in (("100%", "0"), ("1", "0"), ("0", "1"), ("1", "1")):
        method, out = LotteryMethod(criterion="magnitude", score_at=score, rewind=rewind), tmp_path
        out /= f"{score}-{rewind}"
        search(method, data, out, dense=dense, budget=Budget(remove=1), seed=None)
        bills.append(Bill.of_ticket(out).total.train_seconds)
    assert bills[0] == whole
    assert 0 < bills[1] < whole
    assert bills[1:] == [bills[1]] * 3  # the epoch to rewind to was trained too


def test_the_unknown_cost_of_an_earlier_search_stays_unknown(home, tmp_path):
    folder, data, _ = home
    Ticket.load(folder / "ticket").save(tmp_path / "first")  # without a bill
    how = HOW | {"out": tmp_path / "runs", "ticket": tmp_path / "first"}
    run = Path(train_network(MODEL, data, RECIPE, **how)["run"])
    method = LotteryMethod(criterion="magnitude")
    record = search(method, data, tmp_path / "next", dense=run, budget=Budget(remove=2), seed=None)
    assert record["search_seconds"] is None
    total = Bill.of_ticket(tmp_path / "next").total
    trained = Result.load(run).train_seconds  # it was found at initialization, without a training
    assert asdict(total) == {
        "train_seconds": trained, "search_seconds": None, "energy_kwh": None, "co2_kg": None
    }  # fmt: skip


def test_a_running_average_is_scored_and_continued(home, tmp_path):
    folder, data, _ = home
    recipe = replace(RECIPE, ema_decay=0.9)
    how = HOW | {"out": tmp_path / "runs"}
    dense = Path(train_network(MODEL, data, recipe, snapshots="0,1", **how)["run"])
    half = load_snapshot(dense, 1)
    at = {"dense": dense, "budget": Budget(remove=1)}
    early = LotteryMethod(criterion="magnitude", score_at="1", rewind="1")
    search(early, data, tmp_path / "early", **at)
    averaged = Networks.of(data).build(MODEL, 0)
    averaged.load_state_dict(dict(half.average))
    ticket = Ticket.load(tmp_path / "early")
    assert ticket.weights == weights_digest(averaged)
    assert tensor_digest(ticket.average) != tensor_digest(ticket.init)
    again = train_network(MODEL, data, recipe, ticket=tmp_path / "early", snapshots="1", **how)
    named = json.loads((Path(again["run"]) / "run.json").read_text())["identity"]["start"]
    assert named == {"snapshot": {"training": dense.name, "epoch": 1, "average": True}}
    kept = load_snapshot(Path(again["run"]), 1)
    assert tensor_digest(kept.average) == tensor_digest(ticket.average)
    # The next round may start again where this training did, with the same average.
    (Path(again["run"]) / "epoch-0001.safetensors").unlink()
    later = at | {"dense": Path(again["run"]), "budget": Budget(remove=2)}
    search(early, data, tmp_path / "next", **later)
    averages = Ticket.load(tmp_path / "next").average
    assert averages
    assert all(torch.equal(value, ticket.average[name]) for name, value in averages.items())
    # Masked weights stay zero in the average too.
    pruning = {"dense": dense, "reference": folder / "ticket"}
    search(ImpMethod(rounds=1, rewind="1"), data, tmp_path / "imp", **pruning)
    run = train_network(MODEL, data, recipe, ticket=tmp_path / "imp", **how)
    state = load_tensors(Path(run["run"]) / "model.safetensors")[0]
    masks = Ticket.load(tmp_path / "imp").masks
    assert not any(state[f"{name}_orig"][~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipe": None}, "trained by a fit of your own; its epochs and snapshots are not known"),
        ({"data_fingerprint": "e" * 64}, "was trained on data of fingerprint eeeeeeeeeeee"),
    ],
)
def test_a_training_that_cannot_be_rewound_is_refused(home, tmp_path, changed, said):
    folder, data, dense = home
    run = json.loads((dense / "run.json").read_text())
    other = tmp_path / "run"
    other.mkdir()
    (other / "result.json").write_text((dense / "result.json").read_text())
    (other / "run.json").write_text(json.dumps(run | {"config": run["config"] | changed}))
    at = {"dense": other, "budget": Budget(remove=1), "reference": folder / "ticket"}
    for method in (LotteryMethod(criterion="magnitude"), ImpMethod(rounds=1)):
        with pytest.raises(LayerticketError, match=said):
            search(method, data, tmp_path / "out", **at)


def test_a_snapshot_is_named_by_its_training(home, tmp_path):
    _, data, dense = home
    method = LotteryMethod(criterion="magnitude", rewind="1")
    search(method, data, tmp_path / "t", dense=dense, budget=Budget(remove=1))
    how = HOW | {"ticket": tmp_path / "t"}
    beside = train_network(MODEL, data, RECIPE, out=dense.parent, **how)
    named = json.loads((Path(beside["run"]) / "run.json").read_text())["identity"]["start"]
    assert named == {"snapshot": {"training": dense.name, "epoch": 1}}
    faster = replace(RECIPE, compile="off", cuda_graph=False)  # the same training
    alone = train_network(MODEL, data, faster, out=tmp_path / "elsewhere", **how)
    other = replace(faster, momentum=0.8)
    with pytest.raises(LayerticketError, match=r"has momentum 0\.9, but 0\.8 was given"):
        train_network(MODEL, data, other, out=tmp_path / "elsewhere", **how)
    named = json.loads((Path(alone["run"]) / "run.json").read_text())["identity"]["start"]
    assert set(named) == {"digest", "epoch", "optimizer"}  # its training is not at hand
    back = LotteryMethod(criterion="magnitude", rewind="0")
    search(back, data, tmp_path / "t0", dense=dense, budget=Budget(remove=1))
    how = HOW | {"ticket": tmp_path / "t0", "out": tmp_path / "elsewhere"}
    zero = train_network(MODEL, data, RECIPE, **how)
    named = json.loads((Path(zero["run"]) / "run.json").read_text())["identity"]["start"]
    assert named == {"drawn": {"name": MODEL, "seed": 0}}  # epoch 0 counts as drawn


def test_a_baseline_starts_from_the_theta_0_of_its_reference(home, tmp_path):
    _, data, dense = home
    reference = tmp_path / "seven"
    search(TicketMethod(criterion="snip"), data, reference, budget=Budget(remove=1), seed=7)
    methods = (
        ControlMethod(control="even"),
        FiltersMethod(criterion="l1"),
        WeightsMethod(criterion="magnitude"),
    )
    for method in methods:
        out = tmp_path / method.kind
        search(method, data, out, reference=reference, seed=None)
        found = Ticket.load(out)
        assert found.seed == 7
        assert found.weights == Ticket.load(reference).weights
        with pytest.raises(LayerticketError, match=r"with seed 0 has other weights .*seed 7"):
            search(method, data, out, reference=reference)
    with pytest.raises(LayerticketError, match=r"with seed 0 has other weights .*seed 7"):
        search(ImpMethod(rounds=1), data, tmp_path / "i", reference=reference, dense=dense)
    nameless = replace(Ticket.load(reference), seed=None).save(tmp_path / "nameless")
    with pytest.raises(LayerticketError, match="Give the seed"):
        search(methods[0], data, tmp_path / "x", reference=nameless, seed=None)


def test_a_shallower_network_is_looked_up_or_named(home, tmp_path):
    folder, data, _ = home
    at = Search(
        networks=Networks.of(data), model=MODEL, dataset=data, seed=0, out=tmp_path,
        reference=folder / "ticket",
    )  # fmt: skip
    found = find_shallower(ShallowerMethod(model="resnet20"), at)
    assert found["model"] == "resnet20"
    assert found["macs"]["ticket"] == found["match"]["macs"]["baseline"] > 0
    assert find_shallower(ShallowerMethod(), at)["model"] == "resnet14-projection"


def test_every_method_has_a_search():
    assert SEARCHES.keys() == METHODS.keys()


def test_table_3_can_be_planned():
    study = read_study("table3")
    labels = {row.method for row in unfold(study, {"fingerprint": "f" * 64}).rows}
    assert {"dense", "snip", "grasp", "random blocks", "shallower"} <= labels
    assert study.seeds == tuple(range(5))


def test_table_3_has_every_baseline():
    methods = read_study("table3").methods
    kinds = {(m.kind, getattr(m, "criterion", "")) for m in methods}
    assert {("filters", c) for c in ("snip", "grasp", "l1", "random")} <= kinds
    assert {("weights", c) for c in ("snip", "grasp", "synflow", "magnitude")} <= kinds
    assert {kind for kind, _ in kinds} >= {"imp", "shallower", "equal_compute"}
    assert {m.control for m in methods if m.kind == "control"} == set(CONTROLS) - {"each"}
    assert {m.match for m in methods if m.kind == "filters"} == {"filters", "macs", "params"}
    assert any(m.new_weights for m in methods)


def answer(capsys, *words):
    assert main([*words, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_find_leaves_a_bill_and_forecasts(tmp_path, capsys):
    words = ["find", "resnet20", "--remove", "2", "--out", str(tmp_path / "t")]
    words += ["--criterion", "snip", "--forecast-epochs", "2", "--timing-rounds", "3"]
    found = answer(capsys, *words, "--batch-size", "16")
    bill = Bill.of_ticket(tmp_path / "t").total
    assert bill.search_seconds == found["search_seconds"] >= found["score_seconds"]
    assert bill.energy_kwh is None is found["search_co2_kg"]
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
    assert "is not an amount of memory" in capsys.readouterr().err
    assert main([*words, "--save-time", "0.2", "--remove", "1"]) == 2
    assert not (tmp_path / "t").exists()
