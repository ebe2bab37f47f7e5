"""Study files: the same study comes back, and whatever is wrong is named with the way out."""

import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.settings import from_table
from layerticket.study.methods import METHODS
from layerticket.study.plan import unfold
from layerticket.study.toml import (
    TEMPLATE,
    read_study,
    shipped_studies,
    study_of,
    study_table,
    study_text,
    write_template,
)
from toy_study import study_table as toy

STUDIES = Path(__file__).parents[2] / "studies"
EVERY_METHOD = [
    {"method": "ticket", "criterion": "grasp", "options": {"temperature": 100.0}},
    {"method": "ticket", "criterion": "grasp", "initialization": "seed"},
    {"method": "lottery", "criterion": "hrank", "rewind": "25%"},
    {"method": "control", "control": "random", "draws": 3},
    {"method": "control", "control": "last", "reference": "lottery hrank 25%"},
    {"method": "shallower"},
    {"method": "filters", "criterion": "snip", "match": "macs"},
    {"method": "weights", "criterion": "synflow"},
    {"method": "imp", "rounds": 2, "rewind": "50%"},
    {"method": "equal_compute", "label": "dense, longer"},
    {"method": "control", "control": "each", "seeds": 1},
    {"method": "ticket", "criterion": "snip", "seeds": [0, 7], "budgets": [{"remove": 2}]},
]


def reread(study):
    return study_of(tomllib.loads(study_text(study)))


def test_every_method_is_read_and_labelled():
    study = study_of(toy(methods=EVERY_METHOD, recipe={"epochs": 4}))
    assert {method.kind for method in study.methods} == METHODS.keys()
    assert [method.label for method in study.methods] == [
        "grasp", "grasp, new weights", "lottery hrank 25%", "random blocks", "last blocks",
        "shallower", "filters snip (macs)", "weights synflow", "weights imp", "dense, longer",
        "each blocks",
        "snip",
    ]  # fmt: skip
    assert study.snapshot_points == ("25%", "50%")


def test_writing_and_reading_give_the_same_study():
    study = study_of(toy(methods=EVERY_METHOD, recipe={"epochs": 4}))
    assert reread(study) == study
    assert study_text(reread(study)) == study_text(study)


def test_a_shallower_network_may_be_named():
    plain, named = METHODS["shallower"](), METHODS["shallower"](model="timm:resnet18")
    assert plain.searched != named.searched
    assert named.label == "shallower timm:resnet18"
    assert METHODS["shallower"](model="x:y", label="small").label == "small"


@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True),
    remove=st.integers(1, 9),
    share=st.floats(0.01, 0.99),
    epochs=st.integers(1, 300),
    rate=st.floats(1e-6, 10),
    title=st.text(max_size=20),
    images=st.none() | st.integers(1, 999),
)
def test_any_study_survives_its_own_text(seeds, remove, share, epochs, rate, title, images):
    table = toy(
        title=title,
        seeds=seeds,
        budgets=[{"remove": remove}, {"save_macs": share}],
        recipe={"epochs": epochs, "learning_rate": rate, "warmup_epochs": 0},
        conditions={} if images is None else {"images": images},
    )
    study = study_of(table)
    assert reread(study) == study


@pytest.mark.parametrize("name", shipped_studies())
def test_studies_that_come_with_us_are_sound(name):
    study = read_study(name)
    assert reread(study) == study
    assert study.title


def test_there_is_one_place_for_them():
    assert {"quick", "table1", "table2", "table4", "table5"} <= set(shipped_studies())
    assert "architectures" not in shipped_studies()  # a list of networks, which is no study


def test_every_line_of_the_template_can_be_used():
    text = TEMPLATE.read_text(encoding="utf-8")
    study = study_of(tomllib.loads(re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", text)))
    assert {method.kind for method in study.methods} == METHODS.keys()
    assert study.recipe == study_of(tomllib.loads(text)).recipe
    assert study.energy.wanted


def test_the_template_is_written_and_never_over_anything(tmp_path):
    write_template(tmp_path / "mine.toml")
    assert read_study(tmp_path / "mine.toml").models == ("resnet20",)
    with pytest.raises(LayerticketError, match="exists already"):
        write_template(tmp_path / "mine.toml")
    with pytest.raises(LayerticketError, match="there is no folder"):
        write_template(tmp_path / "no" / "mine.toml")
    with pytest.raises(LayerticketError, match=r"the template is not a study.*study new FILE"):
        read_study("template")


def test_lists_unfold_and_numbers_count_seeds():
    table = {"method": "lottery", "criterion": ["hrank", "kl"], "rewind": ["0", "50%"]}
    study = study_of(toy(methods=[table], seeds=2, recipe={"epochs": 4}))
    assert study.seeds == (0, 1)
    assert [method.label for method in study.methods] == [
        "lottery hrank 0", "lottery hrank 50%", "lottery kl 0", "lottery kl 50%",
    ]  # fmt: skip


WRONG = {
    "unknown key": ({"modles": ["x"]}, "study: key 'modles'.*Did you mean 'models'"),
    "unknown recipe key": ({"recipe": {"epoch": 1}}, "study: recipe: key 'epoch'.*'epochs'"),
    "unknown tracker key": ({"tracking": {"trak": []}}, "study: tracking: key 'trak'.*'track'"),
    "unknown budget": ({"budgets": [{"remov": 1}]}, r"budgets\[0\]: key 'remov'.*'remove'"),
    "unknown attack key": (
        {"conditions": {"attack": {"stepz": 1}}},
        "attack: Attack setting 'stepz'.*'steps'",
    ),
    "no title": ({"title": None}, "title is None.*text"),
    "a text for a number": ({"recipe": {"epochs": "four"}}, "epochs.*(whole number|integer)"),
    "points for a fraction": ({"margin": 0.5}, "study: margin: 0.5 is too .* 0.005 is half a perc"),
    "true for a number": ({"margin": True}, "margin is True.*a number"),
    "a text for a list": ({"models": "resnet20"}, "models is 'resnet20'.*a list"),
    "out of range": ({"recipe": {"momentum": 2.0}}, "study: recipe: .*momentum is 2.0"),
    "seed twice": ({"seeds": [1, 1]}, "seeds are"),
    "no methods": ({"methods": []}, "there are no methods"),
    "methods no list": ({"methods": {"method": "ticket"}}, "methods is .*tables"),
    "method without kind": ({"methods": [{}]}, r"methods\[0\]: key 'method' is missing"),
    "unknown method": ({"methods": [{"method": "tickt"}]}, "Did you mean 'ticket'"),
    "unknown criterion": (
        {"methods": [{"method": "ticket", "criterion": "grap"}]},
        r"methods\[0\]: criterion 'grap'.*Did you mean 'grasp'",
    ),
    "unknown method key": (
        {"methods": [{"method": "ticket", "criterium": "grasp"}]},
        "key 'criterium'.*Did you mean 'criterion'",
    ),
    "missing method key": ({"methods": [{"method": "control"}]}, "control is missing"),
    "choice": (
        {"methods": [{"method": "control", "control": "lst"}]},
        "control 'lst'.*Did you mean 'last'",
    ),
    "draws of no dice": (
        {"methods": [{"method": "control", "control": "last", "draws": 2}]},
        "draws is 2",
    ),
    "label twice": ({"methods": [{"method": "ticket"}, {"method": "ticket"}]}, "label ="),
    "no reference": ({"methods": [{"method": "shallower"}]}, "matched to a ticket"),
    "unknown reference": (
        {"methods": [{"method": "ticket"}, {"method": "shallower", "reference": "grap"}]},
        "Did you mean 'grasp'",
    ),
    "point": ({"methods": [{"method": "lottery", "rewind": "x"}]}, "'x' is not in"),
    "no epoch left": (
        {"methods": [{"method": "lottery", "rewind": "100%"}]},
        "rewind of 'lottery grasp 100%' is '100%', which leaves nothing to train: .* 2 epochs",
    ),
    "no epoch left by number": (
        {"methods": [{"method": "ticket"}, {"method": "imp", "rewind": "2"}]},
        "rewind of 'weights imp' is '2', which leaves nothing to train",
    ),
    "unknown shallower network": (
        {"methods": [{"method": "ticket"}, {"method": "shallower", "model": "resnet21"}]},
        "'resnet21'.*Did you mean 'resnet",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(LayerticketError, match=message):
        study_of(toy(**changes))


def test_a_missing_key_is_named():
    with pytest.raises(LayerticketError, match="study: title is missing"):
        study_of({"models": ["resnet20"], "methods": [{"method": "ticket"}]})


def write(tmp_path, table):
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def test_settings_are_changed_on_the_way(tmp_path):
    path = write(tmp_path, toy())
    changes = ["recipe.epochs=7", "seeds=[4, 5]", "title=Other", "methods.0.criterion=grasp"]
    study = read_study(path, changes)
    assert (study.recipe.epochs, study.seeds, study.title) == (7, (4, 5), "Other")
    assert study.methods[0].label == "grasp"
    assert read_study(path, ["conditions.images=9"]).conditions.images == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "is not a setting"),
        ("recipe.epoch=3", "mine.toml: recipe: key 'epoch'"),
        ("methods.7.criterion=snip", "is not an index of a list of 1"),
        ("title.x=1", "has no keys"),
        ("title.x.y=1", "there is no 'x'"),
    ],
)
def test_changes_that_hit_nothing_are_refused(tmp_path, change, message):
    with pytest.raises(LayerticketError, match=message):
        read_study(write(tmp_path, toy()), [change])


def test_files_that_are_none(tmp_path):
    with pytest.raises(LayerticketError, match=r"no study file 'qick'.*quick"):
        read_study("qick")
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(LayerticketError, match=r"bad\.toml cannot be read as TOML"):
        read_study(tmp_path / "bad.toml")


def test_tables_hold_every_setting():
    table = study_table(study_of(toy()))
    assert table["recipe"]["momentum"] == 0.9
    assert table["methods"][0]["images" if "images" in table["methods"][0] else "rounds"] == 1
    assert from_table(Budget, table["budgets"][0], "x") == Budget(remove=1)


def test_methods_may_have_seeds_and_budgets_of_their_own():
    study = study_of(toy(methods=EVERY_METHOD, recipe={"epochs": 4}, seeds=2))
    assert study.method("snip").seeds == (0, 7)
    assert study.method("snip").budgets == (Budget(remove=2),)
    assert study.method("each blocks").seeds == (0,)
    assert study.all_seeds == (0, 1, 7)


OWN = {"fit": "toy_study:fit", "recipe": {}}
WRONG_FIT = {
    "recipe": ({"recipe": {"epochs": 2}}, "trains in its own way"),
    "lottery": ({"methods": [{"method": "lottery", "criterion": "magnitude"}]}, "needs epochs"),
    "imp": (
        {"methods": [{"method": "ticket", "criterion": "synflow"}, {"method": "imp"}]},
        "'weights imp' needs epochs",
    ),
    "equal compute": (
        {"methods": [{"method": "ticket", "criterion": "synflow"}, {"method": "equal_compute"}]},
        "'dense, equal compute' needs epochs",
    ),
    "labels": ({"methods": [{"method": "ticket", "criterion": "snip"}]}, "'snip' scores on"),
    "evaluate": ({"evaluate": ["fgsm"]}, "need images"),
    "measured": ({"budgets": [{"save_time": 0.2}]}, "needs timed training steps"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_FIT.values(), ids=WRONG_FIT)
def test_what_an_own_training_cannot_have_is_refused_when_read(change, message):
    table = toy(methods=[{"method": "ticket", "criterion": "magnitude"}]) | OWN
    assert study_of(table).data == ""
    with pytest.raises(LayerticketError, match=message):
        study_of(table | change)


def test_data_are_digits_unless_an_own_training_brings_its_own():
    assert study_of(toy()).data == "digits"
    named = toy(methods=[{"method": "ticket", "criterion": "snip"}], data="digits") | OWN
    assert study_of(named).data == "digits"
    with pytest.raises(LayerticketError, match="leave input_shape out"):
        study_of(toy(data="digits", input_shape=[1, 8, 8]))


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_study_of_the_repository_can_be_read(file):
    assert read_study(file).methods


def test_robustness_is_of_the_networks_that_were_trained():
    whole, part = (
        unfold(read_study(STUDIES / f"{name}.toml"), {"fingerprint": "f"}, count_blocks=lambda _: 7)
        for name in ("resnet20", "resnet20-robustness")
    )
    assert {row.id for row in part.rows} < {row.id for row in whole.rows}
