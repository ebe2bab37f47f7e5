"""Files that are written compute what the network computes, and are refused where they do not."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_families import FAMILIES
from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError
from layerticket.export import FORMATS, Exported, export
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.surgery.remove import remove_blocks
from tiny import conv_net, image_batch, owned_by_the_caller


def ticket_of(model, example, *names):
    return remove_blocks(model, find_blocks(model, example).named(names))


def test_every_file_is_read_back_and_compared(tmp_path):
    pytest.importorskip("onnxruntime")
    model, images = CifarResNet(20, classes=4).train(), torch.randn(2, 3, 8, 8)
    small = ticket_of(model, images, "layer1.0", "layer3.2")
    before = owned_by_the_caller(small)
    found = export(small, tmp_path, images, formats=("safetensors", "torch", "onnx"))
    assert owned_by_the_caller(small) == before
    assert small.training
    assert list(found) == ["safetensors", "torch", "onnx"]
    assert found["safetensors"].difference == 0
    assert all(0 <= e.difference <= e.tolerance == 1e-4 and e.any_batch for e in found.values())
    assert all(e.bytes > 4 * sum(p.numel() for p in small.parameters()) for e in found.values())
    record = json.loads((tmp_path / "export.json").read_text(encoding="utf-8"))
    assert {k: Exported(**v) for k, v in record["files"].items()} == found
    # what a user does with the files, at a batch size never traced
    state, five = load_file(tmp_path / "model.safetensors"), torch.randn(5, 3, 8, 8)
    expected = small.eval()(five).detach()
    assert state.keys() == small.state_dict().keys()
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.allclose(program(five), expected, atol=1e-5)
    session = __import__("onnxruntime").InferenceSession(tmp_path / "model.onnx")
    (given,) = session.run(None, {session.get_inputs()[0].name: five.numpy()})
    assert torch.allclose(torch.from_numpy(given), expected, atol=1e-5)


def test_hugging_face_networks(tmp_path):
    family = FAMILIES["bert"]
    small = ticket_of(family.build(), family.inputs, *family.remove)
    found = export(small, tmp_path, family.inputs, formats=("transformers", "safetensors"))
    assert [e.difference for e in found.values()] == [0, 0]
    assert (tmp_path / "transformers" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert", "vit", "gemma3", "t5"])
def test_graphs_of_hugging_face_networks(name, tmp_path):
    family = FAMILIES[name]
    small = ticket_of(family.build(), family.inputs, *family.remove)
    found = export(small, tmp_path, family.inputs, formats=("torch", "onnx"), any_batch=False)
    assert max(e.difference for e in found.values()) < 1e-5


def test_what_computes_something_else_is_refused(tmp_path, monkeypatch):
    model, (images, _) = conv_net(), image_batch()

    def broken(traced, path):
        path.write_text("weights", encoding="utf-8")
        return lambda inputs: [1.001 * t for t in traced.outputs(inputs)]

    monkeypatch.setitem(FORMATS, "torch", ("model.pt2", broken))
    with pytest.raises(LayerticketError, match=r"differ from those of the network by .* of 0.0001"):
        export(model, tmp_path, images, formats=["torch"])
    assert export(model, tmp_path, images, formats=["torch"], tolerance=0.1)["torch"].difference > 0
    nothing = ("model.pt2", lambda *_: lambda inputs: [torch.full((1,), float("nan"))])
    monkeypatch.setitem(FORMATS, "torch", nothing)
    with pytest.raises(LayerticketError, match="gives outputs of shapes"):
        export(model, tmp_path, images, formats=["torch"])


def test_small_outputs_are_held_to_the_same_tolerance(tmp_path, monkeypatch):
    model, (images, _) = conv_net(), image_batch()
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(1e-6)

    def broken(traced, path):
        path.write_text("weights", encoding="utf-8")
        return lambda inputs: [1.001 * t for t in traced.outputs(inputs)]

    monkeypatch.setitem(FORMATS, "torch", ("model.pt2", broken))
    with pytest.raises(LayerticketError, match=r"differ from those of the network by 0\.001"):
        export(model, tmp_path, images, formats=["torch"])


class Scaled(nn.Module):
    """Takes a flag and a factor beside its tensor."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, use_cache=True, factor=1.0):
        return (self.linear(x) * factor, x) if use_cache else self.linear(x) * factor


@pytest.mark.parametrize("named", [True, False])
def test_inputs_that_are_no_tensors_stay_as_they_are(named, tmp_path):
    x = torch.randn(2, 3)
    inputs = {"x": x, "use_cache": False, "factor": 2.0} if named else (x, False, 2.0)
    found = export(Scaled(), tmp_path, inputs, formats=["torch"])
    assert found["torch"].any_batch
    assert found["torch"].difference < 1e-6


def test_refusals(tmp_path, monkeypatch):
    model, (images, _) = conv_net(), image_batch()
    with pytest.raises(LayerticketError, match="Did you mean 'onnx'"):
        export(model, tmp_path, images, formats=["onx"])
    with pytest.raises(LayerticketError, match="at least one format"):
        export(model, tmp_path, images, formats=[])
    with pytest.raises(LayerticketError, match="has no save_pretrained"):
        export(model, tmp_path, images, formats=["transformers"])

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(LayerticketError, match=r"torch.export cannot trace this Branching"):
        export(Branching(), tmp_path, images, formats=["torch"])
    real = __import__("importlib").import_module

    def absent(name, *rest):
        if name == "onnxscript":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(LayerticketError, match=r'pip install "layerticket\[onnx\]"'):
        export(model, tmp_path, images, formats=["onnx"])
