import copy
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from layerticket.errors import LayerticketError
from layerticket.verdict import words
from layerticket.verdict.judge import judge
from layerticket.verdict.pairs import Comparison, Row, as_record, compare_rows
from layerticket.verdict.statistics import holm
from made_study import analysed as analyse
from made_study import break_run, make_study, with_every_block_alone

KEYS = {
    "model", "budget", "method", "kind", "n", "seeds", "accuracy", "dense_accuracy", "difference",
    "outcome", "p_value", "p_adjusted", "outcome_adjusted", "seeds_needed", "minimum_detectable",
    "percentile", "macs_saving", "params_saving", "speedup", "memory_saving", "energy_saving",
    "co2_saving", "evaluations", "similarity", "sentence",
    "same_seeds", "average_effect", "images_needed", "caution",
}  # fmt: skip


def of(analysis, method, budget="remove 5"):
    (found,) = [
        one for one in analysis["comparisons"] if (one["method"], one["budget"]) == (method, budget)
    ]
    return found


def runs_of(study, method, key="test_accuracy"):
    return {run["seed"]: run[key] for run in study["runs"] if run["method"] == method}


def cost(train, search, kwh=None):
    return {"train_seconds": train, "search_seconds": search, "energy_kwh": kwh, "co2_kg": None}


def set_accuracies(study, method, values):
    for run in study["runs"]:
        if run["method"] == method and run["seed"] < len(values):
            run["test_accuracy"] = values[run["seed"]]


@pytest.fixture(scope="module")
def made():
    return make_study()


@pytest.fixture
def study(made):
    return copy.deepcopy(made)


def test_a_comparison_is_the_verdict_over_paired_seeds(study):
    found = of(analyse(study), "grasp")
    dense, grasp = runs_of(study, "dense"), runs_of(study, "grasp")
    judged = judge(list(dense.values()), list(grasp.values()), margin=0.01, resolution=1e-4)
    assert found.keys() >= KEYS
    assert (found["n"], found["seeds"]) == (5, [0, 1, 2, 3, 4])
    assert found["difference"]["low"] == judged.difference.low
    assert found["difference"]["over"] == "seeds"
    assert found["outcome"] == judged.outcome
    test = stats.ttest_rel(list(grasp.values()), [d - 0.01 for d in dense.values()],
                           alternative="greater")  # fmt: skip
    assert found["p_value"] == pytest.approx(test.pvalue, rel=1e-6)


def test_the_study_is_left_as_it_was(study):
    before = copy.deepcopy(study)
    analyse(study)
    assert study == before


def test_adjusted_values_are_holms_over_all_comparisons(study):
    comparisons = analyse(study)["comparisons"]
    assert [one["p_adjusted"] for one in comparisons] == holm(
        [one["p_value"] for one in comparisons]
    )
    assert all(one["comparisons"] == len(comparisons) == 7 for one in comparisons)


def test_correction_can_take_a_win_away():
    # One comparison wins at p = 0.02; among seven it does not stand.
    study = make_study(seeds=3)
    for method in {run["method"] for run in study["runs"]}:
        set_accuracies(study, method, [0.92, 0.92, 0.92])
    set_accuracies(study, "grasp", [0.9116, 0.9125, 0.9134])
    for other in ("snip", "last blocks", "shallower", "weights snip", "filters grasp (filters)"):
        set_accuracies(study, other, [0.90, 0.92, 0.91])
    found = of(analyse(study), "grasp")
    alone = of(analyse(study | {"runs": [r for r in study["runs"] if r["method"] in
                                         ("dense", "grasp")]}), "grasp")  # fmt: skip
    assert alone["p_adjusted"] == alone["p_value"] == found["p_value"] < found["p_adjusted"]
    outcomes = alone["outcome_adjusted"], found["outcome"], found["outcome_adjusted"]
    assert outcomes == ("wins", "wins", "undecided")


def test_draws_are_one_method_and_averaged_within_a_seed(study):
    found = of(analyse(study), "random blocks")
    drawn = [run for run in study["runs"] if run["method"] == "random blocks"]
    assert len(drawn) == 20
    means = [sum(run["test_accuracy"] for run in drawn if run["seed"] == s) / 4 for s in range(5)]
    assert found["accuracy"]["mean"] == pytest.approx(sum(means) / 5)
    assert found["percentile"] is None


def test_percentile_ranks_a_ticket_within_its_seed(study):
    set_accuracies(study, "grasp", [0.99] * 5)
    found = of(analyse(study), "grasp")
    assert (found["percentile"], found["percentile_of"]["tickets"]) == (1.0, 20)
    assert found["percentile_of"]["low"] < 1
    assert of(analyse(study), "weights snip")["percentile"] is None


def test_unpaired_and_failed_runs_are_left_out(study):
    lost = [r for r in study["runs"] if r["method"] == "grasp" and r["seed"] == 1]
    break_run(lost[0], "out of memory")
    study["runs"] = [r for r in study["runs"] if (r["method"], r["seed"]) != ("dense", 4)]
    found = analyse(study)
    assert of(found, "grasp")["seeds"] == [0, 2, 3]
    assert of(found, "snip")["seeds"] == [0, 1, 2, 3]
    assert (of(found, "grasp")["failed_seeds"], of(found, "snip")["failed_seeds"]) == ([1], [])


def test_a_method_without_a_finished_run_is_listed_with_nulls():
    study = make_study(seeds=1, failed=1)
    found = of(analyse(study), "grasp")
    assert (found["n"], found["outcome"], found["p_value"]) == (0, "undecided", None)
    assert found["difference"]["mean"] is found["macs_saving"] is found["speedup"]["mean"] is None
    assert "no finished run" in found["sentence"]


def test_one_seed_decides_nothing():
    found = analyse(make_study(seeds=1))
    one = of(found, "grasp")
    assert (one["outcome"], one["outcome_adjusted"], one["p_value"]) == ("undecided",) * 2 + (None,)
    assert one["difference"]["low"] is one["difference"]["seeds_low"] is None
    assert one["minimum_detectable"] is None
    assert {control["outcome"] for control in one["controls"]} == {"not shown"}


def test_savings_by_hand(study):
    for run in study["runs"]:
        if run["method"] == "dense":
            run |= {"cost": cost(20.0, 0.0, 3.0), "peak_memory_bytes": 8}
        if run["method"] == "grasp":
            run |= {"cost": cost(9.0, 1.0, 2.0), "peak_memory_bytes": 6}
    found = of(analyse(study), "grasp")
    assert found["macs_saving"] == pytest.approx(5 * 4_718_592 / 69_484_672)
    assert found["speedup"] == pytest.approx({"mean": 2.0, "low": 2.0, "high": 2.0})
    assert found["energy_saving"] == pytest.approx(1 / 3)
    assert found["memory_saving"] == pytest.approx(0.25)
    assert of(analyse(study), "weights snip")["macs_saving"] == 0  # masks save none


def test_nothing_measured_is_null_and_other_machines_are_not_compared(study):
    for run in study["runs"]:
        run["cost"] = run["cost"] | {"energy_kwh": None}
        if run["method"] == "grasp":
            run["device"] = "cpu"
    found = of(analyse(study), "grasp")
    assert found["energy_saving"] is found["memory_saving"] is found["speedup"]["mean"] is None
    assert of(analyse(study), "snip")["speedup"]["mean"] > 1


@pytest.mark.parametrize(
    ("key", "other", "null"),
    [
        ("device", "cpu", {"speedup", "memory_saving", "energy_saving", "co2_saving"}),
        ("precision", "fp32", {"speedup", "memory_saving", "energy_saving", "co2_saving"}),
        ("workers", 2, {"speedup"}),
        ("energy_method", "guessed", {"energy_saving", "co2_saving"}),
    ],
)
def test_figures_that_were_measured_otherwise_are_not_compared(study, key, other, null):
    for run in study["runs"]:
        if run["method"] == "grasp":
            run[key] = other
    found = of(analyse(study), "grasp")
    found |= {"speedup": found["speedup"]["mean"]}
    measured = ("speedup", "memory_saving", "energy_saving", "co2_saving")
    assert {name for name in measured if found[name] is None} == null


def test_the_network_that_waits_longer_for_data_is_told():
    rows = [row("dense", seed, DENSE[seed], kind="dense", data_wait_share=0.2) for seed in DENSE]
    for method, share in (("grasp", 0.3), ("snip", 0.1), ("synflow", None)):
        rows += [row(method, seed, 0.9, data_wait_share=share) for seed in DENSE]
    found, _ = analysis(rows)
    assert found["grasp"].data_wait_share == pytest.approx(0.3)
    assert found["snip"].data_wait_share == pytest.approx(0.2)
    assert found["synflow"].data_wait_share is None


def test_a_win_of_two_seeds_carries_a_caution():
    def caution(seeds):
        tickets = [row("grasp", seed, DENSE[seed]) for seed in seeds]
        found, verdict = analysis([*dense_rows(seeds), *tickets], test_images=10_000)
        assert found["grasp"].outcome_adjusted == "wins"
        assert ("A result from two seeds is weak" in verdict) == (
            found["grasp"].caution is not None
        )
        return found["grasp"].caution

    assert caution((0, 1)).startswith("a result from two seeds is weak")
    assert caution((0, 1, 2)) is None


def test_evaluations_are_paired_too(study):
    before, after = (runs_of(study, name, "evaluations") for name in ("dense", "grasp"))
    pairs = [after[s]["cifar10-c"]["accuracy"] - before[s]["cifar10-c"]["accuracy"] for s in before]
    found = of(analyse(study), "grasp")["evaluations"]["cifar10-c"]
    assert found["mean"] == pytest.approx(sum(pairs) / 5)
    assert found["n"] == 5


# Plain answers to "is the criterion more than its cost?"


def control_of(study, method):
    answers = of(analyse(study), "grasp")["controls"]
    return next(one for one in answers if one["method"] == method)


@pytest.mark.parametrize(
    ("control", "outcome", "words"),
    [
        (
            [0.92, 0.921, 0.919, 0.92, 0.9205],
            "as good",
            "last blocks did at least as well as grasp, within 1 pp.",
        ),
        ([0.90, 0.901, 0.899, 0.90, 0.9005], "ticket better", "grasp did better than last blocks"),
        ([0.80, 0.99, 0.85, 0.95, 0.92], "not shown", "Not shown whether last blocks"),
        (
            [0.925, 0.926, 0.924, 0.925, 0.9255],
            "control better",
            "last blocks did better than grasp",
        ),
        (
            [0.916, 0.917, 0.915, 0.916, 0.9165],
            "ticket better",
            "grasp did better than last blocks, by less than 1 pp.",
        ),
        (
            [0.923, 0.9245, 0.9215, 0.923, 0.9240],
            "control better",
            "last blocks did better than grasp, by less than 1 pp.",
        ),
    ],
)
def test_controls_get_a_plain_answer(study, control, outcome, words):
    set_accuracies(study, "grasp", [0.92, 0.9215, 0.9185, 0.92, 0.92])
    set_accuracies(study, "last blocks", control)
    answer = control_of(study, "last blocks")
    assert answer["outcome"] == outcome
    assert words in answer["sentence"]
    found = stats.ttest_rel(list(runs_of(study, "grasp").values()), control).confidence_interval()
    assert (answer["difference"]["low"], answer["difference"]["high"]) == pytest.approx(found)


def test_the_minimum_detectable_difference_to_a_control_is_the_distance_found_with_80_percent():
    generator = np.random.default_rng(0)
    values = generator.normal(0, 0.01, 4)
    rows = [*dense_rows(), *(row("grasp", seed, 0.9 + values[seed]) for seed in DENSE)]
    rows += [row("last", seed, 0.9, kind="control") for seed in DENSE]
    (control,) = analysis(rows)[0]["grasp"].controls
    drawn = generator.normal(control.minimum_detectable, control.difference.std, (20_000, 4))
    found = stats.ttest_1samp(drawn, 0.0, axis=1, alternative="greater").pvalue < 0.025
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    (alone,) = analysis([one for one in rows if one.seed == 0])[0]["grasp"].controls
    assert alone.minimum_detectable is None


def test_rows_that_remove_each_block_alone_are_no_comparison_and_correct_nothing(study):
    before = analyse(study)
    after = with_every_block_alone(study)
    assert len(after["runs"]) > len(study["runs"])
    assert after["comparisons"] == before["comparisons"]
    assert after["verdict"] == before["verdict"]


def test_a_criterion_is_held_against_every_control_of_its_cost_only(study):
    answers = of(analyse(study), "grasp")["controls"]
    assert [one["method"] for one in answers] == ["random blocks", "last blocks", "shallower"]
    assert of(analyse(study), "filters grasp (filters)")["controls"] == []
    for run in study["runs"]:
        if run["method"] == "last blocks":
            run["budget"] = "remove 4"
    assert "last blocks" not in [one["method"] for one in of(analyse(study), "grasp")["controls"]]


def test_a_dense_training_that_stopped_earlier_belongs_to_tickets_of_its_compute():
    # 100 MACs in 1 epoch are the compute of 50 MACs in 2. Its MACs alone are those of no ticket.
    def stopped(method, macs, epochs):
        rows = [row(method, seed, 0.9, kind="control", macs=macs, epochs=epochs) for seed in DENSE]
        return [replace(one, kind="equal_compute") for one in rows]

    tickets = [row("grasp", seed, 0.9, macs=50, epochs=2) for seed in DENSE]
    others = [*stopped("equal compute", 100, 1), *stopped("equal MACs", 50, 1)]
    found, _ = analysis([*dense_rows(), *tickets, *others])
    assert [one.method for one in found["grasp"].controls] == ["equal compute"]


def test_the_verdict_of_the_study_in_a_sentence(study):
    text = analyse(study)["verdict"]
    assert text.startswith("Both tickets win. ")
    test = (
        "Test: one-sided 2.5 %, non-inferiority at 1 pp, over 5 paired seeds, on these test images"
    )
    assert text.endswith(f". {test}, after correction for 7 comparisons.")
    for method, values in {"grasp": [0.8, 0.81, 0.8, 0.81, 0.8], "snip": [0.8] * 5}.items():
        changed = copy.deepcopy(study)
        set_accuracies(changed, method, values)
        text, won = analyse(changed)["verdict"], {"grasp": "snip", "snip": "grasp"}[method]
        assert text.startswith(
            f"1 of 2 tickets wins ({won}), 1 loses ({method}) and none is undecided. Better than "
        )
    assert analyse(study | {"runs": []})["verdict"] == "No verdict: the study has no tickets."
    study["runs"] = [r for r in study["runs"] if r["method"] in ("dense", "grasp", "last blocks")]
    set_accuracies(study, "last blocks", list(runs_of(study, "grasp").values()))
    text = analyse(study)["verdict"]
    assert text.startswith("The grasp ticket wins: ")
    assert " At least as good as the ticket, within 1 pp: last blocks. " in text
    assert text.endswith(
        " It saves 34 % of the MACs. Test: one-sided 2.5 %, non-inferiority at 1 pp, after "
        "correction for 2 comparisons."
    )
    failed = [r | {"status": "failed", "test_accuracy": None} for r in study["runs"]]
    assert analyse(study | {"runs": failed})["verdict"].startswith("No verdict yet")


# What fails, what is corrected, and what the test set can tell.


def only(study, *methods):
    study["runs"] = [run for run in study["runs"] if run["method"] in ("dense", *methods)]
    return study


def test_a_method_with_a_failed_seed_stays_undecided_and_says_which(study):
    only(study, "grasp", "last blocks")
    assert "The grasp ticket wins" in analyse(study)["verdict"]
    break_run(next(r for r in study["runs"] if (r["method"], r["seed"]) == ("grasp", 3)), "nan")
    found = analyse(study)
    one = of(found, "grasp")
    assert (one["outcome"], one["outcome_adjusted"]) == ("undecided", "undecided")
    assert "grasp is undecided" in one["sentence"]
    assert "seed 3 failed" in one["sentence"]
    assert "neither wins nor loses yet" in found["verdict"]
    assert " Seed 3 failed, so it stays undecided. " in found["verdict"]
    (control,) = one["controls"]
    assert (control["outcome"], control["failed_seeds"]) == ("not shown", [3])


def test_a_failed_dense_seed_holds_every_method(study):
    break_run(next(r for r in study["runs"] if (r["kind"], r["seed"]) == ("dense", 0)), "nan")
    assert {one["outcome"] for one in analyse(study)["comparisons"]} == {"undecided"}


def test_a_failed_evaluation_takes_no_accuracy_away(study):
    before = of(analyse(study), "grasp")
    for run in study["runs"]:
        if (run["method"], run["seed"]) == ("grasp", 3):
            run |= {"status": "failed", "error": "no attack", "evaluations": {}}
    after = of(analyse(study), "grasp")
    assert (after["difference"], after["outcome"]) == (before["difference"], before["outcome"])
    assert after["failed_seeds"] == []
    assert after["evaluations"]["cifar10-c"]["n"] == 4


def test_the_headline_gives_the_corrected_outcome():
    study = make_study(seeds=3)
    dense = runs_of(study, "dense")
    for method in {run["method"] for run in study["runs"]} - {"dense"}:
        set_accuracies(study, method, [dense[0] + 0.05, dense[1] - 0.05, dense[2]])
    near = [dense[0] - 0.004, dense[1] - 0.006, dense[2] - 0.0055]  # p = 0.008, seven times 0.06
    set_accuracies(study, "grasp", near)
    one = of(analyse(study), "grasp")
    assert (one["outcome"], one["outcome_adjusted"]) == ("wins", "undecided")
    assert one["sentence"].startswith("grasp is undecided: taken alone it wins")
    several = analyse(study)["verdict"]
    assert several.startswith(
        "None of 2 tickets win, none loses and 2 are undecided (grasp and snip)"
    )
    assert ", after correction for 7 comparisons; taken alone 1 more would win. " in several
    single = analyse(study | {"runs": [r for r in study["runs"] if r["method"] != "snip"]})
    assert "grasp ticket neither wins nor loses yet" in single["verdict"]
    assert ", after correction for 6 comparisons; taken alone it wins. " in single["verdict"]


def test_equal_differences_to_a_control_prove_no_more_than_the_test_set_can_tell(study):
    study["runs"] = [run for run in study["runs"] if run["seed"] < 2]
    set_accuracies(study, "grasp", [0.92, 0.93])
    set_accuracies(study, "last blocks", [0.9199, 0.9299])
    interval = control_of(study, "last blocks")["difference"]
    half = stats.t.ppf(0.975, 1) * 1e-4 / math.sqrt(6) / math.sqrt(2)
    assert interval["high"] - interval["mean"] == pytest.approx(half)
    for run in study["runs"]:
        accuracy = 0.5 + 0.01 * (run["method"] == "grasp")
        run["evaluations"] = {"shift": {"accuracy": accuracy, "images": 200}}
    shift = of(analyse(study), "grasp")["evaluations"]["shift"]
    half = stats.t.ppf(0.975, 1) / 200 / math.sqrt(6) / math.sqrt(2)
    assert shift["high"] - shift["mean"] == pytest.approx(half)


def test_the_search_is_part_of_the_time_a_ticket_takes(study):
    for run in study["runs"]:
        if run["method"] == "dense":
            run["cost"] = cost(20.0, 0.0)
        if run["method"] == "snip":  # as a lottery ticket: the search trained the dense network
            run["cost"] = cost(10.0, 20.0)
        if run["method"] == "grasp":
            run["cost"] = cost(10.0, None)
    found = analyse(study)
    assert of(found, "snip")["speedup"]["mean"] == pytest.approx(2 / 3)
    assert of(found, "grasp")["speedup"]["mean"] is None


# Two rows that are one training are no evidence between them. By hand.

DENSE = {0: 0.90, 1: 0.91, 2: 0.92, 3: 0.93}


def row(method, seed, accuracy, *, training=None, kind="ticket", draw=None, model="net", **more):
    roles = {"dense": "dense", "ticket": "criterion", "control": "control"}
    more = {"macs": 100, "epochs": 1, "status": "done", "role": roles[kind]} | more
    name = training or f"{method} {seed} {draw}" + ("" if model == "net" else model)
    return Row(
        id=name, model=model, budget=None if kind == "dense" else "remove 1", method=method,
        kind=kind, seed=seed, draw=draw, training=name, test_accuracy=accuracy, **more,
    )  # fmt: skip


def dense_rows(seeds=DENSE):
    return [row("dense", seed, DENSE[seed], kind="dense") for seed in seeds]


def analysis(rows, **options):
    found = compare_rows(rows, **options)
    return {one.method: one for one in found.comparisons}, found.verdict


def test_seeds_with_the_same_network_are_left_out():
    tickets = [
        row("grasp", 0, 0.90, training="dense 0 None"),  # took nothing out: the dense run itself
        row("grasp", 1, 0.92),
        row("grasp", 2, 0.92),  # as accurate, but another network: it stays in
        row("grasp", 3, 0.95),
    ]
    found, verdict = analysis([*dense_rows(), *tickets])
    one = found["grasp"]
    judged = judge([0.91, 0.92, 0.93], [0.92, 0.92, 0.95])
    assert (one.n, one.seeds, one.same_seeds) == (4, (0, 1, 2, 3), (0,))
    assert one.difference == judged.difference
    assert one.difference.n == 3
    assert (one.p_value, one.minimum_detectable) == (judged.p_value, judged.minimum_detectable)
    assert one.average_effect == pytest.approx(3 / 4 * 0.01)
    assert one.accuracy["mean"] == pytest.approx((0.90 + 0.92 + 0.92 + 0.95) / 4)
    for text in (one.sentence, verdict):
        assert "the same network as dense in 1 of 4 seeds" in text
        assert "average effect of the choice +0.75 pp" in text


def test_fewer_than_two_seeds_that_differ_decide_nothing():
    same = {seed: row("grasp", seed, DENSE[seed], training=f"dense {seed} None") for seed in DENSE}
    found, verdict = analysis([*dense_rows(), *list(same.values())])
    one = found["grasp"]
    assert one.difference.mean is one.p_value is one.minimum_detectable is one.seeds_needed is None
    assert (one.outcome, one.average_effect, one.difference.n) == ("undecided", 0.0, 0)
    assert one.sentence == "grasp is undecided; the same network as dense in 4 of 4 seeds."
    assert "neither wins nor loses yet" in verdict
    same[3] = row("grasp", 3, 0.95)
    one = analysis([*dense_rows(), *list(same.values())])[0]["grasp"]
    assert one.difference.low is one.difference.std is one.p_value is None
    assert (one.outcome, one.outcome_adjusted) == ("undecided", "undecided")
    assert one.average_effect == pytest.approx(0.02 / 4)


def test_a_control_that_is_the_ticket_in_some_seeds():
    tickets = [row("grasp", seed, accuracy + 0.001) for seed, accuracy in DENSE.items()]
    last = [
        row("last", 0, 0.901, training="grasp 0 None", kind="control"),
        row("last", 1, 0.911, training="grasp 1 None", kind="control"),
        row("last", 2, 0.924, kind="control"),  # 0.3 and 0.5 pp better than the ticket
        row("last", 3, 0.936, kind="control"),
    ]
    (control,) = analysis([*dense_rows(), *tickets, *last])[0]["grasp"].controls
    half = stats.t.ppf(0.975, 1) * 0.001  # of -0.3 and -0.5 pp
    assert (control.n, control.same_seeds, control.difference.n) == (4, (0, 1), 2)
    assert control.difference.mean == pytest.approx(-0.004)
    assert control.difference.high == pytest.approx(-0.004 + half)
    assert control.average_effect == pytest.approx(-0.002)
    assert "the same network as last in 2 of 4 seeds" in control.sentence


@pytest.mark.parametrize("ahead", [0.02, 0.0, -0.02])
def test_an_answer_about_a_control_from_two_seeds_is_flagged(ahead):
    tickets = [row("grasp", seed, accuracy) for seed, accuracy in DENSE.items()]
    last = [
        row("last", seed, accuracy + ahead + 0.0001 * (seed % 2), kind="control",
            training="grasp 0 None" if seed == 0 else None)
        for seed, accuracy in DENSE.items()
    ]  # fmt: skip
    for seeds, few in ((3, True), (4, False)):
        rows = [*dense_rows(), *tickets, *last[:seeds]]
        found, verdict = analysis(rows)
        (control,) = found["grasp"].controls
        assert control.outcome != "not shown"
        assert control.difference.n == seeds - 1
        remark = words.trust_remarks(found["grasp"], 0.01)[-1]
        for text in (control.sentence, remark.detail):
            assert (words.TWO_SEEDS in text) == few
        if ahead >= 0:
            assert ("last (two seeds). " in verdict) == few
            assert ("result from two seeds is weak" in verdict) == few


@pytest.mark.parametrize("margin", [0.5, float("nan"), -0.01])
def test_a_margin_out_of_range_is_refused(margin):
    with pytest.raises(LayerticketError, match="margin"):
        compare_rows(dense_rows(), margin=margin)


def test_a_random_draw_that_is_the_ticket_leaves_the_difference_and_ties_in_the_percentile():
    tickets = [row("grasp", seed, DENSE[seed]) for seed in (0, 1)]
    drawn = [
        row("random", 0, 0.90, training="grasp 0 None", kind="control", draw=0),
        row("random", 0, 0.88, kind="control", draw=1),
        row("random", 1, 0.90, kind="control", draw=0),
        row("random", 1, 0.93, kind="control", draw=1),
    ]
    one = analysis([*dense_rows((0, 1)), *tickets, *drawn])[0]["grasp"]
    (control,) = one.controls
    assert control.same_seeds == ()
    assert control.difference.mean == pytest.approx(((0.90 - 0.88) + (0.91 - 0.915)) / 2)
    assert one.percentile == pytest.approx((0.75 + 0.5) / 2)


# Answers on single images.


def bits(*answers):
    return np.packbits(answers).tobytes().hex()


def test_answers_on_images_judge_where_every_row_has_them():
    dense = [1, 1, 0, 1, 1, 0, 1, 1, 1, 1]
    ticket = [0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    rows = [
        one
        for seed in range(3)
        for one in (
            row("dense", seed, 0.8, kind="dense", correct=bits(*dense)),
            row("grasp", seed, 0.8, correct=bits(*ticket)),
        )
    ]
    one = analysis(rows, test_images=10, margin=0.1)[0]["grasp"]
    judged = judge(
        [0.8] * 3, [0.8] * 3, margin=0.1, resolution=0.1, correct=([dense] * 3, [ticket] * 3)
    )
    assert one.difference == judged.difference
    assert (one.difference.over, one.difference.images) == ("seeds and images", 10)
    assert one.difference.low < one.difference.seeds_low
    assert (one.p_value, one.images_needed) == (judged.p_value, judged.images_needed)
    assert "over 3 paired seeds and 10 test images" in one.sentence
    lacking = [*rows[:-1], row("grasp", 2, 0.8)]
    one = analysis(lacking, test_images=10, margin=0.1)[0]["grasp"]
    assert (one.difference.over, one.difference.images) == ("seeds", None)
    assert "on these test images" in one.sentence


def test_corrupted_versions_of_an_image_are_averaged():
    counts = {"dense": bytes([4, 2, 0, 4]).hex(), "grasp": bytes([4, 4, 0, 0]).hex()}
    shares = {"dense": [1, 0.5, 0, 1], "grasp": [1, 1, 0, 0]}
    rows = []
    for method, kind in (("dense", "dense"), ("grasp", "ticket")):
        record = {"correct_counts": counts[method], "versions": 4, "images": 4}
        record |= {"accuracy": sum(shares[method]) / 4, "clean_accuracy": 0.75}
        rows += [row(method, s, 0.75, kind=kind, evaluations={"c": record}) for s in range(2)]
    found = analysis(rows, test_images=4)[0]["grasp"].evaluations["c"]
    judged = judge(
        [2.5 / 4] * 2, [0.5] * 2, resolution=1 / 4, correct=([shares["dense"]] * 2,
                                                             [shares["grasp"]] * 2),
    )  # fmt: skip
    assert (found.mean, found.low, found.high, found.images) == (
        judged.difference.mean, judged.difference.low, judged.difference.high, 4,
    )  # fmt: skip
    assert found.at_equal_clean.mean == pytest.approx(found.mean)
    assert found.at_equal_clean.over == "seeds"


def test_networks_measured_on_other_images_make_no_pair():
    def measured(accuracy, images):
        settings = {"revision": 1, "set": images, "run_precision": f"of {accuracy}"}
        return {"c": {"accuracy": accuracy, "clean_accuracy": 0.75, "settings": settings}}

    rows = [
        one
        for seed, images in enumerate(("old", "new", "new"))
        for one in (
            row("dense", seed, 0.75, kind="dense", evaluations=measured(0.5, "new")),
            row("grasp", seed, 0.75, evaluations=measured(0.6 + seed / 10, images)),
        )
    ]
    found = analysis(rows)[0]["grasp"].evaluations["c"]
    assert (found.n, found.mean) == (2, pytest.approx(0.25))  # 0.7 and 0.8, not the 0.6
    assert analysis(rows[:2])[0]["grasp"].evaluations == {}


def test_every_comparison_says_what_is_left_at_equal_clean_accuracy(study):
    found = of(analyse(study), "grasp")["evaluations"]["cifar10.2"]
    assert found["n"] == found["at_equal_clean"]["n"] == 5
    assert found["clean"]["mean"] == pytest.approx(
        of(analyse(study), "grasp")["difference"]["mean"]
    )
    assert found["at_equal_clean"]["mean"] != found["mean"]


# The records themselves, and how much work they take.


def test_records_come_back_from_json_as_they_were():
    study = make_study(seeds=2, images=40)
    rows = [Row.from_record(one) for one in study["runs"]]
    found = compare_rows(rows, networks=study["networks"], test_images=40)
    for one in found.comparisons:
        assert Comparison.from_record(json.loads(json.dumps(as_record(one)))) == one
    for one in rows:
        assert Row.from_record(json.loads(json.dumps(as_record(one)))) == one


def calls(function):
    """Count the calls of Python functions that a function makes."""
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("grow", ["seeds", "models"])
def test_work_grows_with_the_rows_and_no_faster(grow):
    def rows(size):
        seeds, models = (size, 4) if grow == "seeds" else (4, size)
        made = []
        for model in range(models):
            for seed in range(seeds):
                accuracy = 0.9 + 0.01 * math.sin(7 * seed + model)
                made.append(row("dense", seed, accuracy, kind="dense", model=f"m{model}"))
                made += [
                    row(method, seed, accuracy - 0.001 * (seed % 3), model=f"m{model}")
                    for method in ("grasp", "snip")
                ]
                made += [
                    row("random", seed, accuracy - 0.01, kind="control", draw=draw,
                        model=f"m{model}")
                    for draw in range(2)
                ]  # fmt: skip
        return made

    small, large = rows(10), rows(40)
    compare_rows(small)  # what is cached once is no work of rows
    compare_rows(large)
    assert calls(lambda: compare_rows(large)) < 4.4 * calls(lambda: compare_rows(small))


def test_a_key_that_is_not_known_is_refused():
    row = make_study()["runs"][0] | {"top5": 0.9}
    with pytest.raises(LayerticketError, match="'top5' is not known"):
        Row.from_record(row)


def test_power_is_that_of_the_corrected_decision():
    """The same three differences need more seeds where the study asks ten questions than one."""

    def rows(method, kind, values, role="criterion"):
        return [
            Row(id=f"{method}-{seed}", model="net", budget=None if kind == "dense" else "remove 1",
                method=method, kind=kind, role=role, seed=seed, test_accuracy=value, status="done")
            for seed, value in enumerate(values)
        ]  # fmt: skip

    dense = rows("dense", "dense", [0.90, 0.91, 0.92], "dense")
    tickets = [rows(f"t{n}", "ticket", [0.890, 0.910, 0.930]) for n in range(10)]
    (one,) = compare_rows([*dense, *tickets[0]]).comparisons
    many = compare_rows([*dense, *(row for ticket in tickets for row in ticket)]).comparisons
    assert one.difference == many[0].difference
    assert one.seeds_needed < many[0].seeds_needed
    assert one.minimum_detectable < many[0].minimum_detectable
    assert f"a new study of {many[0].seeds_needed} seeds, fixed in advance" in many[0].sentence
