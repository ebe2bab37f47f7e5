"""Plans: what is shared is one job, and what is added later is all that is new."""

import dataclasses
import hashlib
import importlib
from collections import Counter

import pytest

from layerticket.criteria import registry
from layerticket.errors import LayerticketError
from layerticket.study.folder import StudyFolder
from layerticket.study.plan import Plan, unfold
from layerticket.study.toml import study_of
from layerticket.training.checkpoint import epochs_at
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


def plan(fingerprint="f" * 64, blocks=3, **changes):
    table = {"methods": ALL, "recipe": {"epochs": 4}, "seeds": 2, **changes}
    study = study_of(study_table(**table))
    return unfold(study, {"fingerprint": fingerprint}, count_blocks=lambda _: blocks)


def kinds(found):
    return Counter(job.kind for job in found.jobs.values())


@pytest.fixture
def own_criteria(monkeypatch):
    monkeypatch.setattr(registry, "_CRITERIA", dict(registry._CRITERIA))

    def register(name, function):
        registry._CRITERIA.pop(name, None)
        registry.criterion(name, cites="mine", uses=(), order=0)(function)

    return register


def test_work_is_shared():
    found = plan(budgets=[{"remove": 1}, {"remove": 2}], evaluate=["fgsm"], similarity=True)
    rows = 2 * (1 + 2 * 8)  # seeds x (dense + budgets x (7 methods, one with two draws))
    assert len(found.rows) == rows
    # A ticket and its new weights share one search.
    assert kinds(found) == {
        "network": 1, "train": rows, "search": 2 * 2 * 7, "evaluate": rows
    }  # fmt: skip
    dense = [row for row in found.rows if row.method == "dense"]
    assert [row.seed for row in dense] == [0, 1]
    assert all("dense" not in found.jobs[row.jobs["evaluate"]].needs for row in dense)
    points = study_of(study_table(methods=ALL)).snapshot_points
    assert epochs_at(points, 4) == (1, 2)


def test_jobs_stand_after_what_they_need():
    seen = set()
    for name, job in plan(evaluate=["fgsm"], similarity=True).jobs.items():
        assert set(job.needs.values()) <= seen
        seen.add(name)


def test_seeds_come_one_after_another():
    seeds = [row.seed for row in plan().rows]
    assert seeds == sorted(seeds)


def test_rows_say_what_they_are():
    rows = [row for row in plan().rows if row.seed == 1]
    said = [(row.method, row.role, row.reference, row.draw) for row in rows]
    assert said == [
        ("dense", "dense", None, None),
        ("snip", "criterion", None, None),
        ("snip, new weights", "control", "snip", None),
        ("lottery hrank 25%", "criterion", None, None),
        ("lottery hrank 50%", "criterion", None, None),
        ("random blocks", "control", "snip", 0),
        ("random blocks", "control", "snip", 1),
        ("weights imp", "baseline", "snip", None),
        ("dense, equal compute", "control", "snip", None),
    ]
    assert {row.budget for row in rows[1:]} == {"remove 1"}
    assert rows[0].budget is None


def test_ids_are_unique_whatever_rows_share():
    control = {"method": "control", "control": "random"}
    methods = [TICKET, control | {"label": "one"}, control | {"label": "three", "draws": 3}]
    rows = plan(methods=methods).rows
    assert len({row.id for row in rows}) == len(rows) == 2 * (1 + 1 + 1 + 3)
    searches = [row.jobs["search"] for row in rows if row.seed == 0 and row.draw == 0]
    assert len(searches) == 2
    assert len(set(searches)) == 1  # the first draw is found once


def test_blocks_are_counted_once_whatever_the_seeds():
    methods = [TICKET, {"method": "control", "control": "each"}]
    study = study_of(study_table(seeds=3, methods=methods))
    counted = []
    unfold(study, None, count_blocks=lambda model: counted.append(model) or 2)
    assert len(counted) == 1


def test_every_block_alone_is_a_row_of_its_own():
    methods = [TICKET, {"method": "control", "control": "each"}]
    rows = plan(methods=methods, budgets=[{"remove": 2}, {"save_macs": 0.3}], blocks=4).rows
    each = [row for row in rows if row.seed == 0 and row.method == "each blocks"]
    assert [row.draw for row in each] == [0, 1, 2, 3]
    assert {row.budget for row in each} == {"remove 1"}
    assert len({row.jobs["search"] for row in each}) == 4


def test_methods_may_have_seeds_and_budgets_of_their_own():
    own = TICKET | {"label": "more", "seeds": [0, 5], "budgets": [{"remove": 2}]}
    rows = plan(methods=[TICKET, own]).rows
    assert [(row.seed, row.budget, row.method) for row in rows] == [
        (0, None, "dense"), (0, "remove 1", "snip"), (0, "remove 2", "more"),
        (1, None, "dense"), (1, "remove 1", "snip"),
        (5, None, "dense"), (5, "remove 2", "more"),
    ]  # fmt: skip
    assert {row.id for row in plan(methods=[TICKET]).rows} <= {row.id for row in rows}


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
    assert before.keys() <= after.keys()  # snapshots are no part of a name
    assert len(after) > len(before)


def test_more_draws_are_new_draws():
    more = [m | {"draws": 3} if m["method"] == "control" else m for m in ALL]
    assert plan().jobs.keys() < plan(methods=more).jobs.keys()


@pytest.mark.parametrize("changes", [{"recipe": {"epochs": 5}}, {"fingerprint": "0" * 64}])
def test_other_trainings_are_other_jobs(changes):
    def trainings(found):
        return {name for name, job in found.jobs.items() if job.kind == "train"}

    assert not trainings(plan()) & trainings(plan(**changes))


def test_labels_change_no_search():
    named = [TICKET | {"label": "mine"}, *ALL[1:]]
    searches = [
        {name for name, job in found.jobs.items() if job.kind == "search"}
        for found in (plan(), plan(methods=named))
    ]
    assert searches[0] == searches[1]


def searches_of(found):
    return {name for name, job in found.jobs.items() if job.kind == "search"}


def keep_early(model, blocks, batch):
    return {block.name: -float(block.position) for block in blocks}


def test_memory_that_was_once_counted_otherwise_is_searched_again(monkeypatch):
    def found(**recipe):
        table = {"budgets": [{"max_memory": 10**9}], "recipe": {"epochs": 4, **recipe}}
        return searches_of(plan(methods=[TICKET], **table))

    usual, adamw = found(), found(optimizer="adamw", learning_rate=0.001)
    monkeypatch.setattr("layerticket.study.plan.weight_copies", lambda recipe: 3)
    assert found() == usual
    assert not found(optimizer="adamw", learning_rate=0.001) & adamw


def test_a_criterion_of_a_script_is_named_by_the_version_or_by_this_call(own_criteria, caplog):
    def depth(model, blocks, batch):
        return keep_early(model, blocks, batch)

    own_criteria("depth", depth)
    one, same, other = (
        plan(methods=[{"method": "ticket", "criterion": "depth"}], version=version)
        for version in ("1", "1", "2")
    )
    assert one == same
    assert not searches_of(one) & searches_of(other)
    assert {row.id for row in one.rows} & {row.id for row in other.rows} == {
        row.id for row in one.rows if row.method == "dense"
    }
    assert plan(version="1").jobs == plan(version="2").jobs  # those of the package have no version
    assert not caplog.text
    called = plan(methods=[{"method": "ticket", "criterion": "depth"}])
    assert "no earlier result is reused" in caplog.text
    own_criteria("depth", lambda model, blocks, batch: {})
    again = plan(methods=[{"method": "ticket", "criterion": "depth"}])
    assert not searches_of(called) & searches_of(again)


def test_a_criterion_is_named_by_the_text_of_the_module_that_registers_it(
    own_criteria, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine_early.py"
    path.write_text(
        "import layerticket as lt\nfrom toy_study import residual\n"
        'lt.criterion("early", cites="mine", uses=(), order=0)(residual)\n'
    )
    importlib.import_module("mine_early")
    found = plan(methods=[{"method": "ticket", "criterion": "early"}])
    name = "mine_early:residual"
    assert found.texts[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    study = study_of(study_table(methods=[{"method": "ticket", "criterion": "early"}]))
    assert study.own_criteria == (name,)
    assert not study.has_objects


def test_a_shallower_network_of_a_module_is_named_by_its_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nets = tmp_path / "own_small_nets.py"
    methods = [TICKET, {"method": "shallower", "model": "own_small_nets:small"}]
    plans = []
    for number in (1, 2):
        nets.write_text(f"DEPTH = {number}{number * ' '}\n")
        plans.append(plan(methods=methods))
    one, other = ({n for n in searches_of(p) if "shallower" in n} for p in plans)
    assert len(one) == 2
    assert not one & other
    assert plans[1].texts["own_small_nets:small"] == hashlib.sha256(nets.read_bytes()).hexdigest()


def test_a_shallower_network_may_be_a_function_of_the_study():
    def small(seed): ...

    toy = study_of(study_table(methods=[TICKET, {"method": "shallower", "model": "toy:small"}]))
    shallower = dataclasses.replace(toy.methods[1], model=small.__qualname__)
    toy = dataclasses.replace(
        toy, models=("resnet20", small), methods=(toy.methods[0], shallower), version="1"
    )
    one, other = (
        {job.name for job in unfold(study, None).jobs.values() if job.model == "resnet20"}
        for study in (toy, dataclasses.replace(toy, version="2"))
    )
    assert {name.partition("-resnet20")[0] for name in one - other if "search" in name} == {
        "search-shallower"
    }


def test_single_rows_bring_what_they_need():
    whole = plan()
    row = next(row for row in whole.rows if row.method == "weights imp")
    found = whole.only((row.id[:8],))
    assert found.rows == (row,)
    # The network, whose cost the savings are shares of; dense and imp; the reference and imp.
    assert kinds(found) == {"network": 1, "train": 2, "search": 2}
    assert {job.model for job in found.jobs.values()} == {row.model}
    with pytest.raises(LayerticketError, match="no run of this study has id 'zzz'"):
        whole.only(("zzz",))


def test_a_plan_is_read_back(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.write_plan(plan(), "")
    assert folder.read_plan() == Plan.from_record(plan().as_record())
    assert folder.read_plan().rows == plan().rows
