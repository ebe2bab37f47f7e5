import csv
import io
from statistics import fmean, stdev

import pytest

from layerticket.errors import LayerticketError
from layerticket.report import tables
from layerticket.report.tables import (
    Column,
    Study,
    Table,
    blocks_table,
    clean,
    comparisons_table,
    markdown,
    table_text,
    verdict_table,
)
from layerticket.verdict.pairs import as_record
from made_study import METHODS, analysed, make_study, with_every_block_alone

TABLE = Table(
    title="T",
    columns=[
        Column(title="network", words=True, context=True),
        Column(title="method", words=True),
        Column(title="accuracy", key="a", show=lambda v: f"{100 * v:.1f} %"),
        Column(title="difference", show=lambda v: f"{v[0]:+.1f}", parts=("mean", "low")),
        Column(title="images", rare=True),
    ],
    rows=[("a", "=SUM(A1)", 0.912345, (1.0, None), None), ("a", "snip", None, None, None)],
)


def study(**how):
    return Study.from_record(make_study(**how))


def test_people_read_rounded_figures_and_no_repeated_context():
    assert TABLE.text == (
        ["method", "accuracy", "difference"],
        [["=SUM(A1)", "91.2 %", "+1.0"], ["snip", "not measured", "not measured"]],
    )


def test_csv_has_every_column_raw_and_runs_no_formula():
    assert TABLE.csv == (
        "network,method,accuracy,difference mean,difference low,images\n"
        "a,'=SUM(A1),0.912345,1.0,,\na,snip,,,,\n"
    )


def test_a_point_of_a_chart_is_a_row_of_its_table():
    first, second = TABLE.points
    assert (first["a"], first["mean"], first["low"]) == (0.912345, 1.0, None)
    assert first["hover"] == "method: =SUM(A1)\naccuracy: 91.2 %\ndifference: +1.0"
    assert second["a"] is second["mean"] is None
    assert "accuracy: not measured" in second["hover"]


def test_markdown_has_one_line_a_row_and_the_terminal_shows_all_cells():
    made = TABLE.text
    assert markdown(made).splitlines() == [
        "| method | accuracy | difference |",
        "| --- | --- | --- |",
        "| =SUM(A1) | 91.2 % | +1.0 |",
        "| snip | not measured | not measured |",
    ]
    text = table_text(made, width=80)
    assert all(cell in text for row in made[1] for cell in row)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_blocks_are_listed_with_their_share():
    block = {"name": "a", "stage": 0, "params": 1234, "macs": 250_000}
    _, rows = blocks_table({"macs": 1_000_000, "blocks": [block]})
    assert rows == [("a", "0", "1,234", "0.250 M", "25.00%")]


# A study.


def test_the_same_object_goes_in_and_comes_out():
    record = make_study(seeds=2, failed=1)
    read = Study.from_record(record)
    assert [row.id for row in read.rows] == [run["id"] for run in record["runs"]]
    assert as_record(read.comparisons) == record["comparisons"]
    assert next(iter(read.methods)) == "dense"


@pytest.mark.parametrize(
    ("change", "match"),
    [({"schema": 2}, "schema 2, but .* schema 1"), ({"runs": None}, "has no key 'runs'")],
)
def test_what_is_no_study_is_refused(change, match):
    record = make_study(seeds=1) | change
    record = {key: value for key, value in record.items() if value is not None}
    with pytest.raises(LayerticketError, match=match):
        Study.from_record(record)


def test_a_study_of_another_version_is_refused():
    record = make_study(seeds=2)
    del record["comparisons"][0]["controls"][0]["same_seeds"]
    with pytest.raises(LayerticketError, match="key 'same_seeds' is missing"):
        Study.from_record(record)
    with pytest.raises(LayerticketError, match="another version"):
        Study.from_record(record | {"comparisons": None})


def test_figures_that_are_not_finite_are_not_known():
    record = make_study(seeds=1)
    record["runs"][0]["curve"][0]["train_loss"] = float("nan")
    assert Study.from_record(record).rows[0].curve[0]["train_loss"] is None


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(LayerticketError, match=r"has no study \(study.json is missing\)"):
        Study.read(tmp_path)


def test_a_part_has_the_dense_rows_beside_those_of_its_budget():
    whole = study(seeds=2, models=("resnet20", "resnet32-projection"), removals=(1, 2))
    assert len(whole.models) == 2
    assert len(whole.budgets) == 4
    for part in whole.budgets:
        assert len({row.model for row in part.rows}) == 1
        assert {row.budget for row in part.rows} == {None, part.comparisons[0].budget}
        assert part.methods == whole.methods
    assert whole.label(whole.comparisons[0]) == "grasp, remove 1, resnet20"
    assert whole.budgets[0].label(whole.budgets[0].comparisons[0]) == "grasp"


def test_clean_keeps_letters_and_replaces_what_no_page_can_hold():
    assert clean({"a\x00": ["b\ud800\n", 1, None, "é日"]}) == {
        "a\ufffd": ["b\ufffd\n", 1, None, "é日"]
    }


# Its tables.


def test_comparisons_keep_raw_figures():
    made = study(seeds=3, failed=1)
    rows = list(csv.DictReader(io.StringIO(comparisons_table(made).csv)))
    assert [row["method"] for row in rows] == [one.method for one in made.comparisons]
    second = made.comparisons[1]
    assert float(rows[1]["accuracy mean"]) == second.accuracy["mean"]
    assert float(rows[1]["accuracy std"]) == second.accuracy["std"]
    assert float(rows[1]["SD of differences"]) == second.difference.std
    assert float(rows[1]["difference to dense mean"]) == second.difference.mean
    assert float(rows[1]["speed, search and training low"]) == second.speedup["low"]
    assert rows[0]["failed seeds"] == "0"
    assert rows[1]["seeds with dense itself"] == ""


def test_both_intervals_are_shown_where_both_are_known():
    header, _ = comparisons_table(study(seeds=3)).text
    assert "over seeds alone" not in header
    made = study(seeds=5, images=1000)
    header, rows = comparisons_table(made).text
    shown = dict(zip(header, rows[0], strict=True))
    assert shown["difference to dense"].count(" to ") == 1
    assert shown["over seeds alone"].count(" to ") == 1
    found = made.comparisons[0].difference
    assert found.high - found.low > found.seeds_high - found.seeds_low


def test_rows_that_are_one_training_are_told():
    record = make_study(seeds=3, methods=METHODS[:1])
    dense = [run for run in record["runs"] if run["kind"] == "dense"]
    ticket = [run for run in record["runs"] if run["kind"] == "ticket"]
    ticket[0] |= {"training": dense[0]["training"], "test_accuracy": dense[0]["test_accuracy"]}
    header, rows = comparisons_table(Study.from_record(record | analysed(record))).text
    shown = dict(zip(header, rows[0], strict=True))
    assert shown["seeds with dense itself"] == "seed 0"
    assert shown["average effect"].endswith(" pp")


def test_masked_weights_stand_at_the_cost_of_dense():
    made = tables.accuracy_table(study().models[0])
    at = {row[0]: row[2] for row in made.rows}
    assert at["weights snip"] == at["dense"] > at["grasp"]


def shown(table):
    """The rows as people read them, by the first columns' text."""
    header, rows = table.text
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_accuracies_are_written_with_their_deviation_over_seeds():
    made = study(seeds=3)
    (grasp, *_) = shown(comparisons_table(made))
    values = [100 * row.test_accuracy for row in made.rows if row.method == "grasp"]
    assert grasp["accuracy"] == f"{fmean(values):.2f} ± {stdev(values):.2f} %"
    (alone, *_) = shown(comparisons_table(study(seeds=1)))
    assert "±" not in alone["accuracy"]
    assert alone["SD of differences"] == "—"


def test_the_match_of_a_baseline_is_that_of_all_its_seeds():
    record = make_study(seeds=3)
    wanted, reached = (1000, 500, 500), (990, 650, 360)
    for run in record["runs"]:
        if run["method"] == "filters grasp (filters)":
            one = {"reference": wanted[run["seed"]], "baseline": reached[run["seed"]]}
            run["match"] = {
                "by": "filters",
                "macs": one,
                "filters": one | {"baseline": one["reference"]},
            }
    rows = {
        row["baseline"]: row for row in shown(tables.baselines_table(Study.from_record(record)))
    }
    assert (
        rows["filters grasp (filters)"]["match"] == "filters equal; MACs equal (-28.0 to +30.0 %)"
    )
    assert rows["shallower"]["match"] == "MACs 0.4 % more"
    assert rows["last blocks"]["match"] == "—"


def test_every_ticket_is_listed_against_every_control():
    made = study(seeds=3)
    listed = shown(tables.controls_table(made))
    controls = ["random blocks", "last blocks", "shallower"]
    assert [row["control"] for row in listed] == controls * 2
    first = made.comparisons[0].controls[0]
    assert listed[0]["answer"] == first.outcome
    assert listed[0]["minimum detectable"] == f"{100 * first.minimum_detectable:.2f} pp"
    assert listed[0]["SD of differences"] == f"{100 * first.difference.std:.2f} pp"


def test_a_control_that_is_the_ticket_in_every_seed_has_no_answer():
    record = make_study(seeds=2, methods=(METHODS[0], METHODS[3]))
    own = {run["seed"]: run["training"] for run in record["runs"] if run["method"] == "grasp"}
    for run in record["runs"]:
        if run["method"] == "last blocks":
            run["training"] = own[run["seed"]]
    (row,) = shown(tables.controls_table(Study.from_record(record | analysed(record))))
    assert (row["answer"], row["minimum detectable"]) == ("the same network", "—")


def test_an_answer_about_a_control_from_two_seeds_says_so():
    record = make_study(seeds=2, methods=(METHODS[0], METHODS[3]))
    for run in record["runs"]:
        if run["method"] == "last blocks":
            run["test_accuracy"] = 0.1 + 0.001 * run["seed"]
            run["correct"] = None
    (row,) = shown(tables.controls_table(Study.from_record(record | analysed(record))))
    assert row["answer"] == "ticket better (two seeds)"


def test_blocks_removed_alone_are_worth_something_and_no_method():
    record = with_every_block_alone(make_study(seeds=3, models=("resnet20",), removals=(1,)))
    made = Study.from_record(record)
    listed = shown(tables.worth_table(made))
    assert [row["block"] for row in listed] == tables.block_order(made)
    lost = {
        run["seed"]: 100 * (dense["test_accuracy"] - run["test_accuracy"])
        for run in record["runs"]
        for dense in record["runs"]
        if (run["method"], run["removed"]) == ("each blocks", ["layer2.1"])
        and (dense["kind"], dense["seed"]) == ("dense", run["seed"])
    }
    row = next(row for row in listed if row["block"] == "layer2.1")
    assert row["seeds"] == "3"
    assert row["accuracy lost without it"].startswith(f"{fmean(lost.values()):+.2f} pp (")
    assert row["SD of differences"] == f"{stdev(lost.values()):.2f} pp"
    (part,) = made.budgets
    assert "each blocks" not in {row.method for row in part.rows}
    for table in (comparisons_table, tables.baselines_table, tables.accuracy_table):
        assert "each blocks" not in table(made).csv


def test_the_block_with_the_lowest_score_is_told_beside_its_worth():
    record = with_every_block_alone(make_study(seeds=3, models=("resnet20",), removals=(1,)))
    lowest = {"grasp": ("layer1.0", "layer1.0", "layer3.2"), "snip": ("layer3.2",) * 3}
    for run in record["runs"]:
        if run["scores"]:
            block = lowest[run["method"]][run["seed"]]
            run["scores"] = {name: -5.0 if name == block else 1.0 for name in run["scores"]}
    told = [
        (row["block"], row["lowest score of (removed at p = 1)"])
        for row in shown(tables.worth_table(Study.from_record(record)))
    ]
    assert told[0] == ("layer1.0", "grasp (2 of 3 seeds)")
    assert told[-1] == ("layer3.2", "grasp (1 of 3 seeds), snip (3 of 3 seeds)")
    assert {text for _, text in told[1:-1]} == {"—"}


def test_other_images_have_accuracies_and_differences_in_figures():
    made = study(seeds=3)
    listed = [
        row for row in shown(tables.other_images_table(made)) if row["images"] == "CIFAR-10-C"
    ]
    assert [row["method"] for row in listed] == list(made.methods)
    dense, grasp, *_ = listed
    values = {
        kind: [
            100 * row.evaluations["cifar10-c"]["accuracy"]
            for row in made.rows
            if row.method == kind
        ]
        for kind in ("dense", "grasp")
    }
    assert dense["accuracy"] == f"{fmean(values['dense']):.2f} ± {stdev(values['dense']):.2f} %"
    assert (dense["paired seeds"], dense["difference to dense"]) == ("—", "—")
    differences = [b - a for a, b in zip(values["dense"], values["grasp"], strict=True)]
    assert grasp["paired seeds"] == "3"
    assert grasp["difference to dense"].startswith(f"{fmean(differences):+.2f} pp (")
    assert grasp["SD of differences"] == f"{stdev(differences):.2f} pp"
    equal = made.comparisons[0].evaluations["cifar10-c"].at_equal_clean
    assert grasp["SD at equal clean accuracy"] == f"{100 * equal.std:.2f} pp"
    drawn = next(row for row in listed if row["method"] == "random blocks")
    assert drawn["seeds"] == "3"  # four draws of each are averaged


def test_the_conditions_of_evaluations_come_from_the_record():
    record = make_study(seeds=2)
    corrupted = {"title": "recipe", "corruptions": ["fog", "snow"], "frost_photographs": False,
                 "run_precision": "bf16"}  # fmt: skip
    attacked = {"title": "first 500", "steps": 20, "restarts": 1, "run_precision": "bf16"}
    for run in record["runs"]:
        run["evaluations"] = {
            "c": {"accuracy": 0.5, "images": 2000, "precision": "bf16", "settings": corrupted},
            "pgd": {"accuracy": 0.5, "images": 500, "precision": "fp32", "epsilon_255": 2.0,
                    "settings": attacked},
        }  # fmt: skip
    record["runs"][0]["evaluations"]["pgd"] |= {"precision": "bf16"}
    first, second = shown(tables.evaluations_table(Study.from_record(record)))
    assert (first["set"], first["test images"], first["corruptions"]) == ("recipe", "2,000", "2")
    assert (first["frost"], first["epsilon"]) == ("frost_like (drawn, no photographs)", "—")
    assert (second["epsilon"], second["steps"], second["restarts"]) == ("2/255", "20", "1")
    assert second["precision"] == "bf16, fp32"
    assert second["frost"] == "—"


def test_what_was_removed_is_counted_over_draws_and_seeds():
    made = study(seeds=3).budgets[0]
    rows = tables.removed_table(made).rows
    mine = [row for row in rows if row[0] == "random blocks" and row[3] == "layer1.0"]
    assert len(mine) == 12  # 4 draws, 3 seeds
    times, tickets = mine[0][6]
    assert times == sum(row[4] == "removed" for row in mine)
    assert tickets == 12


def test_costs_are_those_of_the_whole_bill():
    record = make_study(seeds=1, methods=(("lottery grasp", "lottery", -0.1, 0),))
    run = record["runs"][1]
    run["cost"] = run["cost"] | {"train_seconds": 2 * run["train_seconds"]}
    made = tables.cost_table(Study.from_record(record).budgets[0])
    at = [column.title for column in made.columns].index("training")
    assert made.rows[1][at] == 2 * run["train_seconds"]


def test_a_user_own_training_without_macs_or_epochs_has_tables():
    record = make_study(seeds=2, methods=METHODS[:1], full=False, energy=False)
    for run in record["runs"]:
        run |= dict.fromkeys(("macs", "epochs", "params", "images_per_second", "scores"))
        run["curve"] = []
    record |= {"networks": {}, "data": None, "classes": None, "test_images": None}
    made = Study.from_record(record | analysed(record))
    assert tables.accuracy_table(made).rows == ()
    assert "not measured" in str(tables.comparisons_table(made).text)
    assert tables.curves_table(made, "validation_accuracy").rows == []


def test_the_table_on_a_screen_ends_with_the_corrected_outcome():
    made = study(seeds=3)
    header, rows = verdict_table(made)
    assert header[-1] == "verdict"
    assert len(rows) == 1 + len(made.comparisons)
    assert [row[-1] for row in rows[1:]] == [one.outcome_adjusted for one in made.comparisons]
