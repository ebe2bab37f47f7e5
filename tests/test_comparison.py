"""compare(): a paired study from Python, with a recipe and with a training of one's own."""

import json
import logging
import textwrap

import pytest
import torch

import layerticket as lt
import toy_study
from layerticket.batch import batch_digest
from layerticket.comparison import compare
from layerticket.errors import LayerticketError, TrainingError
from layerticket.lottery import draw_batch
from layerticket.models.load import stated_shape
from layerticket.selection import Budget
from layerticket.study.job import dataset_of
from layerticket.study.methods import method_of
from layerticket.study.spec import StudyFile
from layerticket.training.recipe import Recipe

SMALL = {"input_shape": (3, 8, 8), "classes": 3}
BATCH = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network(num_classes, in_channels):
    return toy_study.Net(num_classes, in_channels)


def of_seed(seed):
    torch.manual_seed(1000 + seed)
    return toy_study.Net(3, 3)


def own(model, seed, folder):
    """A training that knows neither epochs nor data: weights are counted, nothing learns."""
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.01)
    convolutions = sum(isinstance(one, torch.nn.Conv2d) for one in model.modules())
    return {"accuracy": 0.5 + 0.001 * seed + 0.01 * convolutions}


class Counted:
    """The same training; it knows what it trained, and can fail at a seed."""

    def __init__(self, fails_at=None):
        self.seeds, self.fails_at = [], fails_at

    def __call__(self, model, seed, folder):
        if seed == self.fails_at:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        return own(model, seed, folder)


def test_a_training_of_ones_own_is_compared_over_seeds(tmp_path):
    found = compare(
        network, methods=["synflow", "last"], out=tmp_path / "own", fit=own, seeds=3, **SMALL
    )
    one = found.verdict("synflow")
    assert (one.n, one.seeds) == (3, (0, 1, 2))
    assert -0.05 < one.difference.mean < 0
    assert one.difference.std == pytest.approx(0, abs=1e-12)
    assert {row.status for row in found.rows} == {"done"}
    assert len(found.ticket("synflow", 1).removed) == 1
    assert str(found) == json.loads((tmp_path / "own" / "study.json").read_text())["verdict"]
    assert len(found.frame) == len(found.rows) == 9
    assert "<svg" in found._repr_html_()
    assert found.report(tmp_path / "page").parent == tmp_path / "page"
    with pytest.raises(LayerticketError, match="Did you mean"):
        found.verdict("synflo")
    with pytest.raises(LayerticketError, match="has no ticket for seed 9"):
        found.ticket("synflow", 9)


def test_a_recipe_is_a_study_like_any_other(tmp_path):
    found = compare(
        "resnet20", methods=["snip"], out=tmp_path / "study", budget=Budget(remove=2), seeds=[7],
        recipe=Recipe(epochs=1, batch_size=256, precision="fp32"),
    )  # fmt: skip
    assert found.verdict("snip").n == 1
    assert "one seed" in str(found) or "1 seed" in str(found)


def test_a_network_is_a_function_of_the_seed_and_a_budget_is_a_table(tmp_path):
    found = compare(
        of_seed, methods=["magnitude"], out=tmp_path, fit=own, seeds=2,
        budget={"save_macs": 0.1}, **SMALL,
    )  # fmt: skip
    first, second = (found.ticket("magnitude", seed) for seed in (0, 1))
    assert first.weights != second.weights
    torch.manual_seed(5)  # the seed alone decides
    assert first.weights == lt.ticket.ticket.weights_digest(of_seed(0))
    assert {row.budget for row in found.rows} == {None, "save_macs 0.1"}


def test_methods_that_need_labels_score_on_the_batch_that_is_given(tmp_path):
    found = compare(
        of_seed, methods=["snip", "grasp"], out=tmp_path, fit=own, seeds=1, data=BATCH, classes=3
    )
    ticket = found.ticket("snip", 0)
    known = lt.find_ticket(of_seed(0), BATCH, criterion="snip", budget=Budget(remove=1))
    assert (ticket.removed, ticket.batch) == (known.removed, known.batch)
    assert ticket.examples == 12
    assert found.record["data"] is None  # what fit trains on is not known
    other = compare(
        of_seed, methods=["snip"], out=tmp_path, fit=own, seeds=1, classes=3,
        data=[BATCH[0] + 1, BATCH[1]],  # as a DataLoader gives it
    )  # fmt: skip
    assert other.ticket("snip", 0).batch != ticket.batch


def test_a_data_set_is_given_as_such(tmp_path):
    digits = lt.load_data("digits")
    found = compare(
        "resnet20", methods=["snip"], out=tmp_path, seeds=1, data=digits,
        recipe=Recipe(epochs=1, batch_size=512, precision="fp32"),
    )  # fmt: skip
    assert found.record["data"] == "Digits"
    assert found.record["study"]["data"] == "digits"
    assert found.rows[0].status == "done"


def test_a_data_set_of_whole_numbers_is_scored_on_where_fit_trains(tmp_path):
    pixels = (255 * torch.rand(30, 3, 8, 8)).byte()
    data = lt.data.from_arrays(pixels, torch.arange(30) % 3)
    found = compare(network, methods=["snip"], out=tmp_path, fit=own, seeds=1, data=data)
    batch = draw_batch(data, None, seed=0)
    assert found.ticket("snip", 0).batch == batch_digest(batch)
    assert batch[0].is_floating_point()
    assert batch[0].mean().abs() < 0.2  # normalized


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "method 'snip' scores on labelled images"),
        ({"data": (BATCH[0][:, 0], BATCH[1])}, r"images must be .* \(N, C, H, W\)"),
        ({"data": (BATCH[0].abs().byte(), BATCH[1])},
         r"torch.uint8 .*divided by 255 and normalized.*data\.from_arrays"),
        ({"data": (BATCH[0], BATCH[1][:5])}, "one label for each image"),
        ({"data": BATCH, "classes": 2}, "labels of the batch go from 0 to 2"),
        ({"data": BATCH, "fit": None}, "a batch, which can be scored on but not trained on"),
        ({"data": BATCH[0]}, "Give a data set by name"),
        ({"data": BATCH, "budget": 2}, "Budget(remove=2)"),
        ({"data": BATCH, "budget": {"remov": 2}}, "Did you mean 'remove'"),
        ({"data": BATCH, "methods": [{"method": "ticket", "criterion": "snip", "images": 8}]},
         "Leave images out"),
        ({"data": BATCH, "methods": "snip"}, r"is the text 'snip'; give a list: \['snip'\]"),
        ({"data": BATCH, "evaluate": ["fgsm"]}, "evaluate and similarity need images"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_training(given, match, tmp_path):
    fit = Counted()
    usual = {"methods": ["snip"], "fit": fit, "classes": 3}
    with pytest.raises(LayerticketError, match=match.replace("(remove=2)", r"\(remove=2\)")):
        compare(of_seed, out=tmp_path, **usual | given)
    assert fit.seeds == []


def test_a_network_in_place_of_a_function_is_refused(tmp_path):
    with pytest.raises(
        LayerticketError, match=r"model is a Net, but .* Give a function of the seed"
    ):
        compare(of_seed(0), methods=["synflow"], out=tmp_path, fit=own, **SMALL)
    assert not list(tmp_path.iterdir())


def test_failed_runs_are_named(tmp_path, caplog):
    def fails(model, seed, folder):
        if seed or whole:
            raise RuntimeError("my mistake")
        return own(model, seed, folder)

    call = {"methods": ["synflow"], "out": tmp_path, "fit": fails, "seeds": 2, "version": "1"}
    whole = True
    with pytest.raises(TrainingError, match=r"4 of 4 runs failed, .*RuntimeError: my mistake"):
        compare(network, **call, **SMALL)
    whole = False
    found = compare(network, **call, **SMALL)
    assert [row.status for row in found.rows].count("done") == 2
    assert "2 of 4 runs failed, first dense of seed 1: RuntimeError: my mistake" in caplog.text
    assert str(tmp_path / "jobs") in caplog.text


def test_a_function_that_needs_something_else_is_refused(tmp_path):
    with pytest.raises(LayerticketError, match="needs depth, which cannot be given"):
        compare(lambda depth: None, methods=["magnitude"], out=tmp_path, fit=own, **SMALL)


def test_the_same_call_goes_on_with_what_was_cut_off(tmp_path):
    call = {"methods": ["magnitude"], "out": tmp_path, "seeds": 2, "version": "1", **SMALL}
    first = Counted(fails_at=1)
    with pytest.raises(KeyboardInterrupt):
        compare(network, fit=first, **call)
    assert set(first.seeds) == {0}
    second = Counted()
    found = compare(network, fit=second, **call)
    assert set(second.seeds) == {1}
    assert {row.status for row in found.rows} == {"done"}
    third = Counted()
    assert compare(network, fit=third, **call).record["runs"] == found.record["runs"]
    assert third.seeds == []


def test_another_function_without_a_version_starts_anew_and_it_is_said(tmp_path, caplog):
    call = {"methods": ["magnitude"], "out": tmp_path, "seeds": 1, **SMALL}
    compare(network, fit=Counted(), **call)
    fit = Counted()
    with caplog.at_level(logging.WARNING):
        compare(network, fit=fit, **call)
    assert fit.seeds == [0, 0]
    assert "no earlier result is reused" in caplog.text


def test_an_edited_fit_is_trained_again_and_it_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    text = """
        def fit(model, seed, folder):
            return 0.5
    """
    (tmp_path / "my_training.py").write_text(textwrap.dedent(text))
    call = {"methods": ["magnitude"], "out": tmp_path / "study", "seeds": 1,
            "fit": "my_training:fit", "version": "1", **SMALL}  # fmt: skip
    before = compare(network, **call)
    (tmp_path / "my_training.py").write_text(textwrap.dedent(text).replace("0.5", "0.75"))
    monkeypatch.delitem(__import__("sys").modules, "my_training")
    with caplog.at_level(logging.WARNING):
        after = compare(network, **call)
    assert [row.test_accuracy for row in before.rows] == [0.5, 0.5]
    assert [row.test_accuracy for row in after.rows] == [0.75, 0.75]
    assert "'my_training:fit' was changed" in caplog.text


def test_without_data_inputs_have_the_shape_that_the_network_states(tmp_path):
    pytest.importorskip("timm")
    assert stated_shape("timm:resnet18") == (3, 224, 224)
    assert stated_shape("timm:vit_tiny_patch16_224,img_size=64") == (3, 64, 64)
    assert stated_shape("resnet20") is None
    found = compare(
        "timm:vit_tiny_patch16_224,depth=3,embed_dim=24,img_size=32", methods=["magnitude"],
        out=tmp_path, fit=own, seeds=1,
    )  # fmt: skip
    assert found.rows[0].status == "done"
    models = ("timm:resnet18", "timm:vit_tiny_patch16_224,img_size=64")
    ticket = method_of({"method": "ticket", "criterion": "magnitude"}, "")
    with pytest.raises(LayerticketError, match="different shapes"):
        dataset_of(StudyFile(title="", models=models, methods=(ticket,), fit="a:b"), None)


def test_torchvision_networks_state_a_shape_too():
    pytest.importorskip("torchvision")
    assert stated_shape("torchvision:resnet18") == (3, 224, 224)
    with pytest.raises(LayerticketError, match=r"Did you mean 'torchvision:resnet18'"):
        stated_shape("torchvision:resnet17")
