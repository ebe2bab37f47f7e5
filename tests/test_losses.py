"""Which loss is taken, and what is refused rather than guessed; causes that are measured."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerticket.batch import (
    BinaryCrossEntropy,
    CrossEntropy,
    MeanSquaredError,
    call,
    inputs_of,
    loss_named,
)
from layerticket.blocks.find import find_blocks
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.scoring import score, score_weights
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from tiny import ConvBlock, ScalarBlock, chain, conv_net, image_batch

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(8) % 3
BITS = (torch.arange(24).reshape(8, 3) % 2).float()


def net(outputs=3):
    torch.manual_seed(1)
    return chain(ScalarBlock(0.5, 8), ScalarBlock(0.25, 8), leaving=outputs)


def scored(model, targets, criterion="snip", x=X, **options):
    return score(model, find_blocks(model, x), (x, targets), criterion, **options)


# By hand


def given(logits):
    """A model that returns these logits, whatever it is called on."""

    class Given(nn.Module):
        def forward(self, _):
            return logits

    return Given()


def test_losses_by_hand():
    logits = torch.tensor([[0.0, 2.0]])
    cross = loss_named("cross_entropy", 2.0)(given(logits), (X, torch.tensor([1])))
    assert cross.item() == pytest.approx(0.313262, rel=1e-5)  # log(1 + exp(-1))
    bits = loss_named("bce")(given(logits), (X, torch.tensor([[1.0, 0.0]])))
    assert bits.item() == pytest.approx(
        (0.693147 + 2.126928) / 2, rel=1e-5
    )  # log 2, log(1 + exp(2))
    square = loss_named("mse")(given(logits), (X, torch.tensor([[1.0, 5.0]])))
    assert square.item() == 5.0  # (1 + 9) / 2
    column = torch.tensor([[1.0], [3.0]])
    assert MeanSquaredError()(given(column), (X, torch.tensor([0, 1]))).item() == 2.5
    soft = CrossEntropy()(given(logits), (X, torch.tensor([[0.5, 0.5]])))
    assert soft.item() == pytest.approx((2.126928 + 0.126928) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "loss", "targets"),
    [
        ("cross_entropy", lambda m, b: F.cross_entropy(call(m, inputs_of(b)), b[1]), CLASSES),
        ("cross_entropy", lambda m, b: F.cross_entropy(call(m, inputs_of(b)), b[1]), BITS),
        ("bce", lambda m, b: F.binary_cross_entropy_with_logits(call(m, inputs_of(b)), b[1]), BITS),
        ("mse", lambda m, b: F.mse_loss(call(m, inputs_of(b)), b[1]), BITS),
    ],
)
def test_a_loss_by_name_is_that_loss(name, loss, targets):
    by_name = scored(net(), targets, loss_fn=name)
    assert by_name.values == pytest.approx(scored(net(), targets, loss_fn=loss).values)
    assert by_name.options["loss_fn"] == name
    assert by_name.options["temperature"] == (None if name == "mse" else 1.0)


def test_the_temperature_of_a_criterion_goes_with_losses_of_logits():
    assert scored(net(), BITS, "grasp", loss_fn="bce").options["temperature"] == 200.0
    cooled = scored(net(), BITS, "grasp", loss_fn="bce", temperature=1.0)
    own = scored(net(), BITS, "grasp", loss_fn=BinaryCrossEntropy())
    assert cooled.values == own.values
    assert cooled.options == own.options
    with pytest.raises(LayerticketError, match="mse has no logits to divide"):
        scored(net(), BITS, "grasp", loss_fn="mse", temperature=2.0)
    with pytest.raises(LayerticketError, match="loss 'l2' is not known"):
        scored(net(), BITS, loss_fn="l2")


def test_a_ticket_says_its_loss(tmp_path):
    ticket = find_ticket(net(1), (X, X[:, 0]), budget=Budget(remove=1), loss_fn="mse")
    assert Ticket.load(ticket.save(tmp_path / "t")).options["loss_fn"] == "mse"


# No guess


AMBIGUOUS = {
    "one output, values": (1, X[:, 0]),
    "one output, classes": (1, torch.arange(8) % 2),
    "several labels": (3, BITS),
    "several labels as whole numbers": (3, BITS.long()),
    "several labels as truth values": (3, BITS.bool()),
    "probabilities": (3, BITS.softmax(1)),
    "truth values": (2, torch.arange(8) % 2 == 0),
}


@pytest.mark.parametrize("criterion", ["grasp", "snip"])
@pytest.mark.parametrize("case", AMBIGUOUS)
def test_targets_that_may_be_something_else_are_refused(case, criterion):
    outputs, targets = AMBIGUOUS[case]
    with pytest.raises(LayerticketError, match=r"loss_fn='cross_entropy' .*'bce' .*'mse' "):
        scored(net(outputs), targets, criterion)
    with pytest.raises(LayerticketError, match="Name the loss"):
        scored(net(outputs), targets, criterion, temperature=3.0)


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.uint8])
def test_whole_numbers_for_two_or_more_outputs_are_classes(dtype):
    assert scored(net(), CLASSES.to(dtype)).values == scored(net(), CLASSES).values


def test_segmentation_and_ignored_targets():
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(2, 4, 1), ConvBlock(4), ConvBlock(4), nn.Conv2d(4, 3, 1)
            )

        def forward(self, x):
            return self.net(x)

    images, torch_labels = image_batch()[0], torch.arange(36).reshape(1, 6, 6) % 3
    labels = torch_labels.repeat(12, 1, 1)
    assert len(scored(Pixels(), labels, x=images).values) == 2
    labels[0, 0] = -100
    assert len(scored(Pixels(), labels, x=images).values) == 2


@pytest.mark.parametrize("labels", [CLASSES + 1, CLASSES - 1])
def test_labels_out_of_range(labels):
    with pytest.raises(LayerticketError, match=r"has 3 outputs, for classes 0 to 2") as told:
        scored(net(), labels)
    assert type(told.value) is LayerticketError


def test_labels_and_outputs_that_do_not_fit():
    with pytest.raises(LayerticketError, match=r"bce compares outputs of shape \(8, 3\) with"):
        scored(net(), CLASSES.float(), loss_fn="bce")
    with pytest.raises(LayerticketError, match="bce takes labels from 0 to 1, but the targets"):
        scored(net(), 2 * BITS, loss_fn="bce")


# Batches that miss classes


def test_a_batch_of_one_class_is_scored_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert scored(net(), torch.ones(8, dtype=torch.long)).values
    assert "all examples of the scoring batch have class 1, but the network has 3" in caplog.text


def test_a_batch_that_misses_classes_is_scored_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert scored(net(), torch.arange(8) % 2, "grasp").values
    assert "no example of 1 of 3 classes" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        scored(net(), CLASSES)
        scored(net(), BITS, loss_fn="bce")
        scored(net(), CLASSES, "magnitude")
    assert not caplog.text


# Zero-initialized branches


def zeroed_net():
    torch.manual_seed(0)
    model = conv_net()
    for name in ("2", "3", "5"):
        nn.init.zeros_(model.get_submodule(name).bn2.weight)
    return model


@pytest.mark.parametrize("criterion", ["grasp", "snip", "synflow"])
def test_gains_of_zero_are_scored_as_one_on_request(criterion):
    model, batch = zeroed_net(), image_batch()
    found = find_blocks(model, batch[0])
    with pytest.raises(LayerticketError, match=r"Score with gains of one \(zero_init='as-one'"):
        score(model, found, batch, criterion)
    ones = zeroed_net()
    for name in ("2", "3", "5"):
        nn.init.ones_(ones.get_submodule(name).bn2.weight)
    before = {name: p.clone() for name, p in model.named_parameters()}
    scores = score(model, found, batch, criterion, zero_init="as-one")
    assert scores.values == score(ones, found, batch, criterion).values
    assert scores.options["zero_init"] == "as-one"
    assert "zero_init" not in score(ones, found, batch, criterion).options
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(LayerticketError, match="no gain of these blocks is zero"):
        score(ones, found, batch, criterion, zero_init="as-one")


def test_theta_0_keeps_its_zeros_in_a_ticket():
    batch = image_batch()
    ticket = find_ticket(zeroed_net(), batch, budget=Budget(remove=1), zero_init="as-one")
    assert ticket.options["zero_init"] == "as-one"
    kept = [name for name in ("2", "3", "5") if name not in ticket.removed]
    assert not any(ticket.init[f"{name}.bn2.weight"].any() for name in kept)


def test_networks_of_timm_that_start_at_zero():
    model = build_model("timm:resnet10t", classes=3, channels=3, seed=0)
    batch = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    found = find_blocks(model, batch[0][:1])
    assert len(set(score(model, found, batch, zero_init="as-one").values.values())) == len(found)


def test_other_values_of_zero_init_are_refused():
    with pytest.raises(LayerticketError, match="allowed are 'as-is' and 'as-one'"):
        scored(net(), CLASSES, zero_init="one")
    with pytest.raises(LayerticketError, match="criterion 'random' never runs the network"):
        scored(net(), CLASSES, "random", zero_init="as-one")


# The cause that is named is the cause that was measured


def refusal(model, batch, criterion, **options):
    with pytest.raises(LayerticketError) as told:
        score(model, find_blocks(model, batch[0]), batch, criterion, **options)
    return str(told.value)


def test_weights_that_are_all_zero():
    model = net()
    for block in model[1:3]:
        nn.init.zeros_(block.fc.weight)
    told = refusal(model, (X, CLASSES), "magnitude")
    assert "Blocks have weights that are all zero (1.fc.weight, 2 of 2)" in told
    assert "zero_init" not in told


def test_equal_full_ranks():
    tall = image_batch(size=8)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        ConvBlock(4, pre=True),
        ConvBlock(4, pre=True),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
    told = refusal(model, tall, "hrank")
    assert "Every feature map has full rank" in told
    assert "zero" not in told


@pytest.mark.parametrize("criterion", ["kl", "cka"])
def test_blocks_without_influence(criterion):
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.head = (
                chain(ScalarBlock(0.5, 8), ScalarBlock(0.25, 8)),
                nn.Linear(4, 3),
            )

        def forward(self, x):
            self.tower(x)
            return self.head(x)

    told = refusal(Tower(), (X, CLASSES), criterion)
    assert "does not change the compared output" in told


def without_influence(model, batch):
    return 0 * model(batch[0]).sum()


def test_an_unknown_cause_is_reported_as_unknown():
    told = refusal(net(), (X, CLASSES), "snip", loss_fn=without_influence)
    assert "No cause was found" in told
    with pytest.raises(LayerticketError, match="No cause was found"):
        score_weights(net(), (X, CLASSES), "snip", loss_fn=without_influence)


def test_scores_that_are_not_finite_say_why():
    holes = X.clone()
    holes[0, 0] = float("nan")
    assert "The batch has values that are not finite" in refusal(net(), (holes, CLASSES), "snip")
    model = net()
    found = find_blocks(model, X)
    with torch.no_grad():
        model[0].bias[0] = float("inf")
    with pytest.raises(LayerticketError, match=r"Weight '0\.bias' is not finite"):
        score(model, found, (X, CLASSES), "snip")
    for criterion, ways in (("snip", "'magnitude'"), ("grasp", "'snip' or 'magnitude'")):
        told = refusal(net(), (X, CLASSES), criterion, loss_fn=too_large)
        assert told.endswith(f"Try float64 weights, or criterion {ways}.")


def too_large(model, batch):
    return (model(batch[0]).square().sum() * 1e30) * 1e30
