"""`hf:CONFIG-OR-FOLDER`: configurations on disk, tasks, fields, and weights when asked for."""

import json

import pytest
import torch

from hf_families import FAMILIES
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path):
    """Write the configuration of a family, with the class it was built for or without."""

    def write(name, **changes):
        family = FAMILIES[name]
        config = getattr(transformers, family.config)(**family.options).to_dict()
        config |= {"architectures": [family.kind]} | changes
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return tmp_path

    return write


def build(name, classes=3, channels=3, seed=0):
    return build_model(name, classes=classes, channels=channels, seed=seed)


def test_the_class_comes_from_the_configuration_and_the_weights_from_the_seed(folder):
    path = folder("llama")
    model = build(f"hf:{path}")
    assert type(model) is transformers.LlamaForCausalLM
    assert torch.equal(build(f"hf:{path}/config.json").lm_head.weight, model.lm_head.weight)
    assert not torch.equal(build(f"hf:{path}", seed=1).lm_head.weight, model.lm_head.weight)
    assert model.config.vocab_size == 40  # classes are for classifiers
    assert model.dtype == torch.float32
    assert build(f"hf:{path},dtype=bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("causal-lm", "BertLMHeadModel"),
        ("masked-lm", "BertForMaskedLM"),
        ("sequence-classification", "BertForSequenceClassification"),
        ("token-classification", "BertForTokenClassification"),
        ("base", "BertModel"),
    ],
)
def test_tasks(folder, task, kind):
    model = build(f"hf:{folder('bert')},task={task}")
    assert type(model).__name__ == kind
    if "classification" in task:
        assert model.classifier.out_features == 3


def test_images_have_the_classes_and_channels_asked_for(folder):
    path = folder("vit", id2label={"0": "cat", "1": "dog"}, label2id={"cat": 0, "dog": 1})
    model = build(f"hf:{path},task=image-classification,image_size=16", classes=7, channels=1)
    assert model(torch.zeros(2, 1, 16, 16)).logits.shape == (2, 7)
    assert build(f"hf:{path},num_labels=4").config.num_labels == 4


def test_fields_of_the_configuration_follow_a_comma(folder):
    path = folder("llama")
    assert len(build(f"hf:{path},num_hidden_layers=2").model.layers) == 2
    with pytest.raises(LayerticketError, match="Did you mean 'num_hidden_layers'"):
        build(f"hf:{path},num_hiden_layers=2")
    assert build(f"hf:{folder('gpt2')},n_layer=1").config.num_hidden_layers == 1
    with pytest.raises(
        LayerticketError, match="is not a valid configuration of model_type 'gemma3"
    ):
        build(f"hf:{folder('gemma3')},num_hidden_layers=2")  # its layer_types have four


def test_weights_are_read_only_when_asked_for(folder, tmp_path):
    family = FAMILIES["vit"]
    saved = family.build()
    saved.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved"
    body = "vit.layers.0.mlp.fc1.weight"
    assert not torch.equal(build(f"hf:{path}").get_parameter(body), saved.get_parameter(body))
    read = build(f"hf:{path},weights=True", classes=9)  # a new head for other classes
    assert torch.equal(read.get_parameter(body), saved.get_parameter(body))
    assert read.classifier.weight.shape == (9, 16)
    same = build(f"hf:{path},weights=True", classes=9)
    assert torch.equal(same.classifier.weight, read.classifier.weight)
    with pytest.raises(LayerticketError, match=r"do not fit: vit\.\S+ is missing or has another"):
        build(f"hf:{path},weights=True,intermediate_size=32")
    with pytest.raises(LayerticketError, match="weights is 'yes'; allowed are True and False"):
        build(f"hf:{path},weights=yes")


def test_pickled_weights_run_no_code(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = folder("vit")
    weights = build(f"hf:{path}").state_dict()
    torch.save(weights, path / "pytorch_model.bin")
    read = build(f"hf:{path},weights=True", seed=1).state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    torch.save(weights | {"more": Evil()}, path / "pytorch_model.bin")
    with pytest.raises(LayerticketError, match="could run code; they were not loaded"):
        build(f"hf:{path},weights=True")
    assert not (tmp_path / "ran").exists()


def test_refusals(folder, tmp_path):
    with pytest.raises(LayerticketError, match=r"hf download OWNER/NAME config.json"):
        build("hf:bert-base-uncased")
    with pytest.raises(LayerticketError, match=r"cannot be built: .*no file named"):
        build(f"hf:{folder('bert')},weights=True")
    with pytest.raises(LayerticketError, match=r"names no class.*task=TASK; allowed: causal-lm"):
        build(f"hf:{folder('bert', architectures=None)}")
    with pytest.raises(LayerticketError, match="task 'translation' is not known"):
        build(f"hf:{folder('bert')},task=translation")
    with pytest.raises(LayerticketError, match="cannot be built"):
        build(f"hf:{folder('llama')},task=image-classification")
    with pytest.raises(LayerticketError, match="dtype is 'int8'; allowed"):
        build(f"hf:{folder('bert')},dtype=int8")
    with pytest.raises(LayerticketError, match="not a valid configuration of model_type 'nobody'"):
        build(f"hf:{folder('bert', model_type='nobody')}")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(LayerticketError, match="cannot be read as JSON"):
        build(f"hf:{tmp_path}")


def test_missing_extra_names_the_command(monkeypatch, folder):
    path, real = folder("bert"), __import__("importlib").import_module

    def absent(name, *rest):
        if name == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(LayerticketError, match=r'pip install "layerticket\[transformers\]"'):
        build(f"hf:{path}")
