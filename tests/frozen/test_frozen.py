"""The outside is as it was frozen. What changes on purpose changes `record.json` in the same commit
and stands in the changelog with its reason."""

import json

import pytest
import torch

from frozen import freeze

FROZEN = json.loads(freeze.RECORD.read_text(encoding="utf-8"))
VERBS = sorted(FROZEN["verbs"])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return freeze.verbs(tmp_path_factory.mktemp("verbs"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return freeze.whole_study(tmp_path_factory.mktemp("study"))


def assert_same_shape(now, frozen):
    """Keys are those frozen; types too, where neither is null."""
    if isinstance(frozen, dict) and isinstance(now, dict):
        assert sorted(now) == sorted(frozen)
        for key, part in frozen.items():
            assert_same_shape(now[key], part)
    elif isinstance(frozen, list) and isinstance(now, list):
        for one, other in zip(now, frozen, strict=False):
            assert_same_shape(one, other)
    elif "null" not in (now, frozen):
        assert now == frozen


@pytest.mark.parametrize("verb", VERBS)
def test_keys_of_the_answer(verb, answers):
    assert sorted(answers) == VERBS
    assert_same_shape(answers[verb], FROZEN["verbs"][verb])


def test_public_names():
    assert freeze.names() == FROZEN["names"]


def test_first_weights():
    assert freeze.theta_0() == FROZEN["theta_0"]


def test_what_goes_and_in_which_order():
    assert freeze.tickets() == FROZEN["tickets"]


def test_scores():
    now = freeze.scores()
    assert {name: sorted(of_model) for name, of_model in now.items()} == {
        name: sorted(of_model) for name, of_model in FROZEN["scores"].items()
    }
    for name, of_model in FROZEN["scores"].items():
        for criterion, frozen in of_model.items():
            answer = now[name][criterion]
            if isinstance(frozen, str):
                assert answer == frozen, (name, criterion)
                continue
            assert list(answer) == list(frozen), (name, criterion)
            assert answer == pytest.approx(frozen, rel=1e-4, abs=0), (name, criterion)


@pytest.mark.slow
def test_study_file_and_tables(whole):
    assert_same_shape(whole["study.json"], FROZEN["study"]["study.json"])
    assert whole["headers"] == FROZEN["study"]["headers"]


@pytest.mark.slow
def test_study_removes_the_same_blocks_from_the_same_weights(whole):
    assert whole["removed"] == FROZEN["study"]["removed"]
    assert whole["first weights"] == FROZEN["study"]["first weights"]
