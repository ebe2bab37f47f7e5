"""Who is judged, and who is only there to be beaten."""

import copy

import pytest

from layerticket.verdict.analysis import analyse, up_to_date
from layerticket.verdict.pairs import marked
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
TABLES = [
    {"method": "ticket", "criterion": "grasp", "initialization": "ticket", "label": "grasp"},
    {"method": "ticket", "criterion": "grasp", "initialization": "seed", "label": "again"},
    {"method": "lottery", "criterion": "random", "initialization": "ticket", "label": "chance"},
    {"method": "control", "control": "random", "draws": 1, "reference": "", "label": "mix 0"},
    {"method": "filters", "criterion": "snip", "reference": "grasp", "label": "thin"},
]


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
        if run["label"] == method:
            run["test_accuracy"] = values[run["seed"]]


def row(method, kind, draw=None):
    return {"method": method, "kind": kind, "draw": draw}


def test_roles_follow_from_the_study_file_whatever_the_labels():
    rows = [row("dense", "dense"), row("grasp", "ticket"), row("again", "ticket")]
    rows += [row("chance", "lottery"), row("mix 0", "control", 0), row("thin", "filters")]
    found = marked({"study": {"methods": TABLES}, "runs": rows})
    assert [(one["role"], one["label"], one["reference"]) for one in found] == [
        ("dense", "dense", None),
        ("criterion", "grasp", None),
        ("control", "again", "grasp"),
        ("control", "chance", None),
        ("control", "mix 0", "grasp"),
        ("rival", "thin", "grasp"),
    ]


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
    ("method", "words"),
    [
        ("grasp, new weights", "the same shape with new weights (grasp, new weights) does as well"),
        ("last blocks", "last blocks do as well"),
        ("shallower", "a plain shallower network does as well"),
        ("mixed 0", "mixed 0 does as well"),
        ("random", "tickets drawn at random (random) do as well"),
    ],
)
def test_the_verdict_says_plainly_which_control_does_as_well(study, method, words):
    study["runs"] = [r for r in study["runs"] if r["label"] in ("dense", "grasp", method)]
    own = [0.92, 0.9215, 0.9185, 0.92, 0.921]
    set_accuracies(study, "grasp", own)
    set_accuracies(study, method, [value + 0.0001 * (i % 2) for i, value in enumerate(own)])
    assert analyse(study)["verdict"].endswith(f"; but {words}.")
    set_accuracies(study, method, [value - 0.1 - 0.001 * (i % 2) for i, value in enumerate(own)])
    assert "as well" not in analyse(study)["verdict"]


def test_several_tickets_are_named_beside_what_does_as_well(study):
    for label in {run["label"] for run in study["runs"]} - {"dense"}:
        off = 0.0 if label in ("grasp", "snip", "last blocks") else -0.1
        set_accuracies(study, label, [0.92 + off, 0.9215 + off, 0.919 + off, 0.92 + off, 0.92])
    text = analyse(study)["verdict"]
    assert "; but last blocks do as well as grasp and snip" in text


def test_a_study_without_controls_says_so(study):
    study["runs"] = [r for r in study["runs"] if r["method"] in ("dense", "grasp")]
    assert "no control of equal cost was trained" in analyse(study)["verdict"]


def test_random_blocks_are_known_under_any_label(study):
    found = analyse(study)
    assert of(found, "mixed 0")["accuracy"]["mean"] is not None
    assert of(found, "grasp")["percentile_of"]["tickets"] == 15


def test_controls_of_another_cost_are_not_compared_unless_matched_to_the_ticket(study):
    for run in study["runs"]:
        if run["method"] == "last blocks":
            run["macs"] = int(0.9 * run["macs"])
    assert "last blocks" not in names(of(analyse(study), "grasp"))
    study["study"]["methods"] = [
        {"method": "ticket", "criterion": "grasp", "label": "grasp"},
        {"method": "ticket", "criterion": "snip", "label": "snip"},
        {"method": "control", "control": "last", "reference": "snip", "label": "last blocks"},
    ]
    found = analyse(study)
    assert "last blocks" in names(of(found, "snip"))
    assert "last blocks" not in names(of(found, "grasp"))


def test_what_an_earlier_version_wrote_is_judged_anew(study):
    old = copy.deepcopy(study)
    for run in old["runs"]:
        for key in ("role", "label", "reference"):
            del run[key]
    for one in old["comparisons"]:
        del one["role"]
    old["verdict"] = "All 4 tickets win."
    assert up_to_date(old) == study
    kept = study | {"verdict": "As it was."}
    assert up_to_date(kept)["verdict"] == "As it was."
