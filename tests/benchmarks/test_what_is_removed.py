"""What a table of scores says about places, worked out by hand."""

import numpy as np
import pytest

from what_is_removed import removed

NAMES = ["a.0", "a.1", "b.0", "b.1"]


def test_scores_that_are_a_rule_of_place():
    found = removed(np.array([[1.0, 2.0, 3.0, 4.0]] * 3), NAMES)
    one, three = found["goes"]["1"], found["goes"]["3"]
    assert found["kendall_w"] == 1.0
    assert one["share_of_seeds"] == {"a.0": 1.0, "a.1": 0.0, "b.0": 0.0, "b.1": 0.0}
    assert (one["identical"], one["rule"], one["chance"]) == (1.0, 1.0, 0.25)
    assert three["share_of_seeds"]["b.1"] == 0.0
    assert one["fixed"]["first"] == 1.0
    assert one["fixed"]["last"] == 0.0
    assert "5" not in found["goes"]  # there are four blocks


def test_the_rule_knows_the_other_seeds_only():
    # Seeds 0 and 1 remove a.0, seed 2 removes b.1: it is not foreseen from the other two.
    scores = np.array([[1.0, 2, 3, 4], [1.0, 2, 3, 4], [4.0, 3, 2, 1]])
    one = removed(scores, NAMES)["goes"]["1"]
    assert one["identical"] == pytest.approx(2 / 3)
    # For seed 0 the others rank a.0 0 + 3, a.1 1 + 2, b.0 2 + 1, b.1 3 + 0: a tie, the first wins.
    assert one["rule"] == pytest.approx(2 / 3)
    # The last of each stage in turn are a.1, b.1: one block is a.1, which no seed removes.
    assert one["fixed"]["last of each stage in turn"] == 0.0
