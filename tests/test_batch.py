"""Batches: how a model is called, what its loss is, and how a batch is cut."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerticket.batch import (
    CrossEntropy,
    batch_digest,
    call,
    head,
    inputs_of,
    logits_of,
    map_tensors,
    model_loss,
    size_of,
    split,
    tensors_of,
)
from layerticket.errors import LayerticketError

Pair = namedtuple("Pair", "x y")
X, Y = torch.arange(10.0).reshape(5, 2), torch.tensor([0, 1, 0, 1, 0])


class Add(nn.Module):
    def forward(self, x, y=0):
        return x + y


def test_inputs_are_a_tensor_positional_or_named():
    assert torch.equal(call(Add(), X), X)
    assert torch.equal(call(Add(), (X, 1)), X + 1)
    assert torch.equal(call(Add(), [X, 1]), X + 1)
    assert torch.equal(call(Add(), {"y": 1, "x": X}), X + 1)
    with pytest.raises(
        LayerticketError, match="inputs are a int; give a tensor, or a tuple or dict"
    ):
        call(Add(), 3)


def test_a_batch_is_a_pair_or_a_mapping():
    assert inputs_of((X, Y)) is X
    assert inputs_of([X, Y]) is X
    batch = {"x": X}
    assert inputs_of(batch) is batch
    for wrong in (X, (X, Y, Y)):
        with pytest.raises(LayerticketError, match=r"Give \(inputs, targets\), or one dict"):
            inputs_of(wrong)


class Output:
    logits = X


@pytest.mark.parametrize("output", [X, {"logits": X}, Output(), (X, Y), [X]])
def test_logits_are_found(output):
    assert logits_of(output) is X


@pytest.mark.parametrize("output", [None, {}, {"scores": X}, (), ("x",), 3.0])
def test_an_output_without_logits_is_refused(output):
    with pytest.raises(LayerticketError, match=r"without logits; pass loss_fn\(model, batch\)"):
        logits_of(output)


def test_cross_entropy_by_hand():
    # logits (0, ln 3): probabilities 1/4 and 3/4; at temperature 1/2 the odds are squared, 1:9
    batch = torch.tensor([[0.0, 3.0]]).log().nan_to_num(neginf=0.0), torch.tensor([0])
    assert CrossEntropy()(nn.Identity(), batch).exp().item() == pytest.approx(4)
    assert CrossEntropy(0.5)(nn.Identity(), batch).exp().item() == pytest.approx(10)
    double = batch[0].double() + 1e-12, batch[1]
    assert CrossEntropy()(nn.Identity(), double).dtype == torch.double
    assert CrossEntropy()(nn.Identity(), (batch[0].bfloat16(), batch[1])).dtype == torch.float
    for temperature in (0, -1, float("nan")):
        with pytest.raises(LayerticketError, match="must be > 0"):
            CrossEntropy(temperature)


def test_model_loss_is_the_models_own():
    class Own(nn.Module):
        def forward(self, x, labels):
            return type("Out", (), {"loss": F.mse_loss(x, labels)})

    assert model_loss(Own(), {"x": X, "labels": X + 2}).item() == 4.0
    with pytest.raises(LayerticketError, match=r"no `\.loss`; put labels into the batch"):
        model_loss(Add(), {"x": X})


def test_tensors_in_any_nesting_keep_their_places():
    tree = {"a": (X, [Y, "text"]), "b": Pair(X, None), "c": torch.Size([1])}
    doubled = map_tensors(tree, lambda t: t * 2)
    assert torch.equal(doubled["a"][0], X * 2)
    assert doubled["a"][1][1] == "text"
    assert isinstance(doubled["b"], Pair)
    assert torch.equal(doubled["b"].x, X * 2)
    assert [t.shape for t in tensors_of(tree)] == [X.shape, Y.shape, X.shape]


def test_size_is_the_first_dimension_of_all():
    assert size_of((X, Y)) == 5
    assert size_of({"x": X, "n": None}) == 5
    with pytest.raises(LayerticketError, match=r"first dimensions are \[4, 5\]"):
        size_of((X, Y[:4]))
    with pytest.raises(LayerticketError, match="first dimensions are absent"):
        size_of({})


def test_head():
    assert head((X, Y), 2)[1].tolist() == [0, 1]
    assert head({"x": X, "table": torch.ones(3)}, 2)["x"] is not None
    assert head({"x": X, "table": torch.ones(3)}, 2)["x"].shape == (5, 2)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_micro_batches_cover_the_batch_once(parts):
    pieces = split((X, Y), parts)
    assert len(pieces) == parts
    assert sum(share for share, _ in pieces) == pytest.approx(1)
    assert [share * 5 for share, _ in pieces] == pytest.approx([len(b[1]) for _, b in pieces])
    assert torch.equal(torch.cat([b[0] for _, b in pieces]), X)
    assert torch.equal(torch.cat([b[1] for _, b in pieces]), Y)
    assert all(len(b[1]) for _, b in pieces)


def test_more_parts_than_examples_are_refused():
    for parts in (0, -1, 6):
        with pytest.raises(LayerticketError, match=f"micro_batches is {parts}; allowed are 1 to 5"):
            split((X, Y), parts)


def test_digest_follows_values_types_and_order():
    digest = batch_digest((X, Y))
    assert digest == batch_digest([X.clone(), Y])
    assert digest == batch_digest((X.t().contiguous().t(), Y))
    others = [(X + 0.1, Y), (X.double(), Y), (Y, X), (X.reshape(2, 5), Y), (X,)]
    assert len({digest, *map(batch_digest, others)}) == 6
