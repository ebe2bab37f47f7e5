"""The page on the paper's claims: every figure from a record, nothing decided by a glance."""

import pytest

import reproduction
from layerticket.verdict.statistics import Difference
from reproduction import MARKS, RESULTS, ROOT, above, found, negated, page, short_table


@pytest.fixture(scope="module")
def written():
    given = reproduction.read()
    return given, [one for claim in reproduction.CLAIMS for one in claim(given)]


def test_page_and_readme_are_what_the_records_give(written):
    given, findings = written
    assert (RESULTS / "reproduction.md").read_text() == page(given, findings)
    readme = (ROOT / "README.md").read_text()
    assert readme.split(MARKS[0])[1].split(MARKS[1])[0].strip() == short_table(findings)


def test_every_claim_has_a_line(written):
    _, findings = written
    assert {one.claim[:3] for one in findings} >= {"(1)", "(2)", "(3)", "(4)", "(5)", "(6)"}


def test_what_lies_on_a_bound_is_undecided():
    assert above(Difference(mean=0.02, low=0.01, high=0.03, n=5)) == "holds"
    assert above(Difference(mean=0.02, low=0.0, high=0.04, n=5)) == "undecided"
    assert above(Difference(mean=-0.02, low=-0.03, high=-0.01, n=5)) == "does not hold"
    assert above(Difference(mean=-0.002, low=-0.008, high=0.004, n=5), -0.01) == "holds"
    assert above(Difference(mean=0.02, n=1)) == "undecided"


def test_few_seeds_decide_nothing_and_no_figure_is_no_zero():
    two = Difference(mean=0.02, low=0.01, high=0.03, n=2)
    about = {"claim": "c", "of": "o"}
    assert found(two, above(two), **about).outcome == "undecided"
    assert found(None, "holds", **about).ours == "not measured"
    assert found(Difference(), "holds", **about).outcome == "not measured"


def test_a_difference_the_other_way_round():
    value = negated(Difference(mean=0.02, low=-0.01, high=0.05, n=4))
    assert (value.mean, value.low, value.high, value.n) == (-0.02, -0.05, 0.01, 4)
