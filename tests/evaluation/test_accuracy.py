"""Accuracy: counted by hand, and the model comes back as it was."""

import pytest
import torch
from torch import nn

from layerticket.data.dataset import Split
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import judged
from toy_training import make_data, make_model


class Says(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.sizes = []

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.sizes.append(len(x))
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_counts_by_hand(precision, batch_size):
    data = make_data()
    model = Says([0.0, 2.0, 1.0])
    found = judged(model, data, data.test, batch_size=batch_size, precision=precision, device="cpu")
    labels = data.test.labels.tolist()
    assert found.accuracy == labels.count(1) / 30
    bits = "".join("1" if label == 1 else "0" for label in labels)  # the first image is the highest
    assert found.correct == f"{int(bits + '00', 2):08x}"
    assert sum(model.sizes) == 30
    assert max(model.sizes) == min(batch_size, 30)


def test_model_and_random_state_come_back_as_they_were():
    data, model = make_data(), make_model().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    judged(model, data, data.validation, device="cpu")
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in model] == [True, False] + [True] * 5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model(torch.zeros(2, 3, 8, 8)).sum().backward()  # still trainable


def test_modes_come_back_when_the_model_fails():
    data = make_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3)).train()
    with pytest.raises(RuntimeError):
        judged(model, data, data.test, device="cpu")
    assert model.training
    assert model[1].training


def test_refuses_what_means_nothing():
    data = make_data()
    empty = Split(images=data.test.images[:0], labels=data.test.labels[:0])
    with pytest.raises(LayerticketError, match="split to evaluate is empty"):
        judged(Says([0.0]), data, empty)
    with pytest.raises(LayerticketError, match="batch_size is 0"):
        judged(Says([0.0]), data, data.test, batch_size=0)
    with pytest.raises(LayerticketError, match="not finite"):
        judged(Says([0.0, float("nan"), 0.0]), data, data.test, device="cpu")
