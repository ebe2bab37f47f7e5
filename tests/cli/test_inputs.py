"""Which inputs a verb takes and where it says they come from; a refused verb leaves nothing."""

import json

import pytest

from layerticket.cli.app import main
from layerticket.data.dataset import noise
from layerticket.errors import LayerticketError
from layerticket.models.load import stated_shape

VIT = "timm:vit_tiny_patch16_224,depth=2"


@pytest.fixture
def told(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0):
        assert main([*map(str, words)]) == code
        return capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm:vit_tiny_patch16_224", (3, 224, 224)),
        ("timm:vit_tiny_patch16_224,img_size=64", (3, 64, 64)),
        ("torchvision:vit_b_16", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("torchvision:vit_b_16,image_size=96", (3, 96, 96)),
        ("resnet20", None),
        ("my.nets:build", None),
    ],
)
def test_what_networks_are_configured_for(name, shape):
    assert stated_shape(name) == shape


def test_unknown_names_of_libraries_are_refused():
    with pytest.raises(LayerticketError, match="Did you mean 'timm:convnext_atto'"):
        stated_shape("timm:convnext_att")


@pytest.mark.parametrize("size", ["abc", "0", "2.5", "True"])
def test_a_size_that_is_no_number_of_pixels_is_refused(size):
    with pytest.raises(LayerticketError, match="is not the side of an image"):
        stated_shape(f"timm:vit_tiny_patch16_224,img_size={size}")


@pytest.mark.parametrize(
    ("words", "shape", "source"),
    [
        ([VIT], [3, 224, 224], "the model's configuration"),
        ([VIT, "--data", "digits", "--image-size", "224"], [1, 224, 224], "data digits"),
        (["resnet14"], [3, 32, 32], "the default"),
        (["resnet14", "--data", "cifar10"], [3, 32, 32], "data cifar10"),
        (["resnet14", "--input-shape", "1,16,12"], [1, 16, 12], "--input-shape"),
    ],
)
def test_blocks_says_which_inputs_it_took(told, words, shape, source):
    found = told("blocks", *words, "--json")
    assert json.loads(found.out)["input"] == {"shape": shape, "from": source}


def test_where_a_network_needs_another_input_the_option_is_named(told):
    found = told("blocks", "timm:vit_tiny_patch16_224", "--input-shape", "3,32,32", code=1)
    assert "Input 3 x 32 x 32, from --input-shape." in found.err
    assert "--input-shape CHANNELS,HEIGHT,WIDTH" in found.err
    assert len(found.err.splitlines()) == 1


def test_find_takes_the_size_of_the_configuration_where_no_data_are_given(told, tmp_path):
    found = told("find", VIT, "--criterion", "magnitude", "--remove", 1, "--out", "t")
    assert "Input 3 x 224 x 224, from the model's configuration." in found.out
    assert "--data DATA" in found.out
    refused = told("find", VIT, "--criterion", "snip", "--remove", 1, "--out", "u", code=2)
    assert "'snip' scores on labelled images, and no data are given" in refused.err
    assert "synflow" in refused.err
    assert not (tmp_path / "u").exists()


def test_find_takes_the_digits_for_networks_that_state_nothing(told):
    found = told("find", "resnet14", "--criterion", "snip", "--remove", 1, "--out", "t", "--json")
    assert json.loads(found.out)["input"] == {"shape": [1, 8, 8], "from": "data digits"}


NET = """
from torch import nn

def frozen():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return net.requires_grad_(False)

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))

def larger():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["train", "frozen_net:narrow", "--epochs", "1", "--out", "a/b"],
        ["train", "frozen_net:frozen", "--epochs", "1", "--out", "a/b"],
        ["train", "resnet14", "--epochs", "1", "--drop-path", "0.1", "--out", "a"],
        ["train", "resnet14", "--epochs", "2", "--keep", "5", "--out", "a"],
        ["find", "resnet14", "--remove", "9", "--out", "a/b"],
    ],
)
def test_a_refused_command_leaves_nothing_behind(told, tmp_path, words):
    (tmp_path / "frozen_net.py").write_text(NET)
    refused = told(*words, "--device", "cpu", code=2)
    assert len(refused.err.splitlines()) == 1
    left = [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"]
    assert left == ["frozen_net.py"]


def test_a_network_for_another_size_of_images_is_named_before_training(told, tmp_path):
    (tmp_path / "frozen_net.py").write_text(NET)
    refused = told("train", "frozen_net:larger", "--device", "cpu", "--out", "a", code=1)
    assert "Images of 'digits' are 1 x 8 x 8" in refused.err
    assert "--image-size" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert not (tmp_path / "a").exists()
    told(
        "train", "frozen_net:larger", "--image-size", "16", "--epochs", "1",
        "--warmup-epochs", "0", "--device", "cpu", "--out", "a",
    )  # fmt: skip


def test_what_was_begun_stays_when_the_same_training_is_refused_later(told, tmp_path):
    words = ["train", "resnet14", "--epochs", "1", "--warmup-epochs", "0", "--device", "cpu"]
    told(*words, "--out", "runs")
    before = sorted(tmp_path.rglob("*"))
    told(*words, "--out", "runs", "--drop-path", "0.1", code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_network_of_a_study_is_refused_before_anything_is_written(told, tmp_path):
    told("study", "new", "mine.toml")
    refused = told(
        "study", "run", "mine.toml", "--out", "s", "--set", 'models=["timm:convnext_att"]', code=2
    )
    assert "Did you mean 'timm:convnext_atto'" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_criterion_that_reads_no_image_takes_few_of_them(told, tmp_path, classes, monkeypatch):
    drawn = []

    def made(*shape, **about):
        found = noise(*shape, **about)
        drawn.append(len(found.train))
        return found

    monkeypatch.setattr("layerticket.data.dataset.noise", made)
    words = ("resnet14", "--input-shape", "3,8,8", "--criterion", "synflow", "--classes", classes)
    told("find", *words, "--remove", 1, "--batch-size", 2000, "--out", "t")
    assert json.loads((tmp_path / "t" / "ticket.json").read_text())["examples"] == 100
    assert drawn == [2000]  # for timed steps
