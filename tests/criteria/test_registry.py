"""The registry: names, records, what an unknown name gets told, and that it needs no torch."""

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import layerticket
from layerticket.criteria import registry
from layerticket.criteria.registry import criterion, criterion_names, get_criterion
from layerticket.errors import LayerticketError
from layerticket.scoring import score, score_filters, score_weights
from layerticket.study.toml import study_of
from layerticket.surgery.channels import coupled_channels
from toy_baselines import batch_of, projected


def test_the_criteria_there_are():
    orders = {name: get_criterion(name).order for name in criterion_names()}
    assert orders == {
        "cka": 0, "expect_abs": 0, "grasp": 2, "hrank": 0, "kl": 0,
        "magnitude": 0, "pls": 0, "random": 0, "snip": 1, "synflow": 1,
    }  # fmt: skip
    for name in criterion_names():
        assert get_criterion(name).fn.__doc__.splitlines()[0].endswith(".")
        assert get_criterion(name).cites
    assert criterion_names("weights") == ("grasp", "magnitude", "snip", "synflow")
    assert criterion_names("filters") == ("grasp", "l1", "random", "snip", "synflow")


@pytest.mark.parametrize("name", criterion_names())
def test_the_table_says_what_the_function_takes(name):
    known = get_criterion(name)
    assert known.fn.__module__ == f"layerticket.criteria.{name}"
    assert tuple(known.defaults) == known.options
    given = list(inspect.signature(known.fn).parameters)[:3]
    assert given == ["model", known.values, "batch"]


def test_options_by_what_is_scored():
    grasp = get_criterion("grasp")
    assert grasp.option_names() == (
        "halves", "hessian", "loss_fn", "micro_batches", "normalization", "redraw", "reduction",
        "temperature", "zero_init",
    )  # fmt: skip
    assert grasp.option_names("weights") == (
        "halves", "loss_fn", "micro_batches", "normalization", "redraw", "temperature"
    )  # fmt: skip
    assert get_criterion("random").option_names() == ("draw", "normalization")


def test_unknown_and_taken_names():
    with pytest.raises(LayerticketError, match=r"'grap' is not known\. Did you mean 'grasp'\?"):
        get_criterion("grap")
    with pytest.raises(LayerticketError, match="'snip' is already registered"):
        criterion("snip", cites="", uses=(), order=0)(dict)
    assert get_criterion("snip").fn is not dict


def test_names_options_and_budgets_need_no_torch():
    code = """
import sys, types
package = types.ModuleType("layerticket")
package.__path__ = [sys.argv[1]]
sys.modules |= {"layerticket": package, "torch": None, "numpy": None}
from layerticket.criteria.registry import criterion_names, get_criterion
from layerticket.selection import Budget, Costs, select
print(*criterion_names(), *get_criterion("grasp").option_names(), Budget(remove=2).remove)
"""
    root = str(Path(layerticket.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["cka", "expect_abs"]
    assert done.stdout.split()[-1] == "2"


@pytest.fixture
def own(monkeypatch):
    """A registry of which nothing stays."""
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))


def test_a_criterion_of_the_users_scores_blocks_filters_and_weights(own):
    @criterion("squares", cites="mine", uses=(), order=0, values="weights")
    def squares(model, weights, batch, *, power=2):
        return {name: weight.detach() ** power for name, weight in weights.items()}

    model, batch = projected(), batch_of()
    expected = {n: p.detach().double() ** 2 for n, p in model.named_parameters() if p.ndim > 1}
    single = score_weights(model, batch, "squares").values
    assert all(torch.allclose(single[name], value) for name, value in expected.items())
    blocks = layerticket.find_blocks(model, batch[0][:1])
    for block, value in score(model, blocks, batch, "squares").values.items():
        own = [v.sum().item() for n, v in expected.items() if n.startswith(f"{block}.")]
        assert value == pytest.approx(sum(own))
    assert score(model, blocks, batch, "squares", power=4, reduction="mean").options == {
        "power": 4, "reduction": "mean", "normalization": "batch"
    }  # fmt: skip
    groups = coupled_channels(model, batch[0][:1])
    filters = score_filters(model, groups, batch, "squares", slices="filters").values["3.conv1"]
    assert filters == pytest.approx(expected["3.conv1.weight"].sum((1, 2, 3)).tolist())


OWN = """
import layerticket as lt

@lt.criterion("late", cites="mine", uses=(), order=0)
def late(model, blocks, batch):
    return {block.name: float(block.position) for block in blocks}

@lt.criterion("cubes", cites="mine", uses=(), order=0, values="weights")
def cubes(model, weights, batch):
    return {name: weight.detach() ** 3 for name, weight in weights.items()}
"""


def test_a_criterion_is_named_by_the_module_that_registers_it(own, tmp_path, monkeypatch):
    (tmp_path / "own_criteria_7.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert get_criterion("own_criteria_7:late").name == "late"
    model, batch = projected(), batch_of()
    blocks = layerticket.find_blocks(model, batch[0][:1])
    scores = score(model, blocks, batch, "own_criteria_7:late")
    assert scores.values == {block.name: block.position for block in blocks}
    cubes = score_weights(model, batch, "own_criteria_7:cubes").values
    assert cubes.keys() == {n for n, p in model.named_parameters() if p.ndim > 1}
    groups = coupled_channels(model, batch[0][:1])
    assert score_filters(model, groups, batch, "own_criteria_7:cubes").values.keys() == {
        group.root for group in groups
    }
    studied = study_of({
        "title": "own", "models": ["resnet20"], "data": "digits", "budgets": [{"remove": 1}],
        "methods": [{"method": "ticket", "criterion": "own_criteria_7:late"}],
    })  # fmt: skip
    assert studied.own_criteria == ("own_criteria_7:late",)  # its text is part of the plan
    for name in ("own_criteria_7:early", "own_criteria_7:grasp"):
        with pytest.raises(LayerticketError, match="'own_criteria_7' registers no criterion"):
            get_criterion(name)
    with pytest.raises(LayerticketError, match="there is no module 'nowhere_at_all'"):
        get_criterion("nowhere_at_all:late")
    with pytest.raises(LayerticketError, match="scores blocks, not single weights"):
        score_weights(model, batch, "own_criteria_7:late")
    del sys.modules["own_criteria_7"]


def test_a_criterion_that_values_other_weights_is_a_bug(own):
    criterion("few", cites="", uses=(), order=0, values="weights")(lambda model, weights, batch: {})
    with pytest.raises(RuntimeError, match=r"exactly the weights given; missing: \['0.weight'"):
        score_weights(projected(), batch_of(), "few")
    model, batch = projected(), batch_of()
    blocks = layerticket.find_blocks(model, batch[0][:1])
    with pytest.raises(RuntimeError, match=r"missing: \['3.conv1.weight'"):
        score(model, blocks, batch, "few")

    @criterion("flat", cites="", uses=(), order=0, values="weights")
    def flat(model, weights, batch):
        return {name: weight.detach().flatten() for name, weight in weights.items()}

    with pytest.raises(RuntimeError, match=r"shape \(144,\) for weight '3.conv1.weight'"):
        score(model, blocks, batch, "flat")


def test_a_ticket_imports_no_module_that_its_criterion_names(tmp_path):
    model, batch = projected(), batch_of()
    ticket = layerticket.find_ticket(
        model, batch, criterion="snip", budget=layerticket.Budget(remove=1)
    )
    replace(ticket, criterion="nowhere_at_all:late").save(tmp_path / "t")
    again = layerticket.Ticket.load(tmp_path / "t")
    assert again.criterion == "nowhere_at_all:late"
    again.apply(model)
