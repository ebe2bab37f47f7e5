"""Plans: what is shared is one job, and what is added later is all that is new."""

from collections import Counter

import pytest

from layerticket.errors import LayerticketError
from layerticket.study.folder import StudyFolder
from layerticket.study.plan import NEW_WEIGHTS, unfold
from layerticket.study.toml import study_of
from toy_study import study_table

TICKET = {"method": "ticket", "criterion": "snip"}
ALL = [
    TICKET,
    TICKET | {"initialization": "seed"},
    {"method": "lottery", "criterion": "hrank", "rewind": "25%"},
    {"method": "lottery", "criterion": "hrank", "rewind": "50%"},
    {"method": "control", "control": "random", "draws": 2},
    {"method": "imp", "rewind": "25%"},
    {"method": "equal_compute"},
]


def plan(fingerprint="f" * 64, **changes):
    table = {"methods": ALL, "recipe": {"epochs": 4}, "seeds": 2, **changes}
    return unfold(study_of(study_table(**table)), fingerprint)


def kinds(found):
    return Counter(job.kind for job in found.jobs.values())


def test_work_is_shared():
    found = plan(budgets=[{"remove": 1}, {"remove": 2}], evaluate=["fgsm"], similarity=True)
    rows = 2 * (1 + 2 * 8)  # seeds x (dense + budgets x (7 methods, one with two draws))
    assert len(found.runs) == rows
    # A training for each row; a ticket and its new weights share one search.
    assert kinds(found) == {
        "network": 1,
        "train": rows,
        "search": 2 * 2 * 7,
        "evaluate": rows,
        "similarity": rows - 2,
    }
    dense = [run for run in found.runs if run.method == "dense"]
    assert [run.seed for run in dense] == [0, 1]
    assert [found.jobs[run.jobs["train"]].spec["keep"] for run in dense] == [[1, 2]] * 2


def test_jobs_stand_after_what_they_need():
    seen = set()
    for name, job in plan(evaluate=["fgsm"], similarity=True).jobs.items():
        assert set(job.needs.values()) <= seen
        seen.add(name)


def test_seeds_come_one_after_another():
    seeds = [run.seed for run in plan().runs]
    assert seeds == sorted(seeds)


def test_rows_say_what_they_are():
    rows = [run for run in plan().runs if run.seed == 1]
    assert [run.method for run in rows] == [
        "dense", "snip", "snip, new weights", "lottery hrank 25%", "lottery hrank 50%",
        "random blocks 0", "random blocks 1", "weights imp", "dense, equal compute",
    ]  # fmt: skip
    assert [run.draw for run in rows][5:7] == [0, 1]
    assert {run.budget for run in rows[1:]} == {"remove 1"}
    assert rows[0].budget is None
    weights = plan().jobs[rows[2].jobs["train"]].spec["initialization_seed"]
    assert weights == 1 + NEW_WEIGHTS


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 3},
        {"methods": [*ALL, TICKET | {"criterion": "grasp"}]},
        {"methods": [*ALL, {"method": "lottery", "criterion": "hrank", "rewind": "75%"}]},
        {"evaluate": ["fgsm"]},
    ],
)
def test_what_is_added_is_all_that_is_new(changes):
    before, after = plan().jobs, plan(**changes).jobs
    assert before.keys() <= after.keys()  # what a dense training keeps is no part of its name
    assert len(after) > len(before)


def test_more_draws_are_new_draws():
    more = [m | {"draws": 3} if m["method"] == "control" else m for m in ALL]
    assert plan().jobs.keys() < plan(methods=more).jobs.keys()


@pytest.mark.parametrize("changes", [{"recipe": {"epochs": 5}}, {"fingerprint": "0" * 64}])
def test_other_trainings_are_other_jobs(changes):
    def trainings(found):
        return {name for name, job in found.jobs.items() if job.kind == "train"}

    assert not trainings(plan()) & trainings(plan(**changes))


def test_labels_change_nothing():
    named = [TICKET | {"label": "mine"}, *ALL[1:-3], ALL[-2], ALL[-1]]
    assert plan(methods=named).jobs.keys() < plan().jobs.keys()


def test_single_rows_bring_what_they_need():
    whole = plan()
    row = next(run for run in whole.runs if run.method == "weights imp")
    found = whole.only((row.id[:8],))
    assert found.runs == (row,)
    assert kinds(found) == {"train": 2, "search": 2}  # dense and imp; the reference and imp
    with pytest.raises(LayerticketError, match="no run of this study is called 'zzz'"):
        whole.only(("zzz",))


def test_a_plan_is_read_back(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.write_plan(plan(), "")
    assert folder.read_plan().jobs.keys() == plan().jobs.keys()
    assert folder.read_plan().runs == plan().runs
