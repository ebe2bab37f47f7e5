"""Compare the paper's claims with our results: write reproduction.md and a table in README.md.

``python benchmarks/reproduction.py`` reads the records in docs/results. Every figure comes from a
record, or is counted; a missing one is "not measured".
"""

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from textwrap import TextWrapper
from typing import Any

import numpy as np
import torch

from layerticket.blocks.find import find_blocks
from layerticket.evaluation.timing import median_of
from layerticket.models.load import build_model
from layerticket.report.tables import Study, markdown
from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison, Control, Row, unpack_correct
from layerticket.verdict.statistics import Difference, Estimate, estimate, minimum_detectable
from layerticket.verdict.worth import block_worth, rank_agreement
from load import BUSY
from table4 import CLASSES, SHAPE, busy_text
from table4 import PAPER as TABLE4

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MARKS = "<!-- from docs/results/reproduction.md -->", "<!-- end -->"
TRAINED = "resnet20", "resnet32", "resnet20-rewound"
"""Studies with trainings of their own."""
STUDIES = *TRAINED, "resnet20-robustness", "resnet20-after-training"
REWINDS = "0", "25%", "50%", "75%"
"""Points of the paper's Table 1."""
FEW = 3
"""Results from fewer seeds are undecided."""
ERROR = 0.025
"""One-sided error of a decision."""
GAIN = 0.003
"""A gain of accuracy below this counts as none."""
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
FROST = "frost_like"
"""The corruption whose texture is generated, in place of the photographs of the recipe."""
UNPLANNED, PART = "not planned", "part of the joint line"
EXPLORED = "not planned, non-inferiority"
PLACES = ("first blocks", "last blocks", "even blocks")

Given = Mapping[str, Any]
"""The records by name; "paper" has the figures of the paper."""
Pairs = Sequence[tuple[Row, Row]]
"""Networks of one seed that are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured(Difference):
    """A difference with its 95 % interval, and what a corrected decision needs."""

    of: Estimate

    def at(self, looks: int) -> Difference:
        """Return the difference with the interval corrected (Bonferroni) for the looks."""
        return self.of.difference(1 - 2 * ERROR / looks)


def measured(of: Estimate) -> Measured:
    """Return the difference that is shown and decided."""
    return Measured(**asdict(of.difference(1 - 2 * ERROR)), of=of)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: a figure of the paper and ours."""

    claim: str
    of: str
    """The networks that are compared."""
    paper: str = "-"
    ours: str = words.ABSENT
    sd: str = "-"
    """Standard deviation over paired seeds, or over rounds of a timing."""
    detectable: str = "-"
    """Minimum detectable difference at the level of this line's decision."""
    n: str = "-"
    """Paired seeds, or rounds of a timing."""
    outcome: str = words.ABSENT
    short: bool = False
    """Whether it is in the short table."""
    joint: bool = False
    """Whether it puts several lines together; only the short table has it."""


def found(
    value: Difference | None,
    outcome: str,
    note: str = "",
    unit: str = " pp",
    looks: int = 1,
    **about: Any,
) -> Finding:
    """Return the line of a difference; the note stands in brackets behind the outcome."""
    if value is None or value.mean is None:
        return Finding(**about)
    reach = None
    if isinstance(value, Measured) and value.n >= FEW:
        reach = minimum_detectable(value.of, 1 - 2 * ERROR / looks)
    sizes = [
        "-" if size is None else f"{scale(unit) * size:.2f}{unit}" for size in (value.std, reach)
    ]
    outcome = f"{outcome} ({note})" if note else outcome
    return Finding(
        **about, ours=figure(value, unit), sd=sizes[0], detectable=sizes[1], n=str(value.n),
        outcome=outcome,
    )  # fmt: skip


def scale(unit: str) -> int:
    """Return the factor from a fraction to the unit."""
    return 100 if unit else 1


def figure(value: Difference | None, unit: str = " pp") -> str:
    """Write a mean difference with its interval, if it has one."""
    if value is None or value.mean is None:
        return words.ABSENT
    text = f"{scale(unit) * value.mean:+.2f}{unit}"
    if value.low is None or value.high is None:
        return text
    return f"{text} ({scale(unit) * value.low:+.2f} to {scale(unit) * value.high:+.2f})"


def unplanned(value: Difference | None, **about: Any) -> Finding:
    """Return a line that the plan does not name: it says on which side of zero it lies."""
    return found(value, side(value), UNPLANNED, **about)


def joined(values: Mapping[str, Difference | None], outcome: str, **about: Any) -> Finding:
    """Return one line of the short table for several differences, each with a label."""
    ours = "; ".join(f"{name} {figure(value)}" for name, value in values.items())
    n = span([value.n for value in values.values() if value is not None])
    return Finding(**about, ours=ours, n=n, outcome=outcome, short=True, joint=True)


def span(numbers: Sequence[int]) -> str:
    """Write the least and the largest number.

    Example:
        >>> span([5, 3]), span([4, 4]), span([])
        ('3 to 5', '4', '-')
    """
    low, high = min(numbers, default=None), max(numbers, default=None)
    return "-" if low is None else f"{low}" if low == high else f"{low} to {high}"


def tally(outcomes: Iterable[str]) -> str:
    """Write how many have which outcome.

    Example:
        >>> tally(["lower", "lower"]), tally(["lower", "agrees", "lower"])
        ('lower', 'lower 2 of 3, agrees 1 of 3')
    """
    counts = Counter(outcomes)
    if len(counts) < 2:
        return "".join(counts)
    return ", ".join(f"{outcome} {n} of {counts.total()}" for outcome, n in counts.items())


# Decisions.


def enough(value: Difference | None) -> bool:
    """Return whether a difference has an interval over enough seeds."""
    return value is not None and value.low is not None and value.n >= FEW


def side(value: Difference | None) -> str:
    """Return on which side of zero the interval lies."""
    if not enough(value) or value.low <= 0 <= value.high:
        return OPEN
    return "above zero" if value.low > 0 else "below zero"


def above(value: Difference | None, bound: float = 0.0, least: float | None = None) -> str:
    """Decide whether a difference lies above a bound; if it lies below `least`, it does not.

    By default `least` is the bound.
    """
    if not enough(value):
        return OPEN
    if value.low > bound:
        return HOLDS
    return FAILS if value.high < (bound if least is None else least) else OPEN


def wins(one: Comparison, *, looks: int = 1) -> str:
    """Return whether a method wins, corrected (Bonferroni) for the looks at one claim."""
    p = one.p_value
    if p is None or one.failed_seeds or one.difference.n < FEW:
        return OPEN
    if looks * p < ERROR:
        return HOLDS
    return FAILS if looks * (1 - p) < ERROR else OPEN


def one_of(outcomes: Mapping[str, str]) -> str:
    """Return the joint outcome of readings of which one is enough; all must fail to fail."""
    if good := [name for name, outcome in outcomes.items() if outcome == HOLDS]:
        return HOLDS if len(good) == len(outcomes) else f"{HOLDS} ({words.listed(good)})"
    return FAILS if outcomes and set(outcomes.values()) == {FAILS} else OPEN


def all_of(outcomes: Mapping[str, str]) -> str:
    """Return the joint outcome of readings that must agree."""
    return next(iter(outcomes.values())) if len(set(outcomes.values())) == 1 else OPEN


def beside(paper: float, low: float | None, high: float | None) -> str:
    """Return whether the paper's figure is inside our interval, or on which side of it we are."""
    if low is None or high is None:
        return OPEN
    return "agrees" if low <= paper <= high else "lower" if high < paper else "higher"


def in_paper(value: float, of: str) -> str:
    """Write a figure of the paper, in percentage points."""
    return f"{value:+.2f} pp ({of})"


# One function for each claim.


def winners(given: Given) -> Iterator[Finding]:
    """(1) Networks with fewer blocks match dense; (2) a criterion finds them at initialization."""
    study: Study = given["resnet20"]
    paper = in_paper(given["paper"]["table2"]["grasp"][2], "ResNet-32, p = 3")
    tickets = readings(study, "grasp")
    looks = len(tickets)
    outcomes = {reading: wins(one, looks=looks) for reading, one in tickets.items()}
    found_here = {reading: one.difference for reading, one in tickets.items()}
    deep = [one for one in given["resnet32"].comparisons if one.kind == "ticket"]
    found_here |= {f"ResNet-32, p = {removed(one)}": one.difference for one in deep}
    outcome = f"{one_of(outcomes)}; ResNet-32 {tally(map(wins, deep))}"
    yield joined(
        found_here, outcome, claim="(1), (2) winning tickets exist and are found at initialization",
        of="GraSP - dense", paper=paper,
    )  # fmt: skip
    trained, lines = {}, {}
    for rewind in REWINDS:
        later = {name: one for name, (_, one) in after(given, rewind).items()}
        if all(one.difference.mean is None for one in later.values()):
            continue  # not measured
        won = {name: wins(one, looks=len(later)) for name, one in later.items()}
        lines[rewind] = f"{rewind}: {one_of(won)}" + (f" ({EXPLORED})" if rewind == "0" else "")
        label = "" if rewind == "0" else f" ({rewind})"
        trained |= {f"{name}{label}": one.difference for name, one in later.items()}
    yield joined(
        trained, "; ".join(lines.values()), claim="(1) winning tickets exist after training",
        of=f"p = 1, rewound to {', '.join(lines)} - dense",
        paper=in_paper(max(of[0] for of in given["paper"]["table1"].values()), "ResNet-32, best"),
    )  # fmt: skip
    exist = "(1) winning tickets exist"
    alone = single_blocks(study)
    for block, pairs in alone.items():
        value = paired(study, [[pair] for pair in pairs.values()])
        yield unplanned(value, claim=exist, of=f"ResNet-20 without {block}")
    complete = set.intersection(*map(set, alone.values())) if alone else set()
    drawn = [[pairs[seed] for pairs in alone.values()] for seed in sorted(complete)]
    of = f"ResNet-20, p = 1: random (mean of the {len(alone)} blocks)"
    yield unplanned(paired(study, drawn), claim=exist, of=of)
    yield from after_training(given, exist)
    for one in comparisons(study, "control"):
        of = f"ResNet-20 without 3 of 7 blocks: {one.method}"
        yield unplanned(to_dense(study, one), claim=exist, of=of)
    found_at, first = "(2) found at initialization", given["paper"]["table2"]["grasp"][0]
    for one in comparisons(study, "ticket"):
        about = {"claim": found_at, "of": f"ResNet-20, p = 3: {one.method}"}
        value = to_dense(study, one)
        if reading := next((name for name, own in tickets.items() if own is one), None):
            yield one_block(study, one, found_at, first)
            yield found(value, outcomes[reading], PART, looks=looks, **about, paper=paper)
        elif one.method.startswith("grasp"):
            yield unplanned(value, **about)


def after(given: Given, rewind: str) -> dict[str, tuple[Study, Comparison]]:
    """Return the tickets after training by criterion, for one point that they are rewound to."""
    study: Study = given["resnet20-after-training" if rewind == "0" else "resnet20-rewound"]
    methods = [(one.method.split(), one) for one in study.comparisons]  # lottery CRITERION REWIND
    return {name: (study, one) for (_, name, point), one in methods if point == rewind}


def after_training(given: Given, claim: str) -> Iterator[Finding]:
    """Lines of Table 1: one block less after training, rewound."""
    for at, rewind in enumerate(REWINDS):
        tickets = after(given, rewind)
        looks = len(tickets)
        for criterion, figures in given["paper"]["table1"].items():
            of = f"ResNet-20, p = 1 after training: {criterion}, rewound to {rewind}"
            about = {"claim": claim, "of": of, "paper": in_paper(figures[at], "ResNet-32")}
            if criterion not in tickets:
                yield Finding(**about)
                continue
            study, one = tickets[criterion]
            note = EXPLORED if rewind == "0" else ""
            yield found(to_dense(study, one), wins(one, looks=looks), note, looks=looks, **about)


def one_block(study: Study, one: Comparison, claim: str, paper: float) -> Finding:
    """Return the line of a criterion at p = 1: in each seed, the block with its lowest score."""
    alone, chosen = single_blocks(study), {}
    for row in study.rows:
        if row.method == one.method and row.scores:
            block = min(row.scores, key=row.scores.__getitem__)
            if row.seed in alone.get(block, {}):
                chosen[row.seed] = block
    value = paired(study, [[alone[block][seed]] for seed, block in sorted(chosen.items())])
    blocks = " or ".join(sorted(set(chosen.values()))) or "no single block was trained"
    of = f"ResNet-20, p = 1: {one.method} ({blocks})"
    return unplanned(value, claim=claim, of=of, paper=in_paper(paper, "ResNet-32"))


def deeper(given: Given) -> Iterator[Finding]:
    """(1), (2) in one setting of Table 2: ResNet-32, p = 1 and p = 5."""
    whole: Study = given["resnet32"]
    paper = given["paper"]["table2"]["grasp"]
    for study in whole.budgets:
        for one in study.comparisons:
            p = removed(one)
            of = f"ResNet-32, p = {p}, {whole.study['recipe']['epochs']} epochs: {one.method}"
            value = to_dense(study, one)
            if one.kind != "ticket":
                yield unplanned(value, claim="(1) winning tickets exist", of=of)
                continue
            said = in_paper(paper[p - 1], "ResNet-32, 200 epochs")
            yield found(value, wins(one), claim="(2) found at initialization", of=of, paper=said)
            for control in one.controls:
                value = difference(study, one.method, control.method)
                line = found(
                    value, beats(study, one.method, control, 1),
                    claim=CONTROLS[kind_of(control)][0], of=f"{of} - {control.method}",
                )  # fmt: skip
                yield beside_same(line, control)


def removed(one: Comparison) -> int:
    """Return the number of removed blocks of a budget such as "remove 3"."""
    return int(one.budget.removeprefix("remove "))


def snip(given: Given) -> Iterator[Finding]:
    """(3) SNIP loses as more blocks are removed."""
    study: Study = given["resnet20"]
    claim, paper = "(3) SNIP loses as p grows", given["paper"]["table2"]["snip"]
    said = in_paper(paper[2], "ResNet-32, p = 3")
    tickets = readings(study, "snip")
    apart = {name: difference(study, f"snip {name}", f"grasp {name}") for name in tickets}
    outcomes = {name: snip_loses(one, apart[name]) for name, one in tickets.items()}
    values = {name: one.difference for name, one in tickets.items()}
    joint = all_of(outcomes) if len(outcomes) == 2 else OPEN
    yield joined(values, joint, claim=claim, of="SNIP - dense", paper=said)
    for name, one in tickets.items():
        yield one_block(study, one, claim, paper[0])
        of = f"ResNet-20, p = 3: {one.method}"
        yield found(to_dense(study, one), outcomes[name], PART, claim=claim, of=of, paper=said)
        of = f"{of} - grasp {name}"
        yield found(apart[name], side(apart[name]), PART, claim=claim, of=of)


def snip_loses(one: Comparison, to_grasp: Difference | None) -> str:
    """Decide (3) for one reading of SNIP, as planned."""
    if wins(one) == FAILS or side(to_grasp) == "below zero":
        return HOLDS
    includes_zero = enough(to_grasp) and side(to_grasp) == OPEN
    return FAILS if wins(one) == HOLDS and includes_zero else OPEN


def filters(given: Given) -> Iterator[Finding]:
    """(4) Filter tickets hardly win where layer tickets do."""
    study: Study = given["resnet20"]
    claim, lines = "(4) filter tickets hardly win", []
    papers = {
        f"filters {name} (filters)": in_paper(of["filters"], "ResNet-32, p = 1")
        for name, of in given["paper"]["table3"].items()
    }
    tickets = {one.method: one for one in comparisons(study, "ticket")}
    for one in comparisons(study, "filters"):
        layers, value = tickets[one.reference], to_dense(study, one)
        apart = difference(study, layers.method, one.method)
        paper, note, outcome = papers.pop(one.method, "-"), UNPLANNED, side(value)
        if one.method == "filters grasp (filters)":
            values = {"layers": layers.difference, "filters": value, "layers - filters": apart}
            joint, of = filters_lose(layers, one, apart), f"{layers.method}, and as many filters"
            yield joined(values, joint, claim=claim, of=of, paper=paper)
            note, outcome = PART, wins(one)
        of = f"ResNet-20: {one.method}"
        lines.append(found(value, outcome, note, claim=claim, of=of, paper=paper))
        of = f"ResNet-20: {layers.method} - {one.method}"
        lines.append(found(apart, side(apart), note, claim=claim, of=of))
    yield from lines
    for method, paper in papers.items():
        yield Finding(claim=claim, of=f"ResNet-20: {method}", paper=paper)


def filters_lose(layers: Comparison, fewer: Comparison, apart: Difference | None) -> str:
    """Decide (4), as planned: filters can only fail to win where layers win."""
    if wins(layers) != HOLDS:
        return OPEN
    if wins(fewer) == HOLDS:
        return FAILS
    return HOLDS if side(apart) == "above zero" else OPEN


def savings(given: Given) -> Iterator[Finding]:
    """(5) Training is up to 2x faster and emits up to 51 % less CO2."""
    claim, lines, quiet = "(5) training is up to 2x faster", [], {}
    top = TABLE4["resnet56", 12]
    for row in given["table4"]["rows"]:
        paper, speed = TABLE4[row["network"], row["removed"]], row["speedup"]
        seconds = row["timing"]["seconds"]
        rounds = [d / t for d, t in zip(seconds["dense"], seconds["ticket"], strict=True)]
        of = f"{row['network']}-projection, p = {row['removed']}: step, CPU (Table 4)"
        lines.append(timed(speed, rounds, paper["speedup"], claim=claim, of=of))
        if paper is top and was_quiet(row):
            quiet["CPU, Table 4"] = lines[-1]
    for name, network, what in timings(given["speed"]):
        row, by = given["speed"][name], macs_ratio(network, 12)
        rounds = [by * value for value in row["values"]]
        of = f"{network}, p = 12: step, {what}"
        value = asdict(median_of(rounds))
        lines.append(timed(value, rounds, top["speedup"], claim=claim, of=of))
        if was_quiet(row):
            quiet[what] = lines[-1]
    yield Finding(
        claim=claim, of="ResNet-56, p = 12: training step", paper=f"{top['speedup']:.2f}x",
        ours="; ".join(f"{what} {one.ours}" for what, one in quiet.items()) or words.ABSENT,
        n=span([int(one.n) for one in quiet.values()]),
        outcome=tally(one.outcome for one in quiet.values()) or words.ABSENT,
        short=True, joint=True,
    )  # fmt: skip
    yield from lines
    for row in given["table4"]["rows"]:
        paper = TABLE4[row["network"], row["removed"]]
        ratio = row["timing"]["energy_ratio"]
        about = {
            "claim": "(5) up to 51 % less CO2", "paper": f"{paper['co2']:.1f} % less (CO2)",
            "of": f"{row['network']}-projection, p = {row['removed']}: energy from CPU time",
            "short": paper is top,
        }  # fmt: skip
        if ratio is None:
            yield Finding(**about)
            continue
        ends = [None if ratio[end] is None else 1 - ratio[end] for end in ("high", "low")]
        ours = words.saving(1 - ratio["value"])
        if None not in ends:
            ours += f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
        outcome = beside(paper["co2"] / 100, *ends)
        yield Finding(**about, ours=ours, n=str(ratio["n"]), outcome=outcome)
    for row in given["table4"]["rows"]:
        paper, saved = TABLE4[row["network"], row["removed"]], row["saved"]
        held, peak = (words.saving(saved[name]) for name in ("held_bytes", "training_memory"))
        yield Finding(
            claim="(5) less memory", paper=f"{paper['memory']:.1f} % less", n="1", outcome="-",
            of=f"{row['network']}-projection, p = {row['removed']}: held for backward; peak",
            ours=f"{held}; {peak}",
        )  # fmt: skip


def was_quiet(row: Mapping[str, Any]) -> bool:
    """Return whether other programs are known to have left the machine alone."""
    share = row.get("others_cpu_share")
    return share is not None and share <= BUSY


def timed(value: Mapping[str, Any], rounds: Sequence[float], paper: float, **about: Any) -> Finding:
    """Return the line of a speed-up."""
    low, high = value["low"], value["high"]
    ends = "" if low is None else f" ({low:.2f} to {high:.2f})"
    sd = f"{stdev(rounds):.2f}x" if len(rounds) > 1 else "-"
    return Finding(
        **about, paper=f"{paper:.2f}x", ours=f"{value['value']:.2f}x{ends}", sd=sd,
        n=str(value["n"]), outcome=beside(paper, low, high),
    )  # fmt: skip


def timings(speed: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (row, network, where) of the speed-ups of ResNet-56 without 12 blocks."""
    for name, row in speed.items():
        if "value" not in row:
            continue
        gpu = row["machine"].split(";")[0].rsplit(", ", 1)[1]
        if name == "ticket-step":
            yield name, "resnet56", "CPU"
        elif name.startswith("gpu-ticket-blocks-"):
            how = name.removeprefix("gpu-ticket-blocks-")
            yield name, "resnet56-projection", f"{gpu}, {how}"


@cache
def macs_ratio(network: str, removed: int) -> float:
    """Return MACs of a network / MACs without some of its blocks, which all have the same MACs."""
    model = build_model(network, classes=CLASSES, channels=SHAPE[0], seed=0)
    blocks = find_blocks(model, torch.zeros(1, *SHAPE))
    return blocks.macs / (blocks.macs - removed * blocks[0].macs)


def robust(given: Given) -> Iterator[Finding]:
    """(6) Tickets are more robust."""
    claim, study = "(6) more robust", given["resnet20-robustness"]
    table = given["paper"]["table5"]
    most = [values[0] for values in table.values()]
    paper = in_paper(table["resnet32, 3"][0], "ResNet-32, p = 3")
    paper += f"; Table 5: {min(most):+.2f} to {max(most):+.2f}"
    lines, short, sides = [], {}, []
    for one in comparisons(study, "ticket", "control"):
        for name, shift in one.evaluations.items():
            of, comparable = f"ResNet-20, p = 3: {one.method}, {name}", name == "cifar10-c"
            comparable = comparable and one.kind == "ticket"
            lines.append(unplanned(shift, claim=claim, of=of, paper=paper if comparable else "-"))
            fair = shift.at_equal_clean
            lines.append(unplanned(fair, claim=claim, of=f"{of}, at equal clean accuracy"))
            if comparable and one.method.startswith("grasp"):
                reading = one.method.removeprefix("grasp ")
                short |= {reading: shift, f"{reading}, at equal clean accuracy": fair}
                sides += [side(shift), side(fair)]
    of, outcome = "GraSP - dense, CIFAR-10-C (regenerated)", tally(sides)
    yield joined(short, f"{outcome} ({UNPLANNED})", claim=claim, of=of, paper=paper)
    yield from lines


def close(given: Given) -> Iterator[Finding]:
    """(7) In CKA, GraSP is closer to dense than SNIP, and layers are closer than filters."""
    study: Study = given["resnet20"]
    methods = list(networks(study))
    pairs = [
        ("(7) GraSP is closer in CKA than SNIP", "snip", "about +2 pp (p = 5)"),
        ("(7) layers are closer in CKA than filters", "filters", "above 0"),
    ]
    matched = next((one.reference for one in comparisons(study, "filters")), None)
    lines, short = [], {}
    for claim, other, paper in pairs:
        for reading in readings(study, "grasp"):
            for two in (m for m in methods if m.startswith(other)):
                of, value = f"grasp {reading} - {two}", closer(study, f"grasp {reading}", two)
                lines.append(unplanned(value, claim=claim, of=of, paper=paper))
                if two == f"snip {reading}":
                    short[reading] = value
                if (f"grasp {reading}", two) == (matched, "filters grasp (filters)"):
                    short["layers - filters"] = value
    outcome = f"{tally(map(side, short.values()))} ({UNPLANNED})"
    of, paper = "GraSP - SNIP; layers - filters", pairs[0][2]
    claim = "(7) closer in CKA: GraSP than SNIP, layers than filters"
    yield joined(short, outcome, claim=claim, of=of, paper=paper)
    yield from lines


def closer(study: Study, one: str, two: str) -> Measured | None:
    """Return the difference in CKA with dense, each seed over the layers that both networks have.

    The interval is over seeds only.
    """
    values = []
    for pair in pairs_of(study, one, two):
        if None in (of := [row.similarity for row in pair]):
            continue
        common = [layer for layer in of[0]["mean_over"] if layer in of[1]["mean_over"]]
        values.append(fmean(of[0]["layers"][at] - of[1]["layers"][at] for at in common))
    return measured(estimate(values)) if values else None


CONTROLS = {
    "place": ("(open) a criterion beats a place", "best place"),
    "chance": ("(open) a criterion beats chance", "random blocks"),
    "weights": ("(open) the weights of a ticket matter", "new weights"),
    "shallower": ("(open) a ticket beats the shallower network", "ResNet-14"),
    "equal_compute": ("(open) a ticket saves more than stopping earlier", "equal compute"),
}
"""Claims of the plan by control, and a short name of the control."""
ROWS = {
    ("place", "chance"): "(open) a criterion beats a place; beats chance",
    ("weights", "shallower", "equal_compute"): "(open) weights matter; better than the shallower "
    "network; saves more than stopping earlier",
}
"""Lines of the short table, by the controls they have."""


def left_open(given: Given) -> Iterator[Finding]:
    """Open questions: does a criterion beat position, chance and other networks?"""
    study: Study = given["resnet20"]
    best, lines = best_place(study), []
    by: dict[str, list[tuple[str, Control]]] = {key: [] for key in CONTROLS}
    for one, control in controls(study):
        key = kind_of(control)
        if key != "place" or control.method == best:
            by[key].append((one.method, control))
    outcomes, alone = (
        {
            key: {method: beats(study, method, of, looks or len(asked)) for method, of in asked}
            for key, asked in by.items()
        }
        for looks in (None, 1)
    )
    for one, control in controls(study):
        key = kind_of(control)
        about = {"claim": CONTROLS[key][0], "of": f"{one.method} - {control.method}"}
        value = difference(study, one.method, control.method)
        if control.same_seeds and not control.difference.n:
            outcome = f"the same as the {'rule' if key == 'place' else 'control'}"
            lines.append(beside_same(Finding(**about, ours="", outcome=outcome), control))
        elif key == "place" and control.method != best:
            lines.append(unplanned(value, **about))
        else:
            outcome = outcomes[key][one.method]
            one_look = alone[key][one.method]
            note = PART if one_look == outcome else f"{PART}; {one_look} alone"
            line = found(value, outcome, note, looks=len(by[key]), **about)
            lines.append(beside_same(line, control))
    yield from (summary(claim, keys, by, outcomes, alone, best) for keys, claim in ROWS.items())
    yield from lines
    worth = block_worth(study.rows, test_images=study.test_images)
    for ranked in rank_agreement(study.rows, worth) if len(worth) > 1 else ():
        about = {"claim": "(open) scores rank blocks by worth", "of": f"tau, {ranked.method}"}
        if ranked.method in study.methods:
            yield found(ranked.tau, above(ranked.tau, least=0.3), unit="", **about)
        elif ranked.tau.low is None:  # its interval would not cover what it says
            yield found(ranked.tau, "-", unit="", **about)
        else:
            yield unplanned(ranked.tau, unit="", **about)


def beside_same(line: Finding, control: Control) -> Finding:
    """Return the line with the number of seeds in which both are the same network."""
    if not control.same_seeds:
        return line
    alike = f"the same network in {len(control.same_seeds)} of {control.n} seeds"
    return replace(line, ours=f"{line.ours}; {alike}" if line.ours else alike)


def beats(study: Study, method: str, control: Control, looks: int) -> str:
    """Decide whether a ticket is better than a control, corrected (Bonferroni) for the looks.

    The same network in every seed is never better.
    """
    if control.failed_seeds:
        return OPEN
    if control.same_seeds and not control.difference.n:
        return FAILS
    value = difference(study, method, control.method)
    return OPEN if value is None else above(value.at(looks), least=GAIN)


def kind_of(control: Control) -> str:
    """Return the key of a control in `CONTROLS`."""
    if control.kind == "control":
        return "place" if control.method in PLACES else "chance"
    return "weights" if control.kind == "ticket" else control.kind


def best_place(study: Study) -> str:
    """Return the rule of place with the highest mean accuracy."""
    means = {
        method: fmean(row.test_accuracy for row in by.values())
        for method, by in networks(study).items()
        if method in PLACES
    }
    return max(means, key=means.__getitem__, default="")


def summary(
    claim: str,
    keys: Sequence[str],
    by: Mapping[str, Sequence[tuple[str, Control]]],
    outcomes: Mapping[str, Mapping[str, str]],
    alone: Mapping[str, Mapping[str, str]],
    best: str,
) -> Finding:
    """Return a line of the short table: the joint outcomes, and the means of all tickets."""
    said, joint, counts = [], [], []
    for key in keys:
        prefix = f"{CONTROLS[key][1]}: " if len(keys) > 1 else ""
        texts = [
            f"{method} {100 * control.difference.mean:+.2f} pp"
            if control.difference.mean is not None
            else f"{method} the same network"
            for method, control in by[key]
        ]
        counts += [control.difference.n for _, control in by[key] if control.difference.n]
        said.append(prefix + (", ".join(texts) or words.ABSENT))
        found, plain = one_of(outcomes[key]), one_of(alone[key])
        note = "" if found == plain else f", uncorrected {plain}"
        joint.append(prefix + (found + note if by[key] else words.ABSENT))
    names = [best if key == "place" else CONTROLS[key][1] for key in keys]
    return Finding(
        claim=claim, of=f"tickets - {words.listed(names)}",
        ours="; ".join(said), n=span(counts), outcome="; ".join(joint), short=True, joint=True,
    )  # fmt: skip


CLAIMS = (winners, deeper, snip, filters, savings, robust, close, left_open)


def comparisons(study: Study, *kinds: str) -> list[Comparison]:
    """Return the comparisons of these kinds, without those of single removed blocks."""
    return [one for one in study.comparisons if one.kind in kinds and one.budget != "remove 1"]


def controls(study: Study) -> Iterator[tuple[Comparison, Any]]:
    """Yield pairs of a criterion's ticket and a control that was compared with it."""
    for one in comparisons(study, "ticket"):
        if one.role == "criterion":
            for control in one.controls:
                yield one, control


def readings(study: Study, criterion: str) -> dict[str, Comparison]:
    """Return the tickets of a criterion by how weights are reduced: sum and mean."""
    return {
        one.method.removeprefix(f"{criterion} "): one
        for one in comparisons(study, "ticket")
        if one.role == "criterion" and one.method.startswith(f"{criterion} ")
    }


def networks(study: Study) -> dict[str, dict[int, Row]]:
    """Return method -> seed -> tested row, of methods with one network per seed."""
    by: dict[str, dict[int, Row]] = {}
    for row in study.rows:
        if row.is_tested and not row.draw and not row.is_single_block:
            by.setdefault(row.method, {})[row.seed] = row
    return by


def pairs_of(study: Study, one: str, two: str) -> list[tuple[Row, Row]]:
    """Return the rows of two methods by seed, where they are different networks."""
    first, second = (networks(study).get(method, {}) for method in (one, two))
    both = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
    return [
        pair for pair in both if pair[0].training is None or pair[0].training != pair[1].training
    ]


def difference(study: Study, one: str, two: str) -> Measured | None:
    """Return the difference in accuracy of two methods."""
    return paired(study, [[pair] for pair in pairs_of(study, one, two)])


def to_dense(study: Study, one: Comparison) -> Measured | None:
    """Return the difference of a method to dense."""
    return difference(study, one.method, "dense")


def single_blocks(study: Study) -> dict[str, dict[int, tuple[Row, Row]]]:
    """Return block -> seed -> (network without this block, dense network)."""
    by: dict[str, dict[int, tuple[Row, Row]]] = {}
    dense = networks(study).get("dense", {})
    for row in study.rows:
        if row.is_single_block and row.is_tested and row.seed in dense:
            by.setdefault(row.removed[0], {})[row.seed] = row, dense[row.seed]
    return by


def paired(study: Study, seeds: Sequence[Pairs]) -> Measured | None:
    """Return the mean difference in accuracy, over seeds and recorded test images.

    There is one entry per seed; the differences of its pairs are averaged.
    """
    if not seeds:
        return None
    images = study.test_images
    values = [round(fmean(a.test_accuracy - b.test_accuracy for a, b in of), 12) for of in seeds]
    resolution = 1 / images if images else 0.0
    if images is None or any(row.correct is None for of in seeds for pair in of for row in pair):
        return measured(estimate(values, resolution=resolution))

    def bits(row: Row) -> np.ndarray:
        return unpack_correct(row.correct, images).astype(float)

    table = np.stack([np.mean([bits(a) - bits(b) for a, b in of], axis=0) for of in seeds])
    return measured(estimate(values, resolution=resolution, table=table))


# The page.

TEXT = """\
# The paper's claims and our results

The claims of [When Layers Play the Lottery](https://arxiv.org/abs/2301.10835), compared with our
measurements.

- *holds*, *does not hold*, *undecided*: the claim has a test in `studies/resnet20.md`,
  `studies/resnet32.md` or `studies/resnet20-rewound.toml`, which were written before the first
  runs. It is decided at one-sided 2.5 %, for new seeds and, if the records allow it, new test
  images; against dense the test is non-inferiority at {margin}.
- *part of the joint line*: the plan decides several figures together; their joint line is in the
  short table.
- *not planned*: the plan has no test. *Above zero* and *below zero* say where the 95 % interval
  lies; *undecided*: it contains zero. There are {unplanned} such lines, without correction for so
  many.
- *not planned, non-inferiority*: the plan has no test; the line is tested against dense like a
  planned one, with the error shared by the methods of that table.
- *agrees*, *lower*, *higher*, only in (5): the paper's figure is inside our interval, or our
  interval is below it, or above it. A wide interval agrees with many figures.
- *Holds alone*, *uncorrected*: the outcome by the plan's rule, where the correction for several
  tickets changes it.
- *the same as the rule*: the criterion and the rule of place remove the same blocks in every seed,
  so it does not beat the rule.
- *Detectable* is the minimum detectable difference: the distance from the bound of the test (the
  margin against dense where a test is planned, else zero) that these seeds find with 80 % power.
  The error is that of the line's decision, corrected where its joint line is; lines without a test
  have one-sided 2.5 %. It is computed for clean accuracies and CKA, from {few} seeds on.

"2 of 4" counts measurements. With fewer than {few} seeds every result is undecided.

```bash
python benchmarks/reproduction.py   # from the records in docs/results
```

{studies}

The networks of ResNet-20 were also tested [after training](resnet20-after-training.md) and on
[other images](resnet20-robustness.md). Costs are from [Table 4](table4.md) and
[speed](speed.md). The paper trained ResNet-32 and ResNet-56 for 200 epochs; our
decisions are for as few epochs as stated.
"""

INTERIM = """\
**Not all planned runs are done.** Lines with fewer seeds than planned are not corrected for looking
early.
"""

SHORT = """\
p is the number of removed blocks. Where a line names no network: ResNet-20, p = 3 of 7. Lines that
list several tickets against one control show means only; their intervals and standard deviations
(SD) are below. *Best place*: of first, last and even blocks.
"""

NOTES = """\
## What this shows, and what it does not
"""

BULLETS = """\
- (1), (2): by the plan, GraSP with `sum` or with `mean` is enough, each at half of the 2.5 % (two
  looks). *Holds* means that the accuracy is less than {margin} below dense; it does not mean that
  it equals dense, nor that another choice of blocks is worse.
- (3): by the plan, both readings of SNIP must agree. Each is compared with GraSP of the same
  reading; this choice was not in the plan. A reading *holds* if one of two tests at 2.5 % says so.
  "As p grows" is tested at p = 1 and p = 3 only.
- p = 1, of GraSP and SNIP: in each seed the network without the block of the lowest score, which
  the line names; these networks are those of the lines "without" in (1). Random at p = 1: the mean
  of all of them in each seed, which is what one random draw gives on average.
- ResNet-32: by its plan, p = 1 and p = 5 are decided apart and without correction for two looks.
- After training: the trained dense network is scored, and one block is removed. [Rewound to
  0](resnet20-after-training.md), the networks are those "without" one block; their accuracies were
  known before, so nothing was planned. [Rewound later](resnet20-rewound.md), the two criteria were
  chosen because they hold at 0 on five seeds; the three seeds are among them. Each epoch is decided
  apart, with the error shared by the two criteria and without correction for several epochs.
- (4): by the plan, filters can decide the claim only where layers win. Filters are matched to the
  ticket of {reference} in number (`filters`) or in MACs (`macs`); the other tickets have no filters
  of their own.
- (5): dense network and ticket take turns; a ratio is of one round, and n is the number of rounds.
  "(Table 4)" is from [Table 4](table4.md); the other lines are figures of [speed](speed.md) times
  the ratio of MACs, which is counted. For Table 4, {busy} {waiting} The short table has speed-ups
  only from machines that are known to have been quiet. On CPUs the 12 blocks are those of GraSP
  (Table 4 keeps the neighbours of down-samplings), on the GPU those of SNIP, and the time of a step
  depends on the stage they are taken from. The paper's CO2 figures may be rounded by
  up to 3.6 points for ResNet-32 and 2.1 for ResNet-56 ([Table 4](table4.md)), which the outcomes do
  not allow for: then only p = 12 of ResNet-56 is above the paper. Energy is computed from CPU time
  and a stated power, not read from a meter; carbon is energy times a constant, so its saving is the
  same. Memory held for the backward pass is counted, its peak in training is one reading; both
  depend on which blocks are removed, and the paper does not say what it measured.
- (6): {robust} The paper's figures are for CIFAR-10-C, without correction for clean accuracy; it
  has none for attacks and random blocks. *At equal clean accuracy*: less what the difference in
  clean accuracy explains. CIFAR-10.2 was not available.
- (7): linear CKA with the dense network of the same seed on {cka} test images. Two networks are
  compared in each seed over the layers that both have. The interval is over seeds only, not over
  images.
- Open questions: by the plan, one ticket that beats a control is enough. The question fails if no
  ticket gains {gain} or more. Each of the k tickets that have the control has a k-th of the 2.5 %
  (Bonferroni), so the corrected interval is wider than the one shown; the plan has no such
  correction. A ticket that is the same
  network as the control in every seed counts as one that does not beat it. The best place is the
  one with the highest mean accuracy here, {best}. For the ranking by worth, each tau stands alone,
  without correction.
"""


def bullets(text: str) -> str:
    """Wrap the lines of a list."""
    points = [" ".join(one.split()) for one in f"\n{text}".split("\n- ")[1:]]
    fill = TextWrapper(
        width=100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    ).fill
    return "\n".join(map(fill, points))


def robustness_text(given: Given) -> str:
    """Write how robustness was measured, from the records."""
    study: Study = given["resnet20-robustness"]
    row = next(row for row in study.rows if row.evaluations)
    shifted, fgsm, pgd = (row.evaluations[name] for name in ("cifar10-c", "fgsm", "pgd"))
    settings = shifted["settings"]
    frost = "photographs" if settings["frost_photographs"] else "a generated texture"
    tested = readings(study, "grasp")
    means = {
        name: one.difference.mean for name, one in readings(given["resnet20"], "grasp").items()
    }
    best = max(means, key=means.__getitem__)
    why = "" if best in tested else (
        f" `{best}` has the higher accuracy, but the study of robustness has only the reading that "
        "the controls are matched to."
    )  # fmt: skip
    names = words.listed([f"`{name}`" for name in tested])
    return (
        f"GraSP was tested with {names}.{why} CIFAR-10-C is regenerated by the recipe from "
        f"{shifted['images']:,} images of {settings['made_from']}: "
        f"{len(settings['corruptions'])} corruptions, {len(shifted['severities'])} severities, "
        f"frost with {frost}, {shifted['precision']}. {without_frost(study)}FGSM and PGD "
        f"({pgd['settings']['steps']} steps) change {fgsm['images']:,} images by at most "
        f"{fgsm['epsilon_255']:g}/255, in {fgsm['precision']}."
    )


def without_frost(study: Study) -> str:
    """Write the differences over the corruptions that follow the recipe, where frost does not."""

    def mean(row: Row) -> float:
        of = row.evaluations["cifar10-c"]["corruptions"]
        return fmean(one["accuracy"] for name, one in of.items() if name != FROST)

    made = next(row for row in study.rows if row.evaluations).evaluations["cifar10-c"]
    if FROST not in made["corruptions"]:
        return ""
    texts = []
    for one in comparisons(study, "ticket"):
        pairs = [
            pair
            for pair in pairs_of(study, one.method, "dense")
            if all("cifar10-c" in row.evaluations for row in pair)
        ]
        value = measured(estimate([mean(a) - mean(b) for a, b in pairs])) if pairs else None
        texts.append(f"{one.method} {figure(value)}")
    return (
        f"That frost is not the recipe's; over the other "
        f"{len(made['corruptions']) - 1} corruptions the "
        f"differences to dense are {words.listed(texts)}, with intervals over seeds only. "
    )


def waiting_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write which share of their time the steps waited for data."""
    shares = [share for row in rows for share in row["timing"]["data_wait_share"].values()]
    low, high = (f"{100 * end:.1f}" for end in (min(shares), max(shares)))
    return f"Its steps waited for data {low} to {high} % of their time."


def study_text(name: str, study: Study) -> str:
    """Write how and where a study was run, and how much of it is done."""
    done, where = sum(row.is_tested for row in study.rows), machines_text(study) or "nothing yet"
    title = name.replace("resnet", "ResNet-").replace("-rewound", ", rewound")
    return bullets(
        f"- {title}: `{study.command}`; {study.data}, {study.test_images:,} test images, "
        f"{study.study['recipe']['epochs']} epochs; trained on {where}. "
        f"**{done} of its {len(study.rows)} runs are done**; "
        f"[its page]({name}.md#conditions) has all versions."
    )


def machines_text(study: Study) -> str:
    """Write on which machines which seeds were trained."""
    places = []
    for one in study.environments:
        if one["task"] == "training":
            where, seeds = one["environment"], words.listed(one["seeds"])
            machine = f"{where['gpu'] or where['cpu']}, PyTorch {where['torch']}"
            places.append(f"{machine} ({'seed' if len(one['seeds']) == 1 else 'seeds'} {seeds})")
    return words.listed(places)


def page(given: Given, findings: Sequence[Finding]) -> str:
    """Return the page as Markdown."""
    study: Study = given["resnet20"]
    trained = {name: given[name] for name in TRAINED}
    busy = busy_text(given["table4"]["rows"])
    facts = {
        "studies": "\n".join(study_text(*of) for of in trained.items()),
        "margin": words.points(study.margin), "gain": words.points(GAIN), "few": FEW,
        "busy": busy[0].lower() + busy[1:],
        "waiting": waiting_text(given["table4"]["rows"]),
        "unplanned": sum(
            UNPLANNED in one.outcome and EXPLORED not in one.outcome and not one.joint
            for one in findings
        ),
        "reference": next((one.reference for one in comparisons(study, "filters")), "GraSP"),
        "robust": robustness_text(given), "best": best_place(study),
        "cka": next(row.similarity["images"] for row in study.rows if row.similarity),
    }  # fmt: skip
    interim = "" if all(row.is_tested for one in trained.values() for row in one.rows) else INTERIM
    parts = [
        TEXT.format(**facts), interim, "## In short", SHORT, short_table(findings), "## All lines",
        long_table(findings), NOTES, bullets(BULLETS.format(**facts)),
    ]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def short_table(findings: Sequence[Finding]) -> str:
    """Return the table of the most important lines."""
    header = ["claim", "of", "paper", "here (95 % interval)", "n", "outcome"]
    cells = [(f.claim, f.of, f.paper, f.ours, f.n, f.outcome) for f in findings if f.short]
    return markdown((header, cells)).strip()


def long_table(findings: Sequence[Finding]) -> str:
    """Return the table of all single lines."""
    header = ["claim", "of", "paper", "here (95 % interval)", "SD", "detectable", "n", "outcome"]
    cells = [
        (f.claim, f.of, f.paper, f.ours, f.sd, f.detectable, f.n, f.outcome)
        for f in findings
        if not f.joint
    ]
    return markdown((header, cells)).strip()


def read() -> dict[str, Any]:
    """Read the records."""
    given: dict[str, Any] = {
        name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("table4", "speed", *STUDIES)
    }
    given["speed"] = given["speed"]["rows"]
    for name in STUDIES:
        given[name] = Study.from_record(given[name])
    given["paper"] = tomllib.loads((RESULTS / "paper.toml").read_text(encoding="utf-8"))
    return given


def main() -> None:
    """Write the page, and the table in the README."""
    given = read()
    findings = [one for claim in CLAIMS for one in claim(given)]
    (RESULTS / "reproduction.md").write_text(page(given, findings), encoding="utf-8")
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1], 1)[1]
    text = f"{before}{MARKS[0]}\n{short_table(findings)}\n{MARKS[1]}{after}"
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
