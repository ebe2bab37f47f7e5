"""The guarded door: options, degenerate scores, micro-batches."""

import pytest
import torch
from torch import nn

import layerticket.scoring
from layerticket.batch import CrossEntropy
from layerticket.blocks.find import find_blocks
from layerticket.criteria.registry import Criterion
from layerticket.errors import LayerticketError
from layerticket.scoring import score
from tiny import PostNormBlock, TwoBlocks, chain, conv_net, half_square, image_batch, one, token_net

TOKENS = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def scored(model, batch, criterion="snip", **options):
    return score(model, find_blocks(model, batch[0]), batch, criterion, **options)


def test_every_option_is_recorded_as_json():
    record = scored(conv_net(), image_batch(), "grasp", temperature=3).options
    assert record == {
        "loss_fn": "cross_entropy",
        "temperature": 3,
        "reduction": "sum",
        "micro_batches": 1,
        "hessian": "auto",
        "halves": False,
        "redraw": None,
        "normalization": "batch",
    }
    own = scored(TwoBlocks(), one(), loss_fn=half_square)
    assert (own.options["loss_fn"], own.options["temperature"]) == ("tiny.half_square", None)


@pytest.mark.parametrize(
    ("criterion", "options", "said"),
    [
        (
            "snip",
            {"reductoin": "sum"},
            r"option of criterion 'snip' 'reductoin' is not known\. Did",
        ),
        ("snip", {"hessian": "exact"}, "Available: loss_fn, micro_batches, normalization, redraw"),
        ("magnitude", {"temperature": 2}, "'temperature' is not known"),
        ("snip", {"normalization": "none"}, "normalization is 'none'; allowed: 'batch', 'running'"),
        ("snap", {}, "criterion 'snap' is not known. Did you mean 'snip'"),
    ],
)
def test_unknown_options(criterion, options, said):
    with pytest.raises(LayerticketError, match=said):
        scored(conv_net(), image_batch(), criterion, **options)


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_micro_batches_equal_the_whole_where_examples_are_apart(criterion):
    for model, batch, options in (
        (token_net(), TOKENS, {}),
        (conv_net(), image_batch(), {"normalization": "running"}),
    ):
        whole = scored(model, batch, criterion, **options).values
        for parts in (2, 4, len(batch[1])):  # 4 does not divide 6
            split = scored(model, batch, criterion, micro_batches=parts, **options).values
            assert list(split.values()) == pytest.approx(list(whole.values()), rel=2e-3)


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_micro_batches_are_refused_where_they_change_the_scores(criterion):
    with pytest.raises(LayerticketError, match=r"normalizes over the batch.*Use micro_batches=1"):
        scored(conv_net(), image_batch(), criterion, micro_batches=2)
    for parts in (0, 7):
        with pytest.raises(LayerticketError, match=f"micro_batches is {parts}; allowed are 1 to 6"):
            scored(token_net(), TOKENS, criterion, micro_batches=parts)


def test_the_mode_of_normalization_is_part_of_the_score():
    model, batch = conv_net(), image_batch()
    assert scored(model, batch).values != scored(model, batch, normalization="running").values
    model.eval()
    mode = scored(model, batch).values
    model.train()
    assert scored(model, batch).values == mode


def test_dropout_is_off():
    model = chain(nn.Dropout(0.9), PostNormBlock(), PostNormBlock())
    batch = torch.randn(6, 4), torch.arange(6) % 3
    first = scored(model, batch).values
    model[1].p = 0.0
    assert scored(model, batch).values == first


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_zero_initialized_branches_are_refused_with_the_ways_out(criterion):
    model = conv_net()
    for block in ("2", "3", "5"):
        nn.init.zeros_(model.get_submodule(block).bn2.weight)
    with pytest.raises(LayerticketError, match=r"be ranked\..*'as-one'.*zero_init_last=False"):
        scored(model, image_batch(), criterion)


def test_equal_scores_are_refused_unless_there_is_one_block():
    with pytest.raises(LayerticketError, match=r"gives 1\.0 for every block, so blocks cannot"):
        scored(TwoBlocks(a=1.0, b=1.0), one(), "magnitude")
    assert scored(chain(TwoBlocks().first, entering=1), (torch.ones(1, 4), torch.zeros(1).long()),
                  "magnitude").values == {"1": 1.0}  # fmt: skip


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_not_a_number_is_refused(criterion):
    images, labels = image_batch()
    images[0, 0, 0, 0] = float("nan")
    model = conv_net()
    found = find_blocks(model, image_batch()[0])
    with pytest.raises(LayerticketError, match=r"gives nan for block '2' \(3 of 3 blocks\)"):
        score(model, found, (images, labels), criterion)


def test_overflow_is_refused():
    with pytest.raises(LayerticketError, match="gives inf for block 'first'"):
        scored(TwoBlocks(a=1e38, b=2.0), one(), loss_fn=half_square)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"first": 1.0}, r"missing: \['second'\]"), ({"first": 1, "second": 2, "x": 3}, r"\['x'\]")],
)
def test_a_criterion_that_scores_other_blocks_is_a_bug(values, said, monkeypatch):
    known = Criterion("odd", lambda model, blocks, batch: values, "", (), 0)
    monkeypatch.setattr(layerticket.scoring, "get_criterion", lambda _: known)
    with pytest.raises(RuntimeError, match=said):
        scored(TwoBlocks(), one(), "odd")


def test_a_criterion_that_writes_to_the_weights_is_a_bug(monkeypatch):
    def vandal(model, blocks, batch):
        with torch.no_grad():
            model.first.fc.weight.add_(1)
        return {"first": 1.0, "second": 2.0}

    known = Criterion("vandal", vandal, "", (), 0)
    monkeypatch.setattr(layerticket.scoring, "get_criterion", lambda _: known)
    with pytest.raises(RuntimeError, match="'vandal' changed the weights"):
        scored(TwoBlocks(), one(), "vandal")


def test_a_dict_brings_its_own_loss_or_gets_told():
    model = TwoBlocks()
    found = find_blocks(model, one()[0])
    batch = {"x": torch.ones(1, 1)}
    with pytest.raises(
        LayerticketError, match=r"output has no `\.loss`; put labels into the batch"
    ):
        score(model, found, batch, "snip")
    with pytest.raises(LayerticketError, match=r"needs a batch \(inputs, targets\), got a dict"):
        score(model, found, batch, "snip", loss_fn=CrossEntropy())
    assert score(model, found, batch, "snip", loss_fn=half_square).values == {
        "first": 18.0,
        "second": 24.0,
    }


def test_a_temperature_is_refused_with_a_loss_of_the_models_own(caplog):
    model = TwoBlocks()
    found, batch = find_blocks(model, one()[0]), {"x": torch.ones(1, 1)}
    with pytest.raises(LayerticketError, match=r"temperature is 3, but the batch is a dict"):
        score(model, found, batch, "grasp", temperature=3)
    with pytest.raises(LayerticketError, match=r"output has no `\.loss`"):
        score(model, found, batch, "snip")  # has no temperature by default: nothing to say
    assert not caplog.records
    with pytest.raises(LayerticketError, match=r"output has no `\.loss`"):
        score(model, found, batch, "grasp")
    assert "without its usual temperature of 200" in caplog.text
