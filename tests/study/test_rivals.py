"""The rivals by name: found, saved with a bill, trained, evaluated, compared; on the digits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from layerticket.baselines.controls import CONTROLS
from layerticket.cli.app import main
from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.study.evaluate import evaluate_run, similarity_of, trained_network
from layerticket.study.methods import Search, ShallowerMethod
from layerticket.study.plan import unfold
from layerticket.study.record import SearchBill, train_run
from layerticket.study.search import find_control, find_filters, find_imp, find_in, find_weights
from layerticket.study.toml import read_study
from layerticket.tensors import load_tensors
from layerticket.ticket.ticket import Ticket
from layerticket.training.recipe import Recipe
from toy_lottery import few_digits

MODEL = "resnet20-projection"
RECIPE = Recipe(epochs=2, batch_size=64, precision="fp32")
HOW = {"seed": 0, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A ticket, and the dense run that kept its epochs."""
    folder, data = tmp_path_factory.mktemp("rivals"), few_digits()
    find_in(MODEL, data, criterion="snip", budget=Budget(remove=1), seed=0, out=folder / "ticket")
    dense = train_run(MODEL, data, RECIPE, out=folder / "runs", keep="0,1", **HOW)
    return folder, data, Path(dense["run"])


def found_by(step, home, out, **options):
    folder, data, _ = home
    return step(MODEL, data, reference=folder / "ticket", seed=0, out=out, **options)


@pytest.mark.parametrize(
    ("step", "options", "by"),
    [
        (find_control, {"control": "random", "draw": 1}, "macs"),
        (find_filters, {"criterion": "snip", "match": "filters"}, "filters"),
        (find_weights, {"criterion": "magnitude"}, "params"),
    ],
    ids=["control", "filters", "weights"],
)
def test_what_a_step_finds_trains_as_a_run_and_is_compared(step, options, by, home, tmp_path):
    _, data, dense = home
    record = json.loads(json.dumps(found_by(step, home, tmp_path / "rival", **options)))
    assert record["match"]["by"] == by
    assert record["match"]["difference"] == 0
    assert SearchBill.of(tmp_path / "rival").seconds == record["search_seconds"] > 0
    rival = Ticket.load(record["ticket"])
    assert record["params"] == rival.params
    assert record["macs"] == rival.macs
    run = train_run(MODEL, data, RECIPE, out=tmp_path / "runs", ticket=tmp_path / "rival", **HOW)
    folder = Path(run["run"])
    assert json.loads((folder / "run.json").read_text())["config"]["ticket"] == rival.digest
    again = evaluate_run(folder, data, ["test"], device="cpu")
    assert again["results"]["test"]["accuracy"] == run["test_accuracy"]
    network = trained_network(folder, data)
    assert all("_orig" not in name for name in network.state_dict())
    likeness = similarity_of(folder, dense, data, images=60)
    values = [value for value in likeness["layers"].values() if value is not None]
    assert likeness["mean"] == pytest.approx(sum(values) / len(values))
    assert all(0 < value < 1 for value in values)
    lacking = {name for name, value in likeness["layers"].items() if value is None}
    assert lacking == (set(record["removed"]) if step is find_control else set())
    assert len(likeness["layers"]) == 11  # stem, nine blocks, head


def test_iterative_pruning_trains_its_rounds_and_goes_on_where_it_was(home, tmp_path):
    folder, data, dense = home
    how = {"rounds": 2, "rewind": "50%", "reference": folder / "ticket", "progress": False}
    record = find_imp(dense, data, RECIPE, out=tmp_path / "imp", device="cpu", **how)
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
    stamp = (Path(between) / "model.safetensors").stat().st_mtime_ns
    assert (
        find_imp(dense, data, RECIPE, out=tmp_path / "imp", device="cpu", **how)["params"]
        == (record["params"])
    )
    assert (Path(between) / "model.safetensors").stat().st_mtime_ns == stamp
    assert record["search_seconds"] > 0
    run = train_run(MODEL, data, RECIPE, out=tmp_path, ticket=tmp_path / "imp", **HOW)
    assert run["epochs"] == 1
    with pytest.raises(LayerticketError, match="begins with the dense network"):
        find_imp(Path(run["run"]), data, RECIPE, out=tmp_path / "x", **how)
    with pytest.raises(LayerticketError, match="other data or by another recipe"):
        find_imp(dense, data, Recipe(epochs=3), out=tmp_path / "x", **how)


def test_the_command_line_finds_each(home, tmp_path, capsys):
    folder, _, _ = home
    base = ["find", MODEL, "--reference", str(folder / "ticket"), "--device", "cpu"]
    for words in (
        ["--rival", "filters", "--criterion", "l1", "--match", "macs"],
        ["--rival", "weights", "--criterion", "synflow", "--rounds", "2"],
        ["--rival", "random", "--draw", "2"],
        ["--rival", "even"],
    ):
        out = str(tmp_path / "-".join(words).strip("-"))
        assert main([*base, *words, "--out", out, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert abs(record["match"]["relative_difference"]) < 1e-3
        assert record["ticket"] == out
        assert main([*base, *words, "--out", out]) == 0
        text = capsys.readouterr().out
        assert f"--ticket {out}" in text
        assert ("Masks save no time" in text) == ("weights" in words)


def test_a_rival_starts_from_the_theta_0_of_its_reference(home, tmp_path):
    _, data, dense = home
    reference = tmp_path / "seven"
    find_in(MODEL, data, criterion="snip", budget=Budget(remove=1), seed=7, out=reference)
    how = {"reference": reference}
    steps = (
        (find_control, {"control": "even"}),
        (find_filters, {"criterion": "l1"}),
        (find_weights, {"criterion": "magnitude"}),
    )
    for step, options in steps:
        how["out"] = tmp_path / step.__name__
        step(MODEL, data, **how, **options)
        rival = Ticket.load(how["out"])
        assert rival.seed == 7
        assert rival.weights == Ticket.load(reference).weights
        with pytest.raises(LayerticketError, match=r"at seed 0 has other weights .*seed 7"):
            step(MODEL, data, seed=0, **how, **options)
    with pytest.raises(LayerticketError, match=r"at seed 0 has other weights .*seed 7"):
        find_imp(dense, data, RECIPE, rounds=1, rewind="0", device="cpu", **how)
    nameless = replace(Ticket.load(reference), seed=None).save(tmp_path / "nameless")
    with pytest.raises(LayerticketError, match="Give the seed"):
        find_control(MODEL, data, control="even", reference=nameless, out=tmp_path / "x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rival", "even"], "belong together"),
        (["--rival", "even", "--reference", "T", "--criterion", "snip"], "does not read --crit"),
        (["--rival", "weights", "--reference", "T", "--match", "macs"], "does not read --match"),
        (["--rival", "filters", "--reference", "T", "--rounds", "2"], "does not read --rounds"),
        (["--rival", "filters", "--reference", "T", "--remove", "2"], "goal of a ticket"),
        (["--rival", "filters", "--reference", "T", "--hessian", "exact"], "'hessian'"),
        (["--rival", "even", "--reference", "nowhere"], "is not a ticket"),
    ],
)
def test_senseless_commands_are_refused(words, message, home, tmp_path, capsys):
    words = [str(home[0] / "ticket") if word == "T" else word for word in words]
    assert main(["find", MODEL, "--out", str(tmp_path / "x"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_shallower_network_is_looked_up_or_named(home, tmp_path):
    folder, data, _ = home
    at = Search(
        model=MODEL,
        dataset=data,
        budget=Budget(remove=1),
        seed=0,
        recipe=RECIPE,
        out=tmp_path,
        reference=folder / "ticket",
    )
    found = ShallowerMethod(model="resnet20").search(at)
    assert found["model"] == "resnet20"
    assert found["macs"]["ticket"] == found["match"]["reached"] > 0
    with pytest.raises(LayerticketError, match="shallowest"):
        ShallowerMethod().search(at)


@pytest.mark.parametrize("name", ["table3", "table3-two-cores"])
def test_the_studies_of_table_3_can_be_planned(name):
    study = read_study(name)
    plan = unfold(study, "f" * 64)
    labels = {run.method for run in plan.runs}
    assert {"dense", "snip", "grasp", "random blocks", "shallower"} <= {
        label.rstrip(" 0123456789") for label in labels
    }
    assert study.seeds == tuple(range(5 if name == "table3" else 2))


def test_table_3_has_every_rival():
    kinds = {(m.kind, getattr(m, "criterion", "")) for m in read_study("table3").methods}
    assert {("filters", c) for c in ("snip", "grasp", "l1", "random")} <= kinds
    assert {("weights", c) for c in ("snip", "grasp", "synflow", "magnitude")} <= kinds
    assert {kind for kind, _ in kinds} >= {"imp", "shallower", "equal_compute"}
    methods = read_study("table3").methods
    assert {m.control for m in methods if m.kind == "control"} == set(CONTROLS) - {"each"}
    assert {m.match for m in methods if m.kind == "filters"} == {"filters", "macs", "params"}
    assert any(m.new_weights for m in methods)
