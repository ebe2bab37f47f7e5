import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerticket.errors import LayerticketError
from layerticket.verdict.statistics import holm, outcome_after, percentile

P = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@given(P)
def test_holm_lies_between_the_value_and_bonferroni(values):
    for p, adjusted in zip(values, holm(values), strict=True):
        assert p <= adjusted <= min(1, p * len(values)) or adjusted == pytest.approx(p)
    assert [a for _, a in sorted(zip(values, holm(values), strict=True))] == sorted(holm(values))


def test_outcome_after_shares_the_error_between_directions():
    assert outcome_after(0.0249, 0.9751, 0.95) == "wins"
    assert outcome_after(0.0251, 0.9749, 0.95) == "undecided"
    assert outcome_after(1.0, 0.001, 0.95) == "loses"
    assert outcome_after(None, None, 0.95) == "undecided"


def test_percentile_counts_ties_half_and_averages_seeds():
    found = percentile([0.9, 0.8], [[0.8, 0.9, 0.95, 0.7], [0.7, 0.7]])
    assert found.share == pytest.approx((2.5 / 4 + 1) / 2)
    assert (found.tickets, found.seeds) == (6, 2)


def test_one_seed_has_no_interval_however_many_were_drawn():
    found = percentile([0.9], [[0.1] * 20])
    assert (found.share, found.low, found.high) == (1.0, None, None)


def test_the_interval_is_never_narrower_than_the_exact_binomial_one():
    found = percentile([0.5] * 2, [[0.1] * 7 + [0.9] * 3] * 2)
    exact = stats.binomtest(14, 20).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    edge = percentile([0.9] * 2, [[0.1] * 5] * 2)
    exact = stats.binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert (edge.low, edge.high) == pytest.approx((exact.low, 1.0))


def test_seeds_that_disagree_widen_the_interval():
    alike = percentile([0.5] * 4, [[0.4] * 5 + [0.6] * 5] * 4)
    apart = percentile([0.5] * 4, [[0.4] * 10, [0.6] * 10] * 2)
    assert alike.share == apart.share == 0.5
    assert apart.low == 0.0 < alike.low
    assert alike.high < apart.high == 1.0


def test_percentile_without_random_tickets_is_refused():
    with pytest.raises(LayerticketError, match="for 1 seeds"):
        percentile([0.9, 0.9], [[0.8], []])
