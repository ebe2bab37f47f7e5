"""Who is judged, and who is only there to be beaten."""

import copy

import pytest

from made_study import analysed as analyse
from made_study import make_study

METHODS = (
    ("grasp", "ticket", -0.06, 0),
    ("grasp, new weights", "ticket", -0.06, 0),
    ("snip", "ticket", -0.06, 0),
    ("random", "ticket", -0.06, 0),
    ("mixed 0", "control", -0.06, 3),
    ("last blocks", "control", -0.06, 0),
    ("shallower", "shallower", -0.06, 0),
)


@pytest.fixture(scope="module")
def made():
    return make_study(methods=METHODS, full=False)


@pytest.fixture
def study(made):
    return copy.deepcopy(made)


def of(found, method):
    return next(one for one in found["comparisons"] if one["method"] == method)


def names(one):
    return {control["method"] for control in one["controls"]}


def set_accuracies(study, method, values):
    for run in study["runs"]:
        if run["method"] == method:
            run["test_accuracy"] = values[run["seed"]]


def test_only_criteria_are_judged(study):
    found = analyse(study)
    roles = {one["method"]: one["role"] for one in found["comparisons"]}
    assert [name for name, role in roles.items() if role == "criterion"] == ["grasp", "snip"]
    assert names(of(found, "random")) == names(of(found, "grasp, new weights")) == set()
    study["runs"] = [r for r in study["runs"] if r["method"] in ("dense", "random")]
    assert "none was found by a criterion" in analyse(study)["verdict"]


def test_the_shape_with_new_weights_is_a_control_of_that_shape_only(study):
    found = analyse(study)
    assert "grasp, new weights" in names(of(found, "grasp"))
    assert "grasp, new weights" not in names(of(found, "snip"))
    assert "random" in names(of(found, "snip"))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("grasp, new weights", "the same shape with new weights (grasp, new weights)"),
        ("last blocks", "last blocks"),
        ("shallower", "a plain shallower network"),
        ("mixed 0", "mixed 0"),
        ("random", "tickets drawn at random (random)"),
    ],
)
def test_the_verdict_says_plainly_which_control_does_as_well(study, method, name):
    study["runs"] = [r for r in study["runs"] if r["method"] in ("dense", "grasp", method)]
    own = [0.92, 0.9215, 0.9185, 0.92, 0.921]
    set_accuracies(study, "grasp", own)
    set_accuracies(study, method, [value + 0.0001 * (i % 2) for i, value in enumerate(own)])
    said = f" At least as good as the ticket, within 1 pp: {name}. "
    assert said in analyse(study)["verdict"]
    set_accuracies(study, method, [value - 0.1 - 0.001 * (i % 2) for i, value in enumerate(own)])
    assert "as good" not in analyse(study)["verdict"]
    set_accuracies(study, method, [value + 0.1 + 0.001 * (i % 2) for i, value in enumerate(own)])
    assert f" Better than the ticket: {name}. " in analyse(study)["verdict"]


def test_several_tickets_are_named_beside_what_does_as_well(study):
    for label in {run["method"] for run in study["runs"]} - {"dense"}:
        off = 0.0 if label in ("grasp", "snip", "last blocks") else -0.1
        set_accuracies(study, label, [0.92 + off, 0.9215 + off, 0.919 + off, 0.92 + off, 0.92])
    text = analyse(study)["verdict"]
    assert " At least as good as grasp and snip, within 1 pp: last blocks. " in text


def test_a_study_without_controls_says_so(study):
    study["runs"] = [r for r in study["runs"] if r["method"] in ("dense", "grasp")]
    assert " No control of equal cost was trained beside. " in analyse(study)["verdict"]


def test_random_blocks_are_known_under_any_label(study):
    found = analyse(study)
    assert of(found, "mixed 0")["accuracy"]["mean"] is not None
    assert of(found, "grasp")["percentile_of"]["tickets"] == 15


def test_controls_of_another_cost_are_not_compared_unless_matched_to_the_ticket(study):
    for run in study["runs"]:
        if run["method"] == "last blocks":
            run["macs"] = int(0.9 * run["macs"])
    assert "last blocks" not in names(of(analyse(study), "grasp"))
    for run in study["runs"]:
        if run["method"] == "last blocks":
            run["reference"] = "snip"
    found = analyse(study)
    assert "last blocks" in names(of(found, "snip"))
    assert "last blocks" not in names(of(found, "grasp"))
