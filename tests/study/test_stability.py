"""Whether scores tell blocks apart: on numbers made up to be so, and on networks."""

import numpy as np
import pytest
import torch
from torch import nn

from layerticket.errors import LayerticketError
from layerticket.study.stability import ranking_stability, stability_of
from tiny import PreNormBlock

BLOCKS = np.linspace(1, 2, 6)


@pytest.fixture
def random():
    return np.random.default_rng(3)


def noise(random, *shape):
    return 0.01 * random.standard_normal(shape)


def test_places_that_matter(random):
    told = stability_of(BLOCKS + noise(random, 4, 3, 6))
    assert told["outcome"] == "position"
    assert told["agreement"] == {"batches": 1.0, "seeds": 1.0}
    assert told["signal_to_noise"] > 100
    assert told["lowest"] == 1
    assert told["relative_spread"] == pytest.approx((BLOCKS / 1.5).std(ddof=1), rel=0.05)
    assert told["sentence"].startswith("The scores tell blocks apart: rankings agree over batches")


def test_rankings_that_follow_the_initialization(random):
    per_seed = np.stack([random.permutation(BLOCKS) for _ in range(4)])
    told = stability_of(per_seed[:, None] + noise(random, 4, 3, 6))
    assert told["outcome"] == "seed"
    assert told["agreement"]["batches"] == 1
    assert told["agreement"]["seeds"] < 0.6
    assert "by position, any block would do" in told["sentence"]


def test_scores_that_say_nothing(random):
    told = stability_of(1 + noise(random, 4, 3, 6))
    assert told["outcome"] == "any"
    assert told["between"] < told["noise"]
    assert told["sentence"].startswith("Any block would do: another batch ranks the blocks as if")


def test_what_is_common_to_all_blocks_does_not_count(random):
    scores = BLOCKS + noise(random, 3, 3, 6)
    scaled = scores * random.uniform(1, 1000, (3, 3, 1))
    assert stability_of(scaled)["noise"] == pytest.approx(stability_of(scores)["noise"])
    assert stability_of(-scores)["outcome"] == "position"  # GraSP's scores are below zero


def test_agreement_of_two_judges_is_held_against_chance():
    told = stability_of(np.stack([np.stack([BLOCKS, BLOCKS[::-1]])] * 2))
    assert told["agreement"]["batches"] == 0
    assert told["p_value"]["batches"] > 0.9
    told = stability_of(np.stack([np.stack([BLOCKS, BLOCKS + 1])] * 2))
    assert told["agreement"] == {"batches": 1.0, "seeds": 1.0}
    assert told["p_value"]["seeds"] == pytest.approx(1 / 720, abs=2e-3)  # of 6! orders


def test_equal_scores_agree_on_nothing():
    told = stability_of(np.ones((2, 3, 4)))
    assert (told["outcome"], told["signal_to_noise"]) == ("any", None)


def build(seed):
    torch.manual_seed(seed)
    blocks = [PreNormBlock() for _ in range(4)]
    return nn.Sequential(nn.Linear(4, 8), *blocks, nn.Flatten(), nn.Linear(24, 3))


def draw(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(6, 3, 4, generator=generator), torch.arange(6) % 3


def test_networks_and_batches_drawn_anew():
    told = ranking_stability(build, draw, criterion="snip", seeds=2, batches=3)
    assert told["blocks"] == ["1", "2", "3", "4"]
    assert np.array(told["scores"]).shape == (2, 3, 4)
    assert len({score for seed in told["scores"] for row in seed for score in row}) == 24
    again = ranking_stability(build, draw, criterion="snip", seeds=2, batches=3)
    assert again == told
    parts = ranking_stability(
        build, draw, criterion="snip", seeds=2, batches=2, granularity="branch"
    )
    assert len(parts["blocks"]) == 8
    assert (
        ranking_stability(build, draw, criterion="random", seeds=3, batches=5)["outcome"] == "any"
    )


def test_too_little_to_compare_is_refused():
    with pytest.raises(LayerticketError, match="give at least 2 of each"):
        ranking_stability(build, draw, seeds=1)
    with pytest.raises(LayerticketError, match="has 2 removable blocks; a ranking needs at least"):
        stability_of(np.ones((2, 2, 2)))
