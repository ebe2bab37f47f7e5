"""Do the intervals hold what they promise? Studies with a known truth, simulated with a seed."""

from pathlib import Path

import numpy as np
import pytest

from layerticket.verdict.pairs import _answer
from layerticket.verdict.statistics import Difference, estimate

IMAGES, STUDIES = 1000, 10_000
SEEDS = (2, 3, 5, 8, 20)
NOMINAL = 0.025


def population(generator):
    """Chances of a right answer, image by image, of a dense network and of a ticket.

    The ticket is a little worse, and knows some images better and others worse whatever the seed:
    the log odds of one image differ by 1 (standard deviation), which no further seed averages out.
    """
    odds = generator.normal(4.2, 2.5, 200_000)
    shifted = odds + generator.normal(-0.2, 1.0, odds.size)
    return [(1 / (1 + np.exp(-one))).astype(np.float32) for one in (odds, shifted)]


@pytest.fixture(scope="module")
def simulated():
    """By number of seeds, over seeds and images and over seeds alone: how often what is true.

    Coverage; intervals above the truth, false wins where the margin is the truth, and false
    "ticket better" than a control that is equal; intervals below the truth, false losses, false
    "control better" than a ticket that is equal, and false "as good" where the ticket is better by
    the margin.
    """
    generator = np.random.default_rng(0)
    dense, ticket = population(generator)
    truth = float((ticket.astype(float) - dense).mean())
    found = {}
    for seeds in SEEDS:
        counts = np.zeros((2, 3))
        for _ in range(STUDIES):
            shown = generator.integers(0, dense.size, IMAGES)
            luck = generator.normal(0, 0.003, (seeds, 1)).astype(np.float32)
            draws = generator.random((2, seeds, IMAGES), dtype=np.float32)
            right = draws[1] < ticket[shown] + luck
            table = right.astype(float) - (draws[0] < dense[shown])
            both = estimate(list(table.mean(axis=1)), table=table, resolution=1 / IMAGES)
            for row, seeds_only in enumerate((False, True)):
                low, high = both.interval(0.95, seeds_only=seeds_only)
                counts[row] += (low <= truth <= high, low > truth, high < truth)
        found[seeds] = counts / STUDIES
    return found


@pytest.mark.parametrize("seeds", SEEDS)
def test_over_seeds_and_images_it_covers_the_truth(simulated, seeds):
    coverage, above, below = simulated[seeds][0]
    assert coverage >= 0.94
    assert max(above, below) <= NOMINAL + 3 * (NOMINAL * (1 - NOMINAL) / STUDIES) ** 0.5


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (-0.03, -0.001, "control better"),
        (-0.03, 0.009, "as good"),
        (0.001, 0.009, "ticket better"),
        (0.001, 0.02, "ticket better"),
        (-0.001, 0.02, "not shown"),
        (None, None, "not shown"),
    ],
)
def test_the_answer_about_a_control_is_the_side_of_an_interval(low, high, answer):
    # With this the simulation holds for controls too: each false answer is one false side.
    assert _answer(Difference(mean=0.0, low=low, high=high), 0.01) == answer


def test_the_table_in_the_documentation_is_this_simulation(simulated):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "statistics.md").read_text()
    for seeds in SEEDS:
        both, alone = (100 * simulated[seeds][row] for row in (0, 1))
        cells = (f"{v:.1f}" for v in (*both, *alone))
        assert f"| {seeds} | {' | '.join(cells)} |" in page


def test_over_seeds_alone_it_falls_short_and_more_seeds_make_it_worse(simulated):
    coverage = [simulated[seeds][1][0] for seeds in SEEDS]
    false_wins = [simulated[seeds][1][1] for seeds in SEEDS]
    assert coverage == sorted(coverage, reverse=True)
    assert coverage[SEEDS.index(20)] < 0.85
    assert false_wins[SEEDS.index(20)] > 3 * NOMINAL


def test_the_second_interval_is_never_narrower():
    generator = np.random.default_rng(1)
    for _ in range(300):
        seeds, images = generator.integers(2, 8), generator.integers(1, 40)
        table = generator.integers(-1, 2, (seeds, images)).astype(float)
        both = estimate(list(table.mean(axis=1)), table=table)
        (low, high), (inner, outer) = both.interval(0.9), both.interval(0.9, seeds_only=True)
        assert low <= inner <= outer <= high
