"""Compare the paper's claims with our results: write reproduction.md and a table in README.md.

``python benchmarks/reproduction.py`` reads the records in docs/results. Every figure comes from a
record; a missing one is "not measured".
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from layerticket.report.tables import Study, markdown
from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison
from layerticket.verdict.statistics import Difference, estimate
from layerticket.verdict.worth import block_worth, rank_agreement
from table4 import PAPER as TABLE4

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MARKS = "<!-- from docs/results/reproduction.md -->", "<!-- end -->"
FEW = 3
"""Results from fewer seeds are undecided."""
ERROR = 0.025
"""One-sided error of a decision."""
GAIN = 0.003
"""A gain of accuracy below this counts as none."""
NO_TEST = "no test planned"

Given = Mapping[str, Any]
"""The records by name; "paper" has the figures of the paper."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: a figure of the paper and ours."""

    claim: str
    of: str
    """The networks that are compared."""
    paper: str = "-"
    ours: str = words.ABSENT
    n: int | None = None
    """Paired seeds, or rounds of a timing."""
    outcome: str = words.ABSENT
    """holds, does not hold, undecided, or not measured."""
    short: bool = False
    """Whether it is in the short table."""


def found(value: Difference | None, outcome: str, unit: str = " pp", **about: Any) -> Finding:
    """Return the line of a difference."""
    if value is None or value.mean is None:
        return Finding(**about)
    scale = 100 if unit else 1
    ours = f"{scale * value.mean:+.2f}{unit}"
    if value.low is not None and value.high is not None:
        ours += f" ({scale * value.low:+.2f} to {scale * value.high:+.2f})"
    decided = outcome if value.n >= FEW else "undecided"
    return Finding(**about, ours=ours, n=value.n, outcome=decided)


def above(value: Difference | None, bound: float = 0.0, least: float | None = None) -> str:
    """Decide whether a difference lies above a bound; if it lies below `least`, it does not.

    By default `least` is the bound.
    """
    if value is None or value.low is None or value.high is None:
        return "undecided"
    if value.low > bound:
        return "holds"
    return "does not hold" if value.high < (bound if least is None else least) else "undecided"


def wins(one: Comparison, *, looks: int = 1) -> str:
    """Return whether a method wins, corrected (Bonferroni) for the looks at one claim."""
    p = one.p_value
    if p is None or one.failed_seeds:
        return "undecided"
    if looks * p < ERROR:
        return "holds"
    return "does not hold" if looks * (1 - p) < ERROR else "undecided"


def in_paper(value: float, of: str) -> str:
    """Write a figure of the paper, in percentage points."""
    return f"{value:+.2f} pp ({of})"


# One function for each claim.


def winners(given: Given) -> Iterator[Finding]:
    """(1) Networks with fewer blocks match dense; (2) a criterion finds them at initialization."""
    study: Study = given["resnet20"]
    exist = "(1) winning tickets exist"
    for one in block_worth(study.rows, test_images=study.test_images):
        lost = negated(one.worth)
        of = f"ResNet-20 without {one.block}"
        yield found(lost, NO_TEST, claim=exist, of=of)
    for cell in given["table1"]["cells"]:
        if cell["rewind"] == "0":
            value = Difference(mean=cell["mean"], low=cell["low"], high=cell["high"], n=cell["n"])
            paper = given["paper"]["table1"][cell["criterion"]][0]
            of = f"ResNet-20 without 1 block after training, {cell['criterion']}, rewound to 0"
            yield found(value, "undecided", claim=exist, of=of, paper=in_paper(paper, "ResNet-32"))
    paper = in_paper(given["paper"]["table2"]["grasp"][2], "ResNet-32, p = 3")
    for one in comparisons(study, "control"):
        short = one.method == "random blocks"
        of = f"ResNet-20 without 3 of 7 blocks: {one.method}"
        yield found(one.difference, NO_TEST, claim=exist, of=of, short=short)
    for one in comparisons(study, "ticket"):
        if "grasp" in one.method:
            claim, of = "(2) found at initialization", f"ResNet-20, p = 3: {one.method}"
            short = "weights" not in one.method
            result = wins(one, looks=2) if short else NO_TEST
            yield found(one.difference, result, claim=claim, of=of, paper=paper, short=short)


def snip(given: Given) -> Iterator[Finding]:
    """(3) SNIP loses as more blocks are removed."""
    study: Study = given["resnet20"]
    claim, paper = "(3) SNIP loses as p grows", given["paper"]["table2"]["snip"]
    worth = {one.block: one.worth for one in block_worth(study.rows, test_images=study.test_images)}
    by, said = accuracies(study), in_paper(paper[2], "ResNet-32")
    readings = []
    for one in comparisons(study, "ticket"):
        if "snip" not in one.method:
            continue
        scores = [row.scores for row in study.rows if row.method == one.method and row.scores]
        for block in sorted({min(own, key=own.__getitem__) for own in scores} & worth.keys()):
            of, first = f"ResNet-20, p = 1: {one.method} ({block})", in_paper(paper[0], "ResNet-32")
            yield found(negated(worth[block]), NO_TEST, claim=claim, of=of, paper=first)
        to_grasp = paired(by[one.method], by[one.method.replace("snip", "grasp")])
        readings.append(snip_loses(one, to_grasp, study.margin))
        of = f"ResNet-20, p = 3: {one.method}"
        yield found(one.difference, readings[-1], claim=claim, of=of, paper=said, short=True)
        of = f"{of}, minus GraSP of the same reading (over seeds)"
        yield found(to_grasp, NO_TEST, claim=claim, of=of)
    if readings:
        same = readings[0] if len(set(readings)) == 1 else "undecided"
        ours, of = " and ".join(readings), "ResNet-20, p = 3: both readings of SNIP"
        yield Finding(claim=claim, of=of, paper=said, ours=ours, outcome=same)


def snip_loses(one: Comparison, to_grasp: Difference | None, margin: float) -> str:
    """Decide (3) for one reading of SNIP, as planned."""
    behind = to_grasp is not None and to_grasp.high is not None and to_grasp.high < 0
    high = one.difference.high
    if behind or (high is not None and high < -margin):
        return "holds"
    return "does not hold" if wins(one) == "holds" else "undecided"


def filters(given: Given) -> Iterator[Finding]:
    """(4) Filter tickets hardly win where layer tickets do."""
    study: Study = given["resnet20"]
    paper = in_paper(given["paper"]["table3"]["grasp"]["filters"], "GraSP, ResNet-32, p = 1")
    claim = "(4) filter tickets hardly win"
    methods = {one.method: one for one in comparisons(study, "ticket", "filters")}
    layers = methods.get("grasp sum")
    beside = {} if layers is None else {control.name: control for control in layers.controls}
    for one in comparisons(study, "filters"):
        of, planned = f"ResNet-20: {one.method}", one.method.endswith("(filters)")
        control = next((c for c in beside.values() if c.method == one.method), None)
        outcome = NO_TEST
        if planned and layers is not None:
            gain = above(None if control is None else control.difference)
            outcome = "undecided"
            if wins(one) == "holds":
                outcome = "does not hold"
            elif wins(layers) == gain == "holds":
                outcome = "holds"
        yield found(one.difference, outcome, claim=claim, of=of, paper=paper, short=planned)
        if control is not None:
            of = f"{layers.method} - {control.method}"
            yield found(control.difference, NO_TEST, claim=claim, of=of)


def savings(given: Given) -> Iterator[Finding]:
    """(5) Training is up to 2x faster and emits up to 51 % less CO2."""
    for row in given["table4"]["rows"]:
        paper = TABLE4[row["network"], row["removed"]]
        speed, energy, n = row["speedup"], row["saved"]["energy"], row["speedup"]["n"]
        place, short = f"{row['network']}, p = {row['removed']}", row["removed"] == 12
        ours = f"{speed['value']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"
        within = speed["low"] <= paper["speedup"] <= speed["high"]
        outcome = "holds" if within or speed["low"] > paper["speedup"] else "does not hold"
        yield Finding(
            claim="(5) training is faster", of=f"{place}: speed-up of a training step",
            paper=f"{paper['speedup']:.2f}x", ours=ours, n=n, outcome=outcome, short=short,
        )  # fmt: skip
        yield Finding(
            claim="(5) less energy and CO2", of=f"{place}: energy derived from CPU time",
            paper=f"{paper['co2']:.1f} % less (CO2)", ours=words.saving(energy), n=n,
            outcome="no interval", short=short,
        )  # fmt: skip


def robust(given: Given) -> Iterator[Finding]:
    """(6) Tickets are more robust."""
    paper = in_paper(given["paper"]["table5"]["resnet32, 3"][0], "ResNet-32, p = 3, CIFAR-C")
    about = {"claim": "(6) more robust", "paper": paper}
    for one in comparisons(given["resnet20-robustness"], "ticket", "control"):
        for name, shift in one.evaluations.items():
            of, short = f"ResNet-20, p = 3: {one.method}, {name}", name == "cifar10-c"
            yield found(shift, above(shift), **about, of=of, short=short)
            fair = shift.at_equal_clean
            equal = "undecided" if fair is None else above(fair)
            yield found(fair, equal, **about, of=f"{of}, at equal clean accuracy")


def close(given: Given) -> Iterator[Finding]:
    """(7) In CKA, GraSP is closer to dense than SNIP, and layers are closer than filters."""
    by = similarities(given["resnet20"])
    pairs = [
        ("(7) GraSP is closer in CKA than SNIP", "snip", "about +2 pp (p = 5)"),
        ("(7) layers are closer in CKA than filters", "filters", "above 0"),
    ]
    for claim, other, paper in pairs:
        for one in (m for m in by if m in ("grasp sum", "grasp mean")):
            for two in (m for m in by if m.startswith(other)):
                value = paired(by[one], by[two])
                yield found(value, above(value), claim=claim, of=f"{one} - {two}", paper=paper)


def left_open(given: Given) -> Iterator[Finding]:
    """Open questions: does a criterion beat position, chance and other networks?"""
    study: Study = given["resnet20"]
    means = {method: fmean(by.values()) for method, by in accuracies(study).items()}
    places = [f"{place} blocks" for place in ("first", "last", "even")]
    best = max((place for place in places if place in means), key=means.__getitem__, default="")
    for one, control in controls(study):
        if control.kind != "filters":
            claim, of = "(open) better than a control", f"{one.method} - {control.method}"
            short = control.method in ("random blocks", best)
            short = short and one.method in ("grasp mean", "snip sum")
            value, planned = control.difference, control.method not in places
            outcome = above(value, least=GAIN) if planned or control.method == best else NO_TEST
            line = found(value, outcome, claim=claim, of=of, short=short)
            if not value.n and control.same_seeds:
                same = f"the same network in {len(control.same_seeds)} of {control.n} seeds"
                line = replace(line, ours=same, outcome="undecided")
            yield line
    worth = block_worth(study.rows, test_images=study.test_images)
    for ranked in rank_agreement(study.rows, worth) if len(worth) > 1 else ():
        about = {"claim": "(open) scores rank blocks by worth", "of": f"tau, {ranked.method}"}
        yield found(ranked.tau, above(ranked.tau, least=0.3), "", **about)


CLAIMS = (winners, snip, filters, savings, robust, close, left_open)


def comparisons(study: Study, *kinds: str) -> list[Comparison]:
    """Return the comparisons of these kinds, without those of single removed blocks."""
    return [one for one in study.comparisons if one.kind in kinds and one.budget != "remove 1"]


def controls(study: Study) -> Iterator[tuple[Comparison, Any]]:
    """Yield pairs of a criterion's ticket and a control that was compared with it."""
    for one in comparisons(study, "ticket"):
        if one.role == "criterion":
            for control in one.controls:
                yield one, control


def negated(value: Difference) -> Difference:
    """Return the difference with the opposite sign."""
    mean, low, high = (None if end is None else -end for end in (value.mean, value.high, value.low))
    return Difference(mean=mean, std=value.std, low=low, high=high, n=value.n, over=value.over)


def accuracies(study: Study) -> dict[str, dict[int, float]]:
    """Return method -> seed -> test accuracy, of methods with one network per seed."""
    by: dict[str, dict[int, float]] = {}
    for row in study.rows:
        if row.test_accuracy is not None and not row.method.startswith("each"):
            by.setdefault(row.method, {})[row.seed] = row.test_accuracy
    return by


def similarities(study: Study) -> dict[str, dict[int, float]]:
    """Return method -> seed -> mean CKA with dense, over the layers that both networks have."""
    by: dict[str, dict[int, float]] = {}
    for row in study.rows:
        mean = row.similarity and row.similarity.get("mean")
        if mean is not None and (row.role != "baseline" or row.kind == "filters"):
            by.setdefault(row.method, {}).setdefault(row.seed, mean)
    return by


def paired(one: Mapping[int, float], two: Mapping[int, float]) -> Difference | None:
    """Return the difference over the common seeds; None if there are none."""
    both = sorted(one.keys() & two.keys())
    return estimate([one[s] - two[s] for s in both]).difference(0.95) if both else None


# The page.

TEXT = """\
# The paper's claims and our results

The claims of [When Layers Play the Lottery](https://arxiv.org/abs/2301.10835), compared with our
measurements. *Holds* and *does not hold* are decided at one-sided 2.5 %, for new seeds and, if the
records allow it, new test images; against dense the test is non-inferiority at {margin}. The
results that would decide each claim were fixed before the first run, in `studies/resnet20.md`: the
two readings of GraSP are corrected for two looks, the other lines stand alone; for lines of (1) to
(4) that the plan does not name, no test was planned. (6) and (7) are decided by the side of zero on
which their interval lies. With fewer than {few} seeds every result is undecided.

```bash
python benchmarks/reproduction.py   # from the records in docs/results
```

ResNet-20: `{command}`; {data}, {images:,} test images, {epochs} epochs; {gpu}, PyTorch {torch};
**{done} of its {rows} runs are done** ([page](resnet20.md)). Other rows: [Table 1](table1.md),
[Table 4](table4.md), [robustness](resnet20-robustness.md). The paper trained ResNet-32 and
ResNet-56 for 200 epochs; our decisions are for ResNet-20 and {epochs} epochs only.
"""

INTERIM = """\
**The plan has more seeds than are done.** Results before its end are not corrected for looking
early.
"""

NOTES = """\
## What this shows, and what it does not

- (2): *holds* means that the accuracy is less than {margin} below dense; it does not mean that it
  equals dense, nor that another choice of blocks is worse. Rows without an interval have one seed.
- (3): for one block, the block with the lowest SNIP score is removed; the figure is that of the row
  "without" this block in (1).
- (5): one thread, with other programs on the other core; networks take turns, and ratios are of one
  round. *Holds* means that the paper's factor is in our interval or below it. Energy is computed
  from CPU time and a stated power; carbon is energy times a constant, so its saving is the same.
- (6): corruptions are regenerated by the recipe from 2,000 JPEG images; FGSM and PGD use 1,000. At
  equal clean accuracy: less what the difference in clean accuracy explains. CIFAR-10.2 was not
  available.
- (7): linear CKA with the dense network of the same seed on test images, the mean over all layers
  that both networks have.
- Filters are matched to the layer ticket in number (`filters`) or in MACs (`macs`).
"""


def page(given: Given, findings: Sequence[Finding]) -> str:
    """Return the page as Markdown."""
    study: Study = given["resnet20"]
    facts = {
        "margin": words.points(study.margin), "few": FEW, "command": study.command,
        "data": study.data, "images": study.test_images,
        "epochs": study.study["recipe"]["epochs"],
        "gpu": study.environment["gpu"], "torch": study.environment["torch"],
        "done": sum(row.is_tested for row in study.rows), "rows": len(study.rows),
    }  # fmt: skip
    interim = INTERIM if facts["done"] < facts["rows"] else ""
    parts = [TEXT.format(**facts), interim, "## In short", short_table(findings), "## All lines",
             table(findings), NOTES.format(**facts)]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def short_table(findings: Sequence[Finding]) -> str:
    """Return the table of the most important lines."""
    return table([one for one in findings if one.short])


def table(findings: Sequence[Finding]) -> str:
    """Return lines as a Markdown table."""
    header = ["claim", "of", "paper", "here (95 % interval)", "n", "outcome"]
    cells = [
        (f.claim, f.of, f.paper, f.ours, "-" if f.n is None else str(f.n), f.outcome)
        for f in findings
    ]
    return markdown((header, cells)).strip()


def read() -> dict[str, Any]:
    """Read the records."""
    given: dict[str, Any] = {
        name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("table1", "table4", "resnet20", "resnet20-robustness")
    }
    for name in ("resnet20", "resnet20-robustness"):
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
