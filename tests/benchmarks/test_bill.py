"""Bills by hand. Dense epoch 3, ticket epoch 2, 10 epochs, scoring 1."""

import pytest

from bill import (
    algorithm1,
    algorithm2,
    break_even_inferences,
    break_even_trainings,
    dense_training,
    iterative_magnitude_pruning,
)
from layerticket.errors import LayerticketError

DENSE = dense_training(10, 3.0)


def test_bills_by_hand():
    assert (DENSE.search, DENSE.training, DENSE.total) == (0.0, 30.0, 30.0)
    one = algorithm1(10, 3.0, 2.0, 1.0, rewind=4)
    assert (one.search, one.training, one.total) == (31.0, 12.0, 43.0)
    two = algorithm2(10, 2.0, 1.0)
    assert (two.search, two.training, two.total) == (1.0, 20.0, 21.0)
    magnitude = iterative_magnitude_pruning(10, 3.0, rounds=2, rewind=4)
    assert (magnitude.search, magnitude.training, magnitude.total) == (48.0, 18.0, 66.0)
    sparse = iterative_magnitude_pruning(10, 3.0, rounds=2, rewind=4, round_epochs=(2.0, 1.0))
    assert (sparse.search, sparse.training) == (42.0, 6.0)


def test_break_even_by_hand():
    assert break_even_trainings(algorithm2(10, 2.0, 1.0), DENSE) == 0.1
    # 31 paid before, 10 saved a training; rewinding to 4 saves 18
    assert break_even_trainings(algorithm1(10, 3.0, 2.0, 1.0), DENSE) == 3.1
    assert break_even_trainings(algorithm1(10, 3.0, 2.0, 1.0, rewind=4), DENSE) == 31 / 18
    assert break_even_trainings(iterative_magnitude_pruning(10, 3.0, rounds=2), DENSE) is None


def test_break_even_over_inferences():
    dear, each = algorithm1(10, 3.0, 2.0, 1.0), {"dense_inference": 0.5, "ticket_inference": 0.25}
    assert break_even_inferences(dear, DENSE, **each) == (51 - 30) / 0.25
    assert break_even_inferences(algorithm2(10, 2.0, 1.0), DENSE, **each) == 0.0
    same = {"dense_inference": 0.5, "ticket_inference": 0.5}
    assert break_even_inferences(dear, DENSE, **same) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: dense_training(0, 3.0),
        lambda: algorithm2(10, -1.0, 1.0),
        lambda: algorithm1(10, 3.0, 2.0, 1.0, rewind=10),
        lambda: iterative_magnitude_pruning(10, 3.0, rounds=0),
        lambda: iterative_magnitude_pruning(10, 3.0, rounds=2, round_epochs=(1.0,)),
    ],
)
def test_impossible_bills_are_refused(wrong):
    with pytest.raises(LayerticketError):
        wrong()
