"""The lottery on the command line: train and keep, find in the run, rewind, go on."""

import json
from pathlib import Path

import pytest

from layerticket.cli.app import main
from layerticket.comparison import compare
from layerticket.files import read_json
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import load_snapshot

TRAIN = ["train", "resnet20", "--epochs", "4", "--device", "cpu"]


@pytest.fixture
def run(capsys):
    def call(*words, code=0):
        assert main([str(word) for word in words]) == code, capsys.readouterr().err
        return capsys.readouterr()

    return call


def answer(captured):
    return json.loads(captured.out)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    out = tmp_path_factory.mktemp("dense")
    assert main([*TRAIN, "--keep", "0,25%,50%", "--seed", "2", "--out", str(out)]) == 0
    return next(out.iterdir())


def find(dense, out, *more):
    return ["find", "--run", dense, "--criterion", "snip", "--remove", "2", "--out", out, *more]


def test_a_ticket_goes_on_where_it_was_set_back_to(run, dense, tmp_path):
    words = find(dense, tmp_path / "t", "--rewind", "25%", "--rounds", "2", "--json")
    record = answer(run(*words))
    assert record["origin"]["run"] == dense.name
    assert (record["origin"]["scored_epoch"], record["origin"]["rewind_epoch"]) == (4, 1)
    assert [len(names) for names in record["rounds"]] == [1, 1]
    ticket = Ticket.load(tmp_path / "t")
    assert (ticket.model, ticket.seed) == ("resnet20", 2)
    theta = load_snapshot(dense, 1)
    assert all((tensor == theta.weights[n]).all() for n, tensor in ticket.init.items())
    words = ["train", "resnet20", "--ticket", tmp_path / "t", "--out", tmp_path / "runs"]
    captured = run(*words, "--seed", "2", "--device", "cpu", "--json")
    assert "starts at epoch 1" in captured.err  # with the recipe of the run
    trained = answer(captured)
    assert trained["epochs"] == 3
    config = read_json(tmp_path / "runs" / trained["run"].rsplit("/", 1)[1] / "run.json")["config"]
    assert (config["start_epoch"], config["recipe"]["epochs"]) == (1, 4)
    assert run("evaluate", tmp_path / "runs").out.startswith("test: accuracy")
    err = run(*words, "--epochs", "5", code=2).err
    assert "whose recipe has epochs 4, but 5 was given" in err


def test_the_run_of_a_ticket_is_the_next_round(run, dense, tmp_path):
    run(*find(dense, tmp_path / "a", "--rewind", "50%"))
    words = ["train", "resnet20", "--ticket", tmp_path / "a", "--out", tmp_path / "runs"]
    run(*words, "--seed", "2", "--device", "cpu")
    next_round = ["find", "--run", tmp_path / "runs", "--criterion", "snip", "--rewind", "2"]
    run(*next_round, "--remove", "3", "--out", tmp_path / "b")
    first, second = Ticket.load(tmp_path / "a"), Ticket.load(tmp_path / "b")
    assert second.order == (*first.order, second.order[1])
    assert set(first.removed) < set(second.removed)
    assert all((tensor == first.init[name]).all() for name, tensor in second.init.items())
    assert set(second.optimizer) < set(first.optimizer)
    assert "meets the budget" in run(*next_round, "--remove", "2", "--out", "c", code=2).err


def test_an_early_ticket_and_the_seed_of_the_run(run, dense, tmp_path):
    late = answer(run(*find(dense, tmp_path / "a", "--json")))
    early = answer(run(*find(dense, tmp_path / "b", "--score-epoch", "25%", "--json")))
    assert early["origin"]["scored_epoch"] == 1
    assert early["scores"] != late["scores"]
    drawn = ["--criterion", "random", "--json"]
    words = ["find", "--run", dense, "--remove", "2", "--out", tmp_path / "r", *drawn]
    own = answer(run(*words))["scores"]
    words = ["find", "resnet20", "--remove", "2", "--out", tmp_path / "s", "--seed", "2", *drawn]
    assert answer(run(*words))["scores"] == own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rewind", "75%"], "has no snapshot of epoch 3 (saved: 0, 1, 2)"),
        (["--rewind", "4"], "leaves nothing to train"),
        (["--rewind", "half"], "not in a training of 4 epochs"),
        (["--score-epoch", "3"], "has no snapshot of epoch 3"),
        (["--data", "cifar10"], "data is 'cifar10', but"),
    ],
)
def test_what_the_run_cannot_give_is_refused(run, dense, tmp_path, words, message):
    assert message in run(*find(dense, tmp_path / "t", *words), code=2).err
    assert not (tmp_path / "t").exists()


def test_model_and_run_must_agree_and_one_is_needed(run, dense, tmp_path):
    rest = ["--remove", "1", "--out", tmp_path]
    assert "model is 'resnet32', but" in run("find", "resnet32", "--run", dense, *rest, code=2).err
    assert "give MODEL, or --run RUN" in run("find", *rest, code=2).err
    assert "give --run RUN" in run("find", "resnet20", "--rewind", "1", *rest, code=2).err


@pytest.mark.parametrize("given", [{"data": "digits"}, {"input_shape": (1, 8, 8), "classes": 10}])
def test_a_run_of_ones_own_training_is_refused(run, tmp_path, given):
    own = {"fit": lambda model, seed, folder: 0.5, "seeds": [0], **given}
    found = compare("resnet14", methods=["magnitude"], out=tmp_path / "study", **own)
    folder = next(row.folder for row in found.rows if row.kind == "dense")
    words = ["find", "--run", tmp_path / "study" / folder, "--remove", "1", "--out", tmp_path / "t"]
    err = run(*words, code=2).err
    assert "was trained by your own function" in err
    assert "layerticket.lottery.find_in_training" in err
    assert not (tmp_path / "t").exists()


def test_a_finished_run_without_the_epochs_is_trained_again_for_them(run, dense, tmp_path):
    words = [*TRAIN, "--seed", "2", "--out", tmp_path, "--json", "--keep"]
    first = answer(run(*words, "0"))
    again = answer(run(*words, "75%"))
    assert again == first  # the record stays as it was
    assert {path.name for path in Path(first["run"]).glob("epoch-*")} == {
        "epoch-0000.safetensors", "epoch-0003.safetensors"
    }  # fmt: skip


def test_fresh_weights_are_new_and_train_all_epochs(run, dense, tmp_path):
    run(*find(dense, tmp_path / "t", "--rewind", "50%"))
    words = ["train", "resnet20", "--ticket", tmp_path / "t", "--out", tmp_path, "--seed", "2"]
    words += ["--epochs", "1", "--device", "cpu", "--json"]
    fresh = [*words, "--initialization", "seed"]
    assert "not new weights. Use another seed: --init-seed 3" in run(*fresh, code=2).err
    trained = answer(run(*fresh, "--init-seed", "3"))
    assert trained["epochs"] == 1
    config = read_json(tmp_path / trained["run"].rsplit("/", 1)[1] / "run.json")["config"]
    assert (config["start"]["drawn"]["seed"], config["seed"]) == (3, 2)
    assert "Add --initialization seed" in run(*words, "--init-seed", "3", code=2).err
