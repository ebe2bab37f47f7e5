"""Networks by name: sources, seeds, and what is said when a name leads nowhere."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.models.load import _init_option, build_model
from layerticket.models.names import model_names


def build(name, classes=4, channels=3, seed=0):
    return build_model(name, classes=classes, channels=channels, seed=seed)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Write a module into the current directory; forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(text, name="ownnets"):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("ownnets"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["resnet20", "timm:resnet10t", "torchvision:squeezenet1_1"])
def test_weights_follow_from_the_seed_alone(name):
    torch.manual_seed(11)
    first = weights(build(name, seed=3))
    torch.manual_seed(22)
    assert torch.equal(weights(build(name, seed=3)), first)
    assert not torch.equal(weights(build(name, seed=4)), first)


def test_random_states_come_back(own_module):
    own_module(
        "import random, torch, numpy\nfrom torch import nn\n"
        "def net():\n    random.random(); numpy.random.rand()\n    return nn.Linear(2, 2)\n"
        "def broken():\n    torch.rand(3)\n    raise OSError('from inside')\n"
    )
    states = random.getstate(), np.random.get_state()[2], torch.get_rng_state()  # noqa: NPY002
    build("ownnets:net")
    with pytest.raises(OSError, match="from inside"):
        build("ownnets:broken")
    assert random.getstate() == states[0]
    assert np.random.get_state()[2] == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_own_names():
    assert type(build("resnet32").layer2[0].shortcut).__name__ == "PaddedShortcut"
    assert isinstance(build("resnet32-projection").layer2[0].shortcut, nn.Sequential)
    assert build("resnet20", classes=7, channels=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert "resnet1202-projection" in model_names()


def test_timm_takes_classes_and_channels():
    net = build("timm:resnet10t", classes=6, channels=1)
    assert net.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 6)


def test_torchvision_takes_classes():
    net = build("torchvision:squeezenet1_1", classes=6)
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet23", r"model 'resnet23' is not known. .* Available: .* resnet14, "),
        ("resnet18", r"not from this package.* timm:resnet18 or torchvision:resnet18"),
        ("convnext_atto", r"not from this package. Give its source: timm:convnext_atto\.$"),
        ("convnext_tiny", r"timm:convnext_tiny or torchvision:convnext_tiny\.$"),
        ("resnet23-projection", r"Did you mean 'resnet32-projection'"),
        ("resnett32", r"'resnett32' is not known. Did you mean 'resnet32'\?"),
        ("timm:resnt18", r"'timm:resnt18' is not known. Did you mean 'timm:resn"),
        ("timm:hf-hub:someone/something", r"is not known"),
        ("torchvision:resnet19", r"Did you mean 'torchvision:resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", r"is not known"),  # would download a backbone
        ("no_such_module:f", r"there is no module 'no_such_module'.*timm:NAME"),
        ("not a module:f", r"is not known"),
        ("torch.nn:Linea", r"Did you mean 'Linear'\?"),
        ("torch.nn:Linear", r"needs in_features, out_features, which cannot be given"),
        ("builtins:dict", r"returned a dict; it must return a torch.nn.Module"),
    ],
)
def test_refusals(name, said):
    with pytest.raises(LayerticketError, match=said):
        build(name)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"classes": 0}, "classes is 0; it must be at least 1"),
        ({"channels": 0}, "channels is 0"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_numbers_out_of_range(numbers, said):
    with pytest.raises(LayerticketError, match=said):
        build("resnet20", **numbers)


def test_torchvision_refuses_other_channels():
    with pytest.raises(LayerticketError, match="3 channels, but these have 1"):
        build("torchvision:resnet18", channels=1)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_missing_extra_names_the_command(package, monkeypatch):
    real = __import__("importlib").import_module

    def absent(name, *rest):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(LayerticketError) as caught:
        build(f"{package}:resnet18")
    assert f'pip install "layerticket[{package}]"' in str(caught.value)


def test_function_is_given_only_what_it_names(own_module):
    own_module(
        "from torch import nn\n"
        "def both(num_classes, in_channels): return nn.Linear(in_channels, num_classes)\n"
        "def one(*, num_classes=3): return nn.Linear(1, num_classes)\n"
        "def none(width=9): return nn.Linear(1, width)\n"
        "def rest(**options): return nn.Linear(1, 1 + len(options))\n"
        "def no_net(): return 5\n"
    )
    path = list(sys.path)
    assert build("ownnets:both", classes=5, channels=2).weight.shape == (5, 2)
    assert build("ownnets:one", classes=5).weight.shape == (5, 1)
    assert build("ownnets:none").weight.shape == (9, 1)
    assert build("ownnets:rest").weight.shape == (1, 1)
    with pytest.raises(LayerticketError, match="returned a int"):
        build("ownnets:no_net")
    with pytest.raises(LayerticketError, match="Did you mean 'both'"):
        build("ownnets:bth")
    assert sys.path == path


def test_an_import_that_fails_inside_a_module_is_shown_as_it_is(own_module):
    own_module("import a_package_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        build("ownnets:net")


def test_options_follow_a_comma():
    pytest.importorskip("timm")
    zero = build_model("timm:resnet18", classes=10, channels=3, seed=0)
    full = build_model("timm:resnet18,zero_init_last=False", classes=10, channels=3, seed=0)
    assert float(zero.layer1[0].bn2.weight.detach().abs().sum()) == 0
    assert float(full.layer1[0].bn2.weight.detach().abs().sum()) == 64
    wide = build_model("timm:resnet18,act_layer=gelu", classes=10, channels=3, seed=0)
    assert "GELU" in str(wide)
    with pytest.raises(LayerticketError, match="is not an option"):
        build_model("timm:resnet18,zero_init_last", classes=10, channels=3, seed=0)
    with pytest.raises(LayerticketError, match="cannot be built"):
        build_model("timm:resnet18,zero_init=1", classes=10, channels=3, seed=0)


def test_torchvision_is_told_to_draw_weights_only_where_it_asks():
    from torchvision import models

    def asked(name):
        return _init_option(models.get_model_builder(name))

    assert asked("googlenet") == asked("inception_v3") == {"init_weights": True}
    assert asked("vgg11") == asked("resnet18") == {}


@pytest.mark.parametrize("value", ["{[1]:2}", "-" * 100_000 + "1"])
def test_a_value_that_cannot_be_read_is_refused(value):
    with pytest.raises(LayerticketError, match="the value of x cannot be read"):
        build_model(f"timm:resnet18,x={value}", classes=10, channels=3, seed=0)


def test_a_value_is_never_run():
    with pytest.raises(LayerticketError):  # a text, which timm does not take
        build_model("timm:resnet18,x=__import__('os').abort()", classes=10, channels=3, seed=0)


@pytest.mark.parametrize(
    "option",
    ["checkpoint_path=evil.pth", "pretrained=True", "pretrained_cfg_overlay={'file': 'evil.pth'}"],
)
def test_options_of_timm_read_no_checkpoint(option, tmp_path, monkeypatch):
    # timm 1.0.20 unpickles a checkpoint without restrictions.
    class Evil:
        def __reduce__(self):
            return (open, ("ran", "w"))

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.pth")
    with pytest.raises(LayerticketError, match="is built with initial weights, so"):
        build_model(f"timm:resnet18,{option}", classes=10, channels=3, seed=0)
    assert not (tmp_path / "ran").exists()
