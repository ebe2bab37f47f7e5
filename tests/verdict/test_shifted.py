"""Paired differences under shift: by hand, against SciPy, and what is left at equal accuracy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerticket.errors import LayerticketError
from layerticket.verdict.pairs import compare_shifted, explained

DENSE = [(0.90, 0.70), (0.92, 0.71), (0.91, 0.66)]
TICKET = [(0.91, 0.73), (0.91, 0.72), (0.92, 0.70)]
RATES = st.floats(0.01, 0.99)


def test_differences_by_hand():
    found = compare_shifted(DENSE, TICKET, images=1000)
    assert found.n == 3
    assert found.mean == pytest.approx(0.08 / 3)
    assert found.clean.mean == pytest.approx(0.01 / 3)
    assert found.relative.mean == pytest.approx(
        (0.73 / 0.91 - 0.70 / 0.90 + 0.72 / 0.91 - 0.71 / 0.92 + 0.70 / 0.92 - 0.66 / 0.91) / 3
    )
    interval = stats.t.interval(0.95, 2, loc=0.08 / 3, scale=stats.sem([0.03, 0.01, 0.04]))
    assert (found.low, found.high) == pytest.approx(interval)
    assert found.std == pytest.approx(np.std([0.03, 0.01, 0.04], ddof=1))
    # odds 9 become 0.91 / 0.09, so odds 7 / 3 of the shifted grow by the same factor
    first = compare_shifted(DENSE[:1], TICKET[:1], images=1000)
    odds = 7 / 3 * (0.91 / 0.09) / 9
    assert first.at_equal_clean.mean == pytest.approx(0.73 - odds / (1 + odds))


def test_one_seed_has_no_interval():
    found = compare_shifted(DENSE[:1], TICKET[:1], images=1000)
    assert found.mean == pytest.approx(0.03)
    assert found.low is found.high is found.std is None


@given(clean=RATES, shifted=RATES, other=RATES, slope=st.floats(0.1, 2))
def test_what_the_clean_accuracy_explains(clean, shifted, other, slope):
    same = explained(clean, shifted, clean, slope=slope, least=1e-4)
    assert same == shifted
    found = explained(clean, shifted, other, slope=slope, least=1e-4)
    assert 0 < found < 1
    if abs(other - clean) > 1e-6:
        assert (found > shifted) == (other > clean)
    assert explained(clean, shifted, other, slope=0, least=1e-4) == pytest.approx(shifted)


def test_a_network_that_only_got_better_all_over_is_no_more_robust():
    def moved(rate):
        return 1 / (1 + math.exp(-(math.log(rate / (1 - rate)) + 0.3)))

    better = [(moved(clean), moved(shifted)) for clean, shifted in DENSE]
    found = compare_shifted(DENSE, better, images=1000)
    assert found.mean > 0.03
    assert (found.at_equal_clean.mean, found.at_equal_clean.std) == pytest.approx((0, 0), abs=1e-12)


def test_accuracies_of_0_and_1_are_kept_half_an_image_off():
    found = compare_shifted([(1.0, 0.0)], [(0.9, 0.0)], images=100)
    assert math.isfinite(found.at_equal_clean.mean)
    assert compare_shifted([(0.0, 0.0)], [(0.9, 0.0)], images=100).relative is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ticket": TICKET[:2]}, "3 dense and 2 ticket networks"),
        ({"dense": [], "ticket": []}, "0 dense"),
        ({"ticket": [(91.0, 0.7), *TICKET[1:]]}, "not percent"),
        ({"images": 0}, "images 0"),
        ({"confidence": 1.0}, "confidence 1.0"),
        ({"slope": -1.0}, "slope -1.0"),
    ],
)
def test_refuses_what_no_comparison_can_rest_on(change, said):
    arguments = {"dense": DENSE, "ticket": TICKET, "images": 100} | change
    dense, ticket = arguments.pop("dense"), arguments.pop("ticket")
    with pytest.raises(LayerticketError, match=said):
        compare_shifted(dense, ticket, **arguments)
