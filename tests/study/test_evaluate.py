"""Evaluations of finished runs: every name, checked before any work, measured once; and Table 5."""

import json

import numpy as np
import pytest
from PIL import Image

from layerticket.cli.app import main
from layerticket.data.sources import PUBLISHED, load_data
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import Judged
from layerticket.evaluation.robustness import EVALUATIONS, Attack, Conditions, prepare
from layerticket.study import evaluate as evaluate_module
from layerticket.study.evaluate import evaluate_run
from layerticket.study.train import Networks

FEW = Conditions(images=20, attack=Attack(epsilons=(1, 8), steps=2, attack_images=12))
SOME = ("test", "corruptions", "noise", "fgsm", "pgd")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "demo"
    find = ["find", "resnet20", "--criterion", "snip", "--remove", "2", "--out", str(out / "t")]
    train = ["train", "resnet20", "--epochs", "1", "--out", str(out / "runs"), "--json"]
    for words in (find, train, [*train, "--ticket", str(out / "t")]):
        assert main(words) == 0
    return out


@pytest.fixture
def runs(study):
    folders = sorted((study / "runs").iterdir())
    for folder in folders:
        (folder / "evaluation.json").unlink(missing_ok=True)
    return folders


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr("layerticket.data.corruptions.recipe.GROUP", 20)


def test_every_name_of_a_dense_run_and_a_ticket(runs, digits, tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("L", (8, 8), 20 * label).save(tmp_path / str(label) / "a.png")
    for folder in (runs[0], runs[-1]):
        names = (*SOME, "corruptions-extra", f"imagefolder:{tmp_path}")
        record = evaluate_run(folder, digits, names, conditions=FEW, device="cpu")
        assert record["run"] == str(folder)
        assert tuple(record["results"]) == names
        assert all(0 <= found["accuracy"] <= 1 for found in record["results"].values())
        json.dumps(record, allow_nan=False)
        found = record["results"]["corruptions"]
        assert found["images"] == 20
        assert found["clean_accuracy"] == record["results"]["test"]["accuracy"]
        assert "frost_like" in found["corruptions"]
        assert set(found["settings"]["not_applicable"]) == {"elastic_transform"}
        assert "not scaled to 8x8" in found["settings"]["title"]
        assert record["results"]["pgd"]["images"] == 12
        assert record["results"][names[-1]]["images"] == 10


def test_the_accuracy_of_a_run_is_found_again(runs, digits):
    result = json.loads((runs[0] / "result.json").read_text())
    record = evaluate_run(runs[0], digits, ["test"], device="cpu")
    assert record["results"]["test"]["accuracy"] == result["test_accuracy"]


def test_figures_are_measured_once(runs, digits, monkeypatch):
    first = evaluate_run(runs[0], digits, ["test", "fgsm"], conditions=FEW, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_module, "trained_network", lambda *_: 1 / 0)
        again = evaluate_run(runs[0], digits, ["fgsm", "test"], conditions=FEW, device="cpu")
        assert again == first
        for other in (
            Conditions(images=19, attack=FEW.attack),
            Conditions(images=20, attack=Attack(epsilons=(2,), attack_images=12)),
            Conditions(images=20, attack=FEW.attack, seed=1),
        ):
            with pytest.raises(ZeroDivisionError):
                evaluate_run(runs[0], digits, ["test", "fgsm"], conditions=other, device="cpu")
        with pytest.raises(ZeroDivisionError):
            evaluate_run(runs[0], digits, ["test", "noise"], conditions=FEW, device="cpu")
    kept = json.loads((runs[0] / "evaluation.json").read_text())
    assert set(kept["results"]) == {"test", "fgsm"}


def test_a_ratio_is_not_reused_for_other_clean_images(runs, digits, tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("L", (8, 8), 20 * label).save(tmp_path / str(label) / "a.png")
    name = f"imagefolder:{tmp_path}"
    few = evaluate_run(runs[0], digits, ["test", name], conditions=FEW, device="cpu")["results"]
    every = evaluate_run(runs[0], digits, ["test", name], device="cpu")["results"]
    assert few[name]["images"] == every[name]["images"] == 10
    for results in (few, every):
        assert results[name]["clean_accuracy"] == results["test"]["accuracy"]
    assert "clean_images" not in every[name]["settings"]  # as in records without --images
    more = Conditions(images=10_000)  # more than there are
    again = evaluate_run(runs[0], digits, [name], conditions=more, device="cpu")["results"][name]
    assert again["settings"]["clean_images"] == len(digits.test)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pdg", "Did you mean 'pgd'"),
        ("cifar10-c", "'cifar10-c' is for networks trained on 'cifar10'"),
        ("cifar10.2", "is for networks trained on 'cifar10', but this one was trained on 'digits'"),
        ("imagefolder:absent", "does not exist"),
        ("hf:nobody/nothing", "not a folder"),
        ("test,test", "each only once"),
    ],
)
def test_refusals_come_in_one_line_before_any_work(runs, monkeypatch, capsys, name, said):
    if name.startswith("hf:"):
        pytest.importorskip("datasets")
    monkeypatch.setattr(evaluate_module, "trained_network", lambda *_: 1 / 0)
    assert main(["evaluate", str(runs[0]), "--on", f"fgsm,{name}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_impossible_conditions_are_refused(digits):
    for wrong, said in (({"images": 0}, "images is 0"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(LayerticketError, match=said):
            Conditions(**wrong)
    with pytest.raises(LayerticketError, match="at least one"):
        prepare([], digits, Conditions())
    assert "autoattack" in EVALUATIONS


def test_cifar_names_read_files_or_regenerate(digits, tmp_path, monkeypatch):
    import dataclasses

    from layerticket.data.dataset import Split

    small = Split(images=digits.test.images[:4].repeat(1, 3, 4, 4), labels=digits.test.labels[:4])
    data = dataclasses.replace(
        digits, name="cifar10", train=small, validation=small, test=small,
        mean=digits.mean * 3, std=digits.std * 3,
    )  # fmt: skip
    given = Conditions(shift_dir=(tmp_path,))
    (made,) = prepare(["cifar10-c"], data, given)
    assert made.settings["title"] == "CIFAR-10-C recipe (regenerated)"
    assert "frost_like" in made.settings["corruptions"]
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.tile(small.labels.numpy(), 5))
    np.save(tmp_path / "CIFAR-10-C" / "gaussian_noise.npy", np.zeros((20, 32, 32, 3), np.uint8))
    with pytest.raises(LayerticketError, match=r"'shot_noise.npy' is missing"):
        prepare(["cifar10-c"], data, given)
    for name in ("speckle_noise", "gaussian_blur", "spatter", "saturate"):
        np.save(tmp_path / "CIFAR-10-C" / f"{name}.npy", np.zeros((20, 32, 32, 3), np.uint8))
    (read,) = prepare(["cifar10-c-extra"], data, given)
    assert read.settings["title"] == PUBLISHED["cifar10"] == "CIFAR-10-C"
    from layerticket.models.load import build_model

    model = build_model("resnet20", classes=10, channels=3, seed=0)
    found = read.measure(model, "fp32", "cpu", Judged(0.5, ""))
    assert set(found["corruptions"]) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    with pytest.raises(LayerticketError, match="--shift-dir"):
        prepare(["cifar10.1"], data, given)


def test_inference_is_as_fast_as_dense_over_ticket(runs, digits, monkeypatch):
    """By hand: one image in 4 s and 3 s, a batch in 6 s and 2 s."""
    seconds = {1: {"dense": [4.0] * 3, "ticket": [3.0] * 3}}
    seconds[evaluate_module.BATCH] = {"dense": [6.0] * 3, "ticket": [2.0] * 3}
    monkeypatch.setattr(
        evaluate_module, "inference_seconds", lambda *_, batch_size, rounds: seconds[batch_size]
    )
    found = evaluate_module.inference_of(digits, Networks.of(digits), "cpu", runs[0], runs[-1])
    assert found["latency_seconds"] == {"dense": 4.0, "ticket": 3.0}
    assert found["images_per_second"] == pytest.approx({"dense": 128 / 6, "ticket": 64.0})
    assert found["speedup"]["value"] == pytest.approx(3.0)
