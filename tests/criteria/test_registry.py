"""The registry: names, records, and what an unknown name gets told."""

import pytest

from layerticket.criteria.registry import criterion, criterion_names, get_criterion
from layerticket.errors import LayerticketError


def test_the_criteria_there_are():
    orders = {name: get_criterion(name).order for name in criterion_names()}
    assert orders == {
        "cka": 0, "expect_abs": 0, "grasp": 2, "hrank": 0, "kl": 0,
        "magnitude": 0, "pls": 0, "random": 0, "snip": 1, "synflow": 1,
    }  # fmt: skip
    for name in criterion_names():
        assert get_criterion(name).summary.endswith(".")
        assert get_criterion(name).cites


def test_unknown_and_taken_names():
    with pytest.raises(LayerticketError, match=r"'grap' is not known\. Did you mean 'grasp'\?"):
        get_criterion("grap")
    with pytest.raises(LayerticketError, match="'snip' is already registered"):
        criterion("snip", cites="", uses=(), order=0)(dict)
    assert get_criterion("snip").fn is not dict
