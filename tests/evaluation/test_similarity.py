"""Linear CKA between two networks, layer by layer."""

import pytest
import torch
from torch import nn

from layerticket.blocks.find import find_blocks
from layerticket.criteria.cka import linear_cka
from layerticket.errors import LayerticketError
from layerticket.evaluation.similarity import HEAD, STEM, representations, similarity
from layerticket.surgery.remove import remove_blocks
from tiny import owned_by_the_caller
from toy_baselines import batch_of, projected

NAMES = ["3", "4", "5", "6"]


def test_a_network_is_like_itself_and_removed_layers_have_no_figure():
    model, (images, _) = projected(), batch_of()
    before = owned_by_the_caller(model)
    same = similarity(model, model, NAMES, images)
    assert owned_by_the_caller(model) == before
    assert list(same) == [STEM, *NAMES, HEAD]
    assert list(same.values()) == pytest.approx([1.0] * 6)
    block = find_blocks(model, images[:1]).named(["4"])
    cut = similarity(model, remove_blocks(model, block), NAMES, images)
    assert cut["4"] is None
    assert cut[STEM] == cut["3"] == pytest.approx(1)  # before the cut nothing changed
    assert 0 < cut["5"] < 1
    assert 0 < cut[HEAD] < 1


def test_figures_are_linear_cka_of_the_layers_outputs():
    one, other, (images, _) = projected(0), projected(1), batch_of()
    found = similarity(one, other, NAMES, images)
    pairs = {}
    for name in ("2", *NAMES, "9"):
        k = int(name) + 1
        with torch.no_grad():
            pairs[name] = [nn.Sequential(*list(net)[:k]).eval()(images) for net in (one, other)]
    expected = {name: linear_cka(*pair) for name, pair in pairs.items()}
    got = {"2": found[STEM], "9": found[HEAD]} | {name: found[name] for name in NAMES}
    assert got == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    x, y = torch.tensor([[1.0], [0.0], [-1.0]]), torch.tensor([[1.0], [-2.0], [1.0]])
    assert linear_cka(x, y) == pytest.approx(0)
    assert linear_cka(x, x + y) == pytest.approx(0.25)  # (x . (x + y))^2 / (|x|^2 |x + y|^2) = 4/16


def test_a_layer_that_is_not_there_is_refused():
    model, (images, _) = projected(), batch_of()
    with pytest.raises(LayerticketError, match="no layer 'layer1'"):
        similarity(model, model, ["layer1"], images)
    assert set(representations(model, ["layer1"], images)) == {HEAD}
    with pytest.raises(LayerticketError, match="at least 3"):
        similarity(model, model, NAMES, images[:2])


def test_layers_of_another_name_are_compared_as_told():
    model, (images, _) = projected(), batch_of()
    shifted = nn.Sequential(nn.Identity(), *model)
    with pytest.raises(LayerticketError, match="no layer 'lost'"):
        similarity(model, shifted, ["lost"], images, counterparts={})
    told = {STEM: "4", "4": "5", "6": "7"}
    found = similarity(model, shifted, NAMES, images, counterparts=told)
    assert found["3"] is found["5"] is None
    assert [found[name] for name in (STEM, "4", "6", HEAD)] == pytest.approx([1.0] * 4)
    found = similarity(model, shifted, NAMES, images, counterparts={"4": "5"})
    assert found[STEM] is None
