"""The page on the paper's claims: every figure from a record, nothing decided by a glance."""

from dataclasses import asdict, replace
from statistics import fmean
from types import SimpleNamespace

import pytest

import reproduction
from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison, Control, Row, compare_rows
from layerticket.verdict.statistics import Difference, minimum_detectable
from layerticket.verdict.worth import block_worth
from reproduction import (
    FAILS,
    HOLDS,
    MARKS,
    OPEN,
    RESULTS,
    ROOT,
    above,
    all_of,
    beside,
    bullets,
    closer,
    difference,
    filters_lose,
    found,
    macs_ratio,
    one_of,
    page,
    short_table,
    side,
    snip_loses,
    span,
    tally,
    wins,
)


@pytest.fixture(scope="module")
def written():
    given = reproduction.read()
    return given, [one for claim in reproduction.CLAIMS for one in claim(given)]


def between(low, high, n=5):
    return Difference(mean=(low + high) / 2, low=low, high=high, n=n)


def compared(p, n=5, failed=()):
    return Comparison(
        model="m", budget="b", method="a", kind="ticket", role="criterion", reference=None, n=n,
        seeds=tuple(range(n)), difference=between(-0.01, 0.01, n), p_value=p, failed_seeds=failed,
    )  # fmt: skip


def plain(value):
    return Difference(**{name: of for name, of in asdict(value).items() if name != "of"})


def study_of(**accuracies):
    """A study with one network per method and seed; each has its own name."""
    rows = tuple(
        Row(
            id=f"{method}-{seed}", model="m", budget="b", method=method, kind="ticket",
            role="criterion", seed=seed, training=f"{method}-{seed}", test_accuracy=accuracy,
        )
        for method, of in accuracies.items()
        for seed, accuracy in enumerate(of)
    )  # fmt: skip
    return SimpleNamespace(rows=rows, test_images=None)


def against(method="rule", n=3, same=(), failed=()):
    return Control(
        method=method, name=method, kind="control", n=3, same_seeds=same,
        difference=Difference(n=n), average_effect=None, outcome="not shown",
        minimum_detectable=None, failed_seeds=failed, sentence="",
    )  # fmt: skip


WINS, LOSES, UNDECIDED = compared(0.001), compared(0.999), compared(0.5)


def test_page_and_readme_are_what_the_records_give(written):
    given, findings = written
    assert (RESULTS / "reproduction.md").read_text() == page(given, findings)
    readme = (ROOT / "README.md").read_text()
    assert readme.split(MARKS[0])[1].split(MARKS[1])[0].strip() == short_table(findings)


def test_every_claim_has_a_line_and_the_short_table_is_short(written):
    _, findings = written
    asked = {f"({n})" for n in range(1, 8)} | {"(open)"}
    assert {one.claim.split()[0].rstrip(",") for one in findings} == asked
    short = [one for one in findings if one.short]
    assert {one.claim.split()[0].rstrip(",") for one in short} == asked - {"(2)"}  # with (1)
    assert len(short) <= 10


def test_only_planned_lines_hold_or_do_not(written):
    _, findings = written
    rest = [one for one in findings if one.claim[:3] in ("(5)", "(6)", "(7)")]
    assert rest
    assert not [one for one in rest if HOLDS in one.outcome or FAILS in one.outcome]
    assert {one.outcome for one in rest if one.claim[:3] == "(5)" and not one.joint} <= {
        "agrees", "lower", "higher", "undecided", "not measured", "-"
    }  # fmt: skip


def test_the_papers_robustness_stands_beside_the_same_measurement_only(written):
    _, findings = written
    lines = [one for one in findings if one.claim == "(6) more robust" and not one.joint]
    with_paper = [one for one in lines if one.paper != "-"]
    assert with_paper
    assert all(one.of.endswith(", cifar10-c") for one in with_paper)
    assert not [one for one in with_paper if "random" in one.of]


def test_differences_are_those_of_a_study(written):
    study = written[0]["resnet20"]
    ours = {row.method for row in study.rows if "grasp" in row.method or "random" in row.method}
    rows = [row for row in study.rows if row.method in ours or row.kind == "dense"]
    found = compare_rows(rows, margin=study.margin, test_images=study.test_images).comparisons
    by = {one.method: one for one in found}
    for control in by["grasp mean"].controls:
        ours = difference(study, "grasp mean", control.method)
        assert plain(ours) == control.difference
        assert minimum_detectable(ours.of, 0.95) == control.minimum_detectable
        assert control.difference.over == "seeds and images"
    assert by["grasp mean"].controls
    for one in study.comparisons:
        assert plain(difference(study, one.method, "dense")) == one.difference
    assert difference(study, "grasp sum", "no such method") is None


def test_a_ticket_beats_a_control_after_correction_and_never_as_the_same_network():
    study = study_of(ticket=(0.81, 0.812, 0.814), rule=(0.8, 0.8, 0.8))  # +1.2, SD 0.2, t = 10.4
    assert reproduction.beats(study, "ticket", against(), 1) == HOLDS  # 4.3 is enough
    assert reproduction.beats(study, "ticket", against(), 4) == HOLDS  # 8.9
    assert reproduction.beats(study, "ticket", against(), 6) == OPEN  # 10.9
    assert reproduction.beats(study, "ticket", against(failed=(3,)), 1) == OPEN
    assert reproduction.beats(study, "ticket", against(n=0, same=(0, 1, 2)), 1) == FAILS
    assert reproduction.beats(study, "ticket", against("none", n=0), 1) == OPEN
    worse = study_of(ticket=(0.8, 0.8, 0.8), rule=(0.81, 0.812, 0.814))
    assert reproduction.beats(worse, "ticket", against(), 4) == FAILS


def test_every_open_question_has_one_joint_outcome(written):
    study, findings = written[0]["resnet20"], written[1]
    short = [one for one in findings if one.short and one.claim.startswith("(open)")]
    said = [part.split(": ")[-1] for one in short for part in one.outcome.split("; ")]
    assert len(said) == len(reproduction.CONTROLS)
    parts = [part for one in said for part in one.split(", uncorrected ")]
    assert all(one.split(" (")[0] in (HOLDS, FAILS, OPEN) for one in parts)
    alone = [one for one in findings if one.outcome.endswith(" alone)")]
    assert all(one.of.partition(" - ")[0] in written[0]["resnet20"].methods for one in alone)
    assert bool(alone) == (len(parts) > len(said))
    line = next(one for one in findings if one.of == "snip mean - dense, equal compute")
    value = difference(study, "snip mean", "dense, equal compute")
    assert line.detectable == f"{100 * minimum_detectable(value.of, 1 - 0.05 / 4):.2f} pp"


def test_one_block_is_the_one_each_seed_would_remove(written):
    study, findings = written[0]["resnet20"], written[1]
    worth = {one.block: one for one in block_worth(study.rows, test_images=study.test_images)}
    lines = {one.of: one for one in findings}
    for block, one in worth.items():
        seen = reproduction.paired(
            study, [[pair] for pair in reproduction.single_blocks(study)[block].values()]
        )
        assert (seen.mean, seen.low, seen.n) == pytest.approx(
            (-one.worth.mean, -one.worth.high, one.worth.n)
        )
    for reading in ("sum", "mean"):  # both remove layer1.0 in every seed
        one = lines[f"ResNet-20, p = 1: grasp {reading} (layer1.0)"]
        assert one.ours == lines["ResNet-20 without layer1.0"].ours
        assert one.paper == "+0.40 pp (ResNet-32)"
    drawn = lines[f"ResNet-20, p = 1: random (mean of the {len(worth)} blocks)"]
    seeds = set.intersection(*(set(one.by_seed) for one in worth.values()))
    mean = fmean(-one.by_seed[seed] for one in worth.values() for seed in seeds)
    assert (drawn.n, drawn.ours.split()[0]) == (str(len(seeds)), f"{100 * mean:+.2f}")


def test_the_block_is_chosen_by_the_scores_of_its_seed():
    def row(seed, method, accuracy, removed="", **about):
        about = {"kind": "ticket", "role": "criterion"} | about
        return Row(
            id=f"{method}{removed}{seed}", model="m", budget="b", method=method, seed=seed,
            training=f"{method}{removed}{seed}", test_accuracy=accuracy,
            removed=(removed,) if removed else (), **about,
        )  # fmt: skip

    each = {"kind": "control", "role": "baseline"}
    rows = [row(seed, "dense", 0.9, kind="dense", role="dense") for seed in (0, 1)]
    rows += [row(seed, "each", 0.8, "a", **each) for seed in (0, 1)]
    rows += [row(seed, "each", 0.6, "b", **each) for seed in (0, 1)]
    rows += [row(0, "c", 0.7, scores={"a": 1.0, "b": 2.0})]
    rows += [row(1, "c", 0.7, scores={"a": 2.0, "b": 1.0})]
    study = SimpleNamespace(rows=tuple(rows), test_images=None)
    line = reproduction.one_block(study, replace(WINS, method="c"), "claim", 0.4)
    assert line.of == "ResNet-20, p = 1: c (a or b)"
    assert (line.ours.split(" (")[0], line.n) == ("-20.00 pp", "2")  # -10 and -30


def test_lines_of_the_tables_that_have_no_figure_or_no_seeds(written):
    given, findings = written
    lines = {one.of: one for one in findings}
    assert lines["ResNet-20: filters snip (filters)"].ours == "not measured"
    assert lines["ResNet-20: filters snip (filters)"].paper == "-0.79 pp (ResNet-32, p = 1)"
    after = [one for of, one in lines.items() if "after training: " in of]
    assert len(after) == 20
    known = {(name, at) for at in reproduction.REWINDS for name in reproduction.after(given, at)}
    assert {one.of for one in after if one.ours != "not measured"} <= {
        f"ResNet-20, p = 1 after training: {name}, rewound to {at}" for name, at in known
    }
    for at in reproduction.REWINDS:
        tickets = reproduction.after(given, at)
        for name, (_, one) in tickets.items():
            line = lines[f"ResNet-20, p = 1 after training: {name}, rewound to {at}"]
            if one.difference.mean is not None:
                assert line.ours.startswith(f"{100 * one.difference.mean:+.2f} pp")
                assert line.outcome.partition(" (")[0] == wins(one, looks=len(tickets))
                assert ("not planned" in line.outcome) == (at == "0")
    kl = lines["ResNet-20, p = 1 after training: kl, rewound to 0"]
    assert kl.paper == "+0.74 pp (ResNet-32)"
    memory = [one for one in findings if one.claim == "(5) less memory"]
    assert [one.outcome for one in memory] == ["-"] * len(given["table4"]["rows"])
    assert memory[0].ours == "10.5 % less; 11.4 % less"


def test_robustness_without_frost(written):
    study = written[0]["resnet20-robustness"]
    by = {(row.method, row.seed): row.evaluations["cifar10-c"] for row in study.rows}
    made = len(by["dense", 0]["corruptions"])

    def rest(of):  # all corruptions count alike
        return (made * of["accuracy"] - of["corruptions"]["frost_like"]["accuracy"]) / (made - 1)

    values = [rest(by["snip sum", seed]) - rest(by["dense", seed]) for seed in range(3)]
    text = reproduction.without_frost(study)
    assert f"other {made - 1} corruptions" in text
    assert f"snip sum {100 * fmean(values):+.2f} pp (" in text


def test_the_test_is_named_beside_every_headline(written):
    readme = " ".join((ROOT / "README.md").read_text().split())
    rule = words.decision_rule(words.points(written[0]["resnet20"].margin), 0.95)
    demo, claims = readme.split("## What became of the paper's claims")
    assert rule in demo
    assert rule in claims


def test_the_advice_on_criteria_is_what_the_records_give(written):
    study, findings = written[0]["resnet20"], written[1]
    advice = (ROOT / "docs" / "how-to" / "which-criterion.md").read_text()
    outcomes = {one.method: one.outcome for one in study.judged}
    assert "SNIP chose them by the sum of its scores or GraSP by their mean" in advice
    assert (outcomes["snip sum"], outcomes["grasp mean"]) == ("wins", "wins")
    assert (outcomes["snip mean"], outcomes["grasp sum"]) == ("loses", "undecided")
    line = next(one for one in findings if one.short and "a place" in one.claim)
    assert "No criterion is shown to beat first blocks or random blocks" in advice
    assert "first blocks and random blocks" in line.of
    assert HOLDS not in line.outcome


def test_what_lies_on_a_bound_is_undecided():
    assert (above(between(0.01, 0.03)), side(between(0.01, 0.03))) == (HOLDS, "above zero")
    assert (above(between(0.0, 0.04)), side(between(0.0, 0.04))) == (OPEN, OPEN)
    assert (above(between(-0.03, -0.01)), side(between(-0.03, -0.01))) == (FAILS, "below zero")
    assert above(between(-0.008, 0.004), -0.01) == HOLDS
    assert above(between(-0.001, 0.002), least=0.003) == FAILS
    assert above(Difference(mean=0.02, n=1)) == OPEN
    assert side(None) == OPEN


def test_few_seeds_decide_nothing_and_no_figure_is_no_zero():
    two = between(0.01, 0.03, n=2)
    assert (above(two), side(two)) == (OPEN, OPEN)
    assert wins(compared(0.001, n=2)) == OPEN
    about = {"claim": "c", "of": "o"}
    assert found(None, HOLDS, "note", **about).ours == "not measured"
    assert found(Difference(), HOLDS, "note", **about).outcome == "not measured"


def test_wins_are_corrected_for_looks_and_lost_with_a_seed():
    assert (wins(compared(0.02)), wins(compared(0.02), looks=2)) == (HOLDS, OPEN)
    assert (wins(compared(0.98)), wins(compared(0.98), looks=2)) == (FAILS, OPEN)
    assert wins(compared(0.001, failed=(3,))) == OPEN


def test_joint_outcomes():
    assert one_of({"sum": OPEN, "mean": HOLDS}) == "holds (mean)"
    assert one_of({"sum": HOLDS, "mean": HOLDS}) == HOLDS
    assert one_of({"sum": FAILS, "mean": OPEN}) == OPEN
    assert one_of({"sum": FAILS, "mean": FAILS}) == FAILS
    assert one_of({}) == OPEN
    assert all_of({"sum": FAILS, "mean": HOLDS}) == OPEN
    assert all_of({"sum": HOLDS, "mean": HOLDS}) == HOLDS


def test_snip_loses_as_planned():
    zero, behind, ahead = between(-0.01, 0.01), between(-0.03, -0.01), between(0.01, 0.03)
    assert snip_loses(WINS, behind) == HOLDS
    assert snip_loses(LOSES, ahead) == HOLDS
    assert snip_loses(WINS, zero) == FAILS
    assert snip_loses(WINS, ahead) == OPEN  # the plan asks for an interval that includes zero
    assert snip_loses(UNDECIDED, zero) == OPEN
    assert snip_loses(WINS, None) == OPEN
    assert snip_loses(WINS, between(-0.01, 0.01, n=2)) == OPEN


def test_filters_decide_only_where_layers_win():
    ahead, zero = between(0.01, 0.03), between(-0.01, 0.01)
    assert filters_lose(WINS, LOSES, ahead) == HOLDS
    assert filters_lose(WINS, UNDECIDED, zero) == OPEN
    assert filters_lose(WINS, WINS, ahead) == FAILS
    assert filters_lose(UNDECIDED, WINS, ahead) == OPEN
    assert filters_lose(LOSES, LOSES, ahead) == OPEN


def test_a_figure_of_the_paper_beside_an_interval():
    assert [beside(2.03, *ends) for ends in ((1.8, 2.1), (1.9, 2.0), (2.1, 2.2))] == [
        "agrees", "lower", "higher"
    ]  # fmt: skip
    assert beside(2.03, None, None) == OPEN


def test_cka_is_compared_over_layers_that_both_networks_have():
    def row(method, training, **layers):
        similarity = {
            "layers": layers,
            "mean_over": [at for at in layers if layers[at] is not None],
        }
        return Row(
            id=training, model="m", budget="b", method=method, kind="ticket", role="criterion",
            seed=0, training=training, test_accuracy=0.8, similarity=similarity,
        )  # fmt: skip

    rows = (row("one", "x", a=0.9, b=0.5, c=None), row("two", "y", a=0.8, b=None, c=0.1))
    found = closer(SimpleNamespace(rows=rows), "one", "two")
    assert found.mean == pytest.approx(0.1)  # a only
    same = (rows[0], row("two", "x", a=0.9, b=0.5, c=None))
    assert closer(SimpleNamespace(rows=same), "one", "two") is None  # one network


def test_the_ratio_of_macs_is_that_of_the_counted_networks(written):
    row = next(one for one in written[0]["table4"]["rows"] if one["removed"] == 12)
    counted = row["counts"]["macs"]
    assert macs_ratio("resnet56-projection", 12) == counted["dense"] / counted["ticket"]


def test_the_short_table_has_no_speed_of_a_busy_machine(written):
    given = written[0]
    busy = {name: row | {"others_cpu_share": 0.5} for name, row in given["speed"].items()}
    rows = [row | {"others_cpu_share": 0.001} for row in given["table4"]["rows"]]
    changed = given | {"speed": busy, "table4": given["table4"] | {"rows": rows}}
    line = next(one for one in reproduction.savings(changed) if one.short)
    assert line.ours.startswith("CPU, Table 4 ")
    assert "H200" not in line.ours
    unknown = {name: row | {"others_cpu_share": None} for name, row in given["speed"].items()}
    loud = {"rows": [row | {"others_cpu_share": None} for row in rows]}
    none = next(
        one
        for one in reproduction.savings(changed | {"speed": unknown, "table4": loud})
        if one.short
    )
    assert (none.ours, none.outcome) == ("not measured", "not measured")


def test_texts():
    assert (span([5, 3]), span([4, 4]), span([])) == ("3 to 5", "4", "-")
    assert tally(["lower", "lower"]) == "lower"
    assert tally(["lower", "agrees", "lower"]) == "lower 2 of 3, agrees 1 of 3"
    assert bullets("- one\n  two\n- three") == "- one two\n- three"
