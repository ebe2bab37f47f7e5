"""The rows of a study, and the comparison of each method with dense, paired by seed."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layerticket.display import Shown
from layerticket.errors import LayerticketError
from layerticket.settings import Confidence, Margin, checked, restored
from layerticket.verdict import words
from layerticket.verdict.statistics import (
    Array,
    Difference,
    Estimate,
    Outcome,
    Percentile,
    estimate,
    holm,
    images_for,
    minimum_detectable,
    outcome_after,
    outcome_of,
    p_value,
    percentile,
    ratio_interval,
    seeds_for,
)

SCHEMA = 1
"""Version of study.json."""
Record = Mapping[str, Any]
Role = Literal["dense", "criterion", "control", "baseline"]
Status = Literal["done", "failed", "running", "waiting"]


def as_record(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """Return records as JSON values: a dataclass becomes an object, a tuple a list."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_record(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_record(part) for key, part in value.items()}
    return [as_record(part) for part in value] if isinstance(value, (list, tuple)) else value


def _of_record(cls: type[Any], record: object, **made: object) -> Any:  # noqa: ANN401
    """Build a dataclass from a JSON object; lists become tuples, `made` has finished fields."""
    return restored(cls, record, "an entry of study.json", made)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Row(Shown):
    """One trained network of a study; one entry of "runs" in study.json.

    Keys in the file are the names of the fields; null is "not measured". Times are in seconds,
    energy in kWh, carbon in kg CO2e, accuracies are fractions.
    """

    id: str
    model: str
    """Name of the dense network."""
    budget: str | None
    """How much is removed, for example "remove 5"; None for dense."""
    method: str
    """Label of the method; the draws of one method share it."""
    kind: str
    """Kind of the method: dense, ticket, lottery, control, filters, weights, imp, shallower, ..."""
    role: Role
    """dense, criterion, control or baseline; only criteria get a verdict."""
    reference: str | None = None
    """Label of the ticket that it is matched to, or that has the same shape."""
    draw: int | None = None
    """Number of the random draw, if any."""
    seed: int
    training: str | None = None
    """Name of its training; rows with equal names are the same network. None if not known yet."""

    status: Status = "waiting"
    error: str | None = None
    log: str | None = None
    folder: str | None = None

    test_accuracy: float | None = None
    validation_accuracy: float | None = None
    correct: str | None = None
    """Correctly classified test images: one bit per image in hexadecimal digits; the first image is
    the highest bit."""
    evaluations: Record = field(default_factory=dict)
    similarity: Record | None = None
    curve: tuple[Record, ...] = ()

    macs: int | None = None
    sparse_macs: int | None = None
    """MACs without masked weights, which dense kernels still compute."""
    params: int | None = None
    epochs: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    data_wait_share: float | None = None
    """Share of `train_seconds` in which the loop waited for its next batch."""
    energy_kwh: float | None = None
    co2_kg: float | None = None
    energy_method: str | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    precision: str | None = None
    workers: int | None = None
    """Largest number of parallel jobs of the study."""
    jobs_beside: int | None = None
    """Largest number of other jobs that ran during its training."""
    search_seconds: float | None = None
    search_energy_kwh: float | None = None
    cost: Record | None = None
    """"train_seconds", "search_seconds", "energy_kwh", "co2_kg": sums over the trainings and
    searches that the row needs, each once."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    scores: Mapping[str, float] | None = None
    match: Record | None = None
    config: Record | None = None
    repeat: str = ""
    """Command that repeats this row."""

    @classmethod
    def from_record(cls, record: Record) -> "Row":
        """Read an entry of study.json."""
        row: Row = _of_record(cls, record)
        return row

    def _headline(self) -> str:
        place = f"{self.model}, {self.budget}" if self.budget else self.model
        draw = "" if self.draw is None else f" {self.draw}"
        return f"{self.method}{draw} of {place}, seed {self.seed}: {self.status}"

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {
            "test accuracy": words.accuracy(self.test_accuracy),
            "MACs": words.millions(self.macs),
            "training": words.duration(self.train_seconds),
            "folder": self.folder or "none",
        }
        return facts if self.error is None else facts | {"error": self.error}

    @property
    def is_tested(self) -> bool:
        """Whether it was trained and tested, even if another evaluation failed."""
        return self.test_accuracy is not None

    @property
    def is_lost(self) -> bool:
        """Whether it failed before it had an accuracy."""
        return self.status == "failed" and not self.is_tested

    @property
    def is_single_block(self) -> bool:
        """Whether it is a row of control `each`, which measures the worth of one block."""
        return self.kind == "control" and self.role == "baseline"


NOTHING = Difference()


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift(Difference):
    """Difference in one evaluation, and the part that clean accuracy does not explain."""

    clean: Difference = NOTHING
    """Difference in clean accuracy, on the images of this evaluation if it gives one."""
    relative: Difference | None = None
    """Difference in shifted / clean accuracy; None if a clean accuracy is 0 or unknown."""
    at_equal_clean: Difference | None = None
    """Difference in shifted accuracy, minus the part that clean accuracy explains."""


Answer = Literal["control better", "as good", "ticket better", "not shown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """Comparison of a ticket with a control of equal cost; differences are ticket minus control."""

    method: str
    name: str
    """Name of the control in sentences."""
    kind: str
    n: int
    """Seeds that both have, including those with the same network."""
    same_seeds: tuple[int, ...]
    """Seeds where both are the same network."""
    difference: Difference
    """Difference over the seeds where the networks differ."""
    average_effect: float | None
    """Mean over all seeds, 0 where both are the same network; None if there is no such seed."""
    outcome: Answer
    minimum_detectable: float | None
    """True difference from 0 that these seeds find with 80 % power; None for one seed."""
    failed_seeds: tuple[int, ...]
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Comparison(Shown):
    """One method of a study against dense; an entry of "comparisons" in study.json.

    Differences are method minus dense, as fractions. Shares saved are 1 - method / dense.
    """

    model: str
    budget: str
    method: str
    kind: str
    role: Role
    reference: str | None
    n: int
    """Paired seeds, including those with the same network."""
    seeds: tuple[int, ...]
    same_seeds: tuple[int, ...] = ()
    """Seeds where the method is the dense network itself: no evidence."""
    failed_seeds: tuple[int, ...] = ()
    accuracy: Mapping[str, float | None] = field(default_factory=dict)
    dense_accuracy: Mapping[str, float | None] = field(default_factory=dict)

    difference: Difference = NOTHING
    average_effect: float | None = None
    """Mean over all seeds, 0 where both are the same network; None if there is no such seed."""
    outcome: Outcome = "undecided"
    p_value: float | None = None
    p_adjusted: float | None = None
    comparisons: int = 0
    """Number of comparisons that the correction is for."""
    outcome_adjusted: Outcome = "undecided"
    spread: float | None = None
    seeds_needed: int | None = None
    """Total seeds that would decide with 80 % power; None if decided or no number would."""
    images_needed: int | None = None
    """Minimum number of test images, where no number of seeds decides."""
    minimum_detectable: float | None = None
    caution: str | None = None
    """Caution about a decided outcome."""

    macs_saving: float | None = None
    params_saving: float | None = None
    speedup: Mapping[str, float | None] = field(default_factory=dict)
    data_wait_share: float | None = None
    """Mean share of the training time in which dense or the method, whichever is higher, waited
    for data."""
    memory_saving: float | None = None
    energy_saving: float | None = None
    co2_saving: float | None = None

    evaluations: Mapping[str, Shift] = field(default_factory=dict)
    similarity: float | None = None
    percentile: float | None = None
    percentile_of: Percentile | None = None
    controls: tuple[Control, ...] = ()
    sentence: str = ""

    def __str__(self) -> str:
        return self.sentence

    def _headline(self) -> str:
        place = f"{self.model}, {self.budget}" if self.budget else self.model
        return f"{self.method} against dense of {place}: {self.outcome_adjusted}"

    def _facts(self) -> dict[str, object]:
        return {
            "accuracy": words.mean_sd(self.accuracy) if self.accuracy else words.ABSENT,
            "difference": words.interval(self.difference),
            "rests on": words.basis(self.difference),
            "MACs": words.saving(self.macs_saving),
        }

    @classmethod
    def from_record(cls, record: Record) -> "Comparison":
        """Read an entry of "comparisons" in study.json."""
        made: dict[str, object] = {"difference": _of_record(Difference, record["difference"])}
        made["evaluations"] = {k: _shift_of(v) for k, v in record["evaluations"].items()}
        found = record["percentile_of"]
        made["percentile_of"] = found and _of_record(Percentile, found)
        made["controls"] = tuple(
            _of_record(Control, one, difference=_of_record(Difference, one["difference"]))
            for one in record["controls"]
        )
        comparison: Comparison = _of_record(cls, record, **made)
        return comparison


def _shift_of(record: Record) -> Shift:
    made = {
        name: record[name] and _of_record(Difference, record[name])
        for name in ("clean", "relative", "at_equal_clean")
    }
    shift: Shift = _of_record(Shift, record, **made)
    return shift


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """The comparisons of a study, and its verdict."""

    comparisons: tuple[Comparison, ...]
    """One comparison for each model, budget and method, in the order of the rows."""
    verdict: str
    """Short sentences on the tickets, the most important first."""


# Correctly classified images.


def unpack_correct(text: str, images: int | None = None) -> NDArray[np.uint8]:
    """Return one bit per image; without the number of images, the padding of the last byte stays.

    Example:
        >>> unpack_correct("88", 5).tolist()
        [1, 0, 0, 0, 1]
    """
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images)


# Rows of one method with the dense rows of the same model, and pairs of rows.

Pairs = Mapping[int, Sequence[tuple[Row, Row]]]
"""By seed: all pairs of rows of two methods that are different networks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """The rows of one method."""

    first: Row
    rows: Mapping[int, Sequence[Row]]
    """Tested rows by seed, where a dense row of the same seed exists."""
    dense: Mapping[int, Row]
    """Dense row of each of these seeds."""
    failed: tuple[int, ...]
    """Seeds where a row of the method, or the dense row, failed before its test."""
    macs: float | None
    compute: float | None
    """MACs times epochs."""

    @property
    def place(self) -> tuple[str, str | None]:
        return self.first.model, self.first.budget

    @property
    def drawn(self) -> bool:
        """Whether its blocks were drawn at random."""
        return self.first.kind == "control" and self.first.draw is not None

    @property
    def every(self) -> list[Row]:
        return [row for seed in self.rows for row in self.rows[seed]]


def _groups(rows: Iterable[Row]) -> list[_Group]:
    """Group the rows by model, budget and method, in the order of the study."""
    dense: dict[str, dict[int, Row]] = defaultdict(dict)
    lost: dict[str, set[int]] = defaultdict(set)
    found: dict[tuple[str, str | None, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind != "dense":
            found[row.model, row.budget, row.method, row.kind].append(row)
        elif row.is_tested:
            dense[row.model][row.seed] = row
        elif row.is_lost:
            lost[row.model].add(row.seed)
    return [_group(of, dense[key[0]], lost[key[0]]) for key, of in found.items()]


def _group(rows: Sequence[Row], dense: Mapping[int, Row], lost: Iterable[int]) -> _Group:
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.seed):
        if row.is_tested and row.seed in dense:
            by_seed[row.seed].append(row)
    tested = [row for of in by_seed.values() for row in of]
    return _Group(
        first=rows[0],
        rows=dict(by_seed),
        dense={seed: dense[seed] for seed in by_seed},
        failed=tuple(sorted({row.seed for row in rows if row.is_lost or row.seed in lost})),
        macs=_mean([row.macs for row in tested]),
        compute=_mean([row.macs and row.epochs and row.macs * row.epochs for row in tested]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value was not measured."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _pairs(own: Mapping[int, Sequence[Row]], other: Mapping[int, Sequence[Row]]) -> Pairs:
    """Pair the rows of two methods by seed.

    Two rows with the same training give no evidence, so they make no pair; a seed where all rows
    are the same network has an empty list.
    """
    return {
        seed: [
            (one, two)
            for one in own[seed]
            for two in other[seed]
            if one.training is None or one.training != two.training
        ]
        for seed in own
        if seed in other
    }


Figure = Callable[[Row], float | None]
Answers = Callable[[Row], NDArray[Any] | None]


def _estimate(
    pairs: Pairs, figure: Figure, answers: Answers, images: int | None
) -> Estimate | None:
    """Estimate the difference in one quantity over the seeds where all networks have it."""
    differences, table = [], []
    for of in pairs.values():
        figures = [(figure(one), figure(two)) for one, two in of]
        known = [(one, two) for one, two in figures if one is not None and two is not None]
        if not known or len(known) < len(figures):
            continue
        # Rounded, so that 0.90 - 0.89 equals a margin of 0.01 in spite of rounding errors.
        differences.append(round(fmean(one - two for one, two in known), 12))
        table.append(_on_images(of, answers))
    if not differences:
        return None
    resolution = 1 / images if images else 0.0
    known_rows = [row for row in table if row is not None]
    if len(known_rows) < len(table) or len({len(row) for row in known_rows}) > 1:
        return estimate(differences, resolution=resolution)
    return estimate(differences, resolution=resolution, table=np.stack(known_rows))


def _on_images(pairs: Sequence[tuple[Row, Row]], answers: Answers) -> Array | None:
    """Return the difference on every image, averaged over the pairs of a seed."""
    found = [(answers(one), answers(two)) for one, two in pairs]
    known = [(a.astype(float), b) for a, b in found if a is not None and b is not None]
    if len(known) < len(found) or len({len(part) for pair in known for part in pair}) != 1:
        return None
    total: Array = sum((a - b for a, b in known), np.zeros(len(known[0][0])))
    return total / len(known)


def accuracy_estimate(pairs: Pairs, images: int | None) -> Estimate | None:
    """Estimate the difference in test accuracy; None if there is no pair.

    Args:
        pairs: Pairs of rows by seed.
        images: Number of test images; None if unknown.
    """

    def answers(row: Row) -> NDArray[Any] | None:
        return None if row.correct is None else unpack_correct(row.correct, images)

    return _estimate(pairs, lambda row: row.test_accuracy, answers, images)


# The analysis.


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """Settings that all comparisons of a study share."""

    margin: float
    confidence: float
    networks: Mapping[str, Record]
    test_images: int | None


def compare_rows(
    rows: Iterable[Row],
    *,
    margin: float = 0.01,
    confidence: float = 0.95,
    networks: Mapping[str, Record] | None = None,
    test_images: int | None = None,
) -> Analysis:
    """Compare every method of a study with the dense network of the same seeds.

    For each model, budget and method: the paired differences with their intervals, the p-value of
    non-inferiority before and after Holm's correction over all comparisons of the study, what was
    saved, every evaluation, and for tickets how they compare with random tickets and the other
    controls of equal cost. Rows of control `each` are not compared: each is another network, and
    `block_worth` gives the worth of every block.

    Args:
        rows: Rows of one study, in any state.
        margin: Tolerated loss of accuracy, as a fraction.
        confidence: Confidence of the two-sided intervals, in (0, 1).
        networks: "macs" and "params" of dense networks, used if their rows do not have them.
        test_images: Number of test images; None if unknown.

    Raises:
        LayerticketError: If the margin or the confidence is out of range.
    """
    checked("margin", Margin, margin)
    checked("confidence", Confidence, confidence)
    terms = _Terms(
        margin=margin, confidence=confidence, networks=networks or {}, test_images=test_images
    )
    groups = _groups(row for row in rows if not row.is_single_block)
    controls: dict[tuple[str, str | None], list[_Group]] = defaultdict(list)
    for group in groups:
        if group.first.role == "control":
            controls[group.place].append(group)
    found = _corrected([_comparison(group, terms) for group in groups], terms)
    finished = [
        _with_controls(one, group, controls[group.place], terms)
        for one, group in zip(found, groups, strict=True)
    ]
    comparisons = tuple(
        replace(one, sentence=words.comparison_sentence(one, margin, confidence))
        for one in finished
    )
    return Analysis(
        comparisons=comparisons, verdict=words.study_verdict(comparisons, margin, confidence)
    )


def _difference(of: Estimate | None, confidence: float) -> Difference:
    return NOTHING if of is None else of.difference(confidence)


def _comparison(group: _Group, terms: _Terms) -> tuple[Comparison, Estimate | None]:
    """Compare one method with the dense network; return the comparison and its estimate."""
    pairs = _pairs(group.rows, {seed: [row] for seed, row in group.dense.items()})
    same = tuple(seed for seed, of in pairs.items() if not of)
    found = accuracy_estimate(pairs, terms.test_images)
    first = group.first
    comparison = Comparison(
        model=first.model,
        budget=first.budget or "",
        method=first.method,
        kind=first.kind,
        role=first.role,
        reference=first.reference,
        n=len(pairs),
        seeds=tuple(pairs),
        same_seeds=same,
        failed_seeds=group.failed,
        accuracy=_mean_std([_accuracy(of) for of in group.rows.values()]),
        dense_accuracy=_mean_std([_accuracy([row]) for row in group.dense.values()]),
        difference=_difference(found, terms.confidence),
        average_effect=_average_effect(found, len(pairs), same),
        evaluations=_evaluations(pairs, terms),
        similarity=_similarity(group),
        **_savings(group, terms),
    )
    return (comparison if found is None else _judged(comparison, found, terms)), found


def _accuracy(rows: Sequence[Row]) -> float:
    """Return the accuracy of a seed, averaged over draws."""
    return fmean(row.test_accuracy for row in rows if row.test_accuracy is not None)


def _mean_std(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": fmean(values) if values else None,
        "std": stdev(values) if len(values) > 1 else None,
    }


def _average_effect(of: Estimate | None, n: int, same: Sequence[int]) -> float | None:
    """Return the mean over all seeds, counting seeds with the same network as 0."""
    if not same:
        return None
    return 0.0 if of is None else (n - len(same)) / n * of.mean


def _judged(comparison: Comparison, of: Estimate, terms: _Terms) -> Comparison:
    """Add the outcome; it stays undecided if a seed failed, since failures are rarely random."""
    judged = outcome_of(of, terms.margin, terms.confidence)
    return replace(
        comparison,
        outcome="undecided" if comparison.failed_seeds else judged,
        p_value=p_value(of, terms.margin),
        spread=of.spread,
    )


def _corrected(
    compared: Sequence[tuple[Comparison, Estimate | None]], terms: _Terms
) -> list[Comparison]:
    """Correct for the number of comparisons, each direction with half of the error.

    Power and seeds needed are computed at Holm's smallest level, the error divided by the number
    of comparisons, so they do not depend on the other comparisons.
    """
    p_values = [one.p_value for one, _ in compared if one.p_value is not None]
    adjusted = iter(zip(holm(p_values), holm([1 - p for p in p_values]), strict=True))
    level = 1 - (1 - terms.confidence) / max(1, len(p_values))
    corrected = []
    for one, of in compared:
        wins, loses = (None, None) if one.p_value is None else next(adjusted)
        after = outcome_after(wins, loses, terms.confidence)
        undecided = of is not None and after == "undecided"
        two = one.difference.n == 2 and after == "wins" and not one.failed_seeds
        corrected.append(
            replace(
                one,
                p_adjusted=wins,
                comparisons=len(p_values),
                outcome_adjusted="undecided" if one.failed_seeds else after,
                caution=words.TWO_SEEDS if two else None,
                seeds_needed=seeds_for(of, terms.margin, level) if of and undecided else None,
                images_needed=images_for(of, terms.margin, level) if of and undecided else None,
                minimum_detectable=minimum_detectable(of, level) if of else None,
            )
        )
    return corrected


def _similarity(group: _Group) -> float | None:
    """Return the mean similarity to the dense network, over the rows that have it."""
    measured = [row.similarity["mean"] for row in group.every if row.similarity is not None]
    values = [value for value in measured if value is not None]
    return fmean(values) if values else None


# Savings.

# Time, memory and energy are compared only between runs on the same device at the same precision;
# times also only between equal numbers of workers, which share the machine.
SAME = ("device", "precision")


def _savings(group: _Group, terms: _Terms) -> dict[str, Any]:
    """Compute what was saved; a share is 1 - method / dense, so 0.34 means a third less.

    Time, energy and carbon include all trainings and searches that the row needs. MACs,
    parameters and memory are those of the network.
    """
    network = terms.networks.get(group.first.model)
    return {
        "macs_saving": _counted(group, "macs", network),
        "params_saving": _counted(group, "params", network),
        "speedup": _speedup(group, terms.confidence),
        "data_wait_share": _waiting(group),
        "memory_saving": _share(group, lambda row: row.peak_memory_bytes),
        "energy_saving": _share(group, lambda row: _cost(row, "energy_kwh"), "energy_method"),
        "co2_saving": _share(group, lambda row: _cost(row, "co2_kg"), "energy_method"),
    }


def _cost(row: Row, *names: str) -> float | None:
    """Return the sum of parts of a row's cost; None if one was not measured."""
    parts = [(row.cost or {}).get(name) for name in names]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _measured(group: _Group, figure: Figure, *same: str) -> list[tuple[float, float]]:
    """Return (dense, method) for each seed where both were measured in the same way."""
    found = []
    for seed, rows in group.rows.items():
        dense = group.dense[seed]
        alike = all(getattr(row, key) == getattr(dense, key) for row in rows for key in same)
        before, after = figure(dense), _mean([figure(row) for row in rows])
        if alike and before is not None and after is not None:
            found.append((before, after))
    return found


def _counted(group: _Group, name: str, network: Record | None) -> float | None:
    """Return the share saved of a counted quantity, whose dense value is equal for all seeds."""
    count = _mean([getattr(row, name) for row in group.every])
    known = [getattr(row, name) for row in group.dense.values() if getattr(row, name) is not None]
    dense = fmean(known) if known else (network or {}).get(name)
    return None if count is None or not dense else 1 - count / dense


def _share(group: _Group, figure: Figure, *same: str) -> float | None:
    """Return the share saved of a measured quantity, over the seeds where both networks have it."""
    pairs = _measured(group, figure, *SAME, *same)
    dense = sum(before for before, _ in pairs)
    return 1 - sum(after for _, after in pairs) / dense if dense > 0 else None


def _speedup(group: _Group, confidence: float) -> dict[str, float | None]:
    """Return the ratio of the seconds of training, including the search."""
    pairs = [
        pair
        for pair in _measured(
            group, lambda row: _cost(row, "train_seconds", "search_seconds"), *SAME, "workers"
        )
        if min(pair) > 0
    ]
    if not pairs:
        return {"mean": None, "low": None, "high": None}
    dense, method = zip(*pairs, strict=True)
    mean, low, high = ratio_interval(dense, method, confidence=confidence)
    return {"mean": mean, "low": low, "high": high}


def _waiting(group: _Group) -> float | None:
    """Return the share of the training time that the network which waits longer for data waits."""
    sides = (group.dense.values(), group.every)
    shares = [_mean([row.data_wait_share for row in side]) for side in sides]
    known = [share for share in shares if share is not None]
    return max(known) if len(known) == len(shares) else None


# Other images.


def explained(
    clean_dense: float, shifted_dense: float, clean: float, *, slope: float = 1.0, least: float
) -> float:
    """Return the shifted accuracy expected of a network with another clean accuracy.

    Over many networks, clean and shifted accuracy lie near a line once both are on the scale
    ``logit(a) = ln(a / (1 - a))``. The line here goes through the dense network of the same seed:

        ``expected = sigmoid(logit(shifted_dense) + slope (logit(clean) - logit(clean_dense)))``

    With slope 1, both change by the same amount on that scale. Accuracies are kept `least` away
    from 0 and 1, where the scale ends.

    References:
        Taori et al., "Measuring Robustness to Natural Distribution Shifts in Image
        Classification", NeurIPS 2020. arXiv:2007.00644. Differs: the line is not fitted to many
        models but goes through the paired dense network, with a slope that is given.
    """

    def logit(accuracy: float) -> float:
        kept = min(max(accuracy, least), 1 - least)
        return math.log(kept / (1 - kept))

    if clean == clean_dense:
        return shifted_dense
    return 1 / (1 + math.exp(-(logit(shifted_dense) + slope * (logit(clean) - logit(clean_dense)))))


Rates = tuple[float, float]
"""Clean and shifted accuracy of one network."""


def compare_shifted(
    dense: Sequence[Rates],
    ticket: Sequence[Rates],
    *,
    images: int,
    confidence: float = 0.95,
    slope: float = 1.0,
) -> Shift:
    """Compare tickets with dense networks of the same seeds on shifted images.

    Args:
        dense: (clean, shifted) accuracy of the dense networks, one pair per seed.
        ticket: The same for the tickets, in the same order of seeds.
        images: Number of images of the smaller set; accuracies are kept half an image from 0 and 1.
        confidence: Confidence of the two-sided intervals, in (0, 1).
        slope: See `explained`.

    Raises:
        LayerticketError: If there are no pairs, or a number is out of range.

    Example:
        >>> pair = compare_shifted([(0.9, 0.7), (0.8, 0.6)], [(0.9, 0.71), (0.8, 0.61)], images=100)
        >>> round(pair.at_equal_clean.mean, 4)
        0.01
    """
    if not dense or len(dense) != len(ticket):
        raise LayerticketError(
            f"there are {len(dense)} dense and {len(ticket)} ticket networks, but seeds must be "
            "paired. Give one of each for every seed, in the same order."
        )
    odd = [value for pair in (*dense, *ticket) for value in pair if not 0 <= value <= 1]
    if odd:
        raise LayerticketError(f"an accuracy is {odd[0]}. Give fractions in [0, 1], not percent.")
    if images < 1 or not 0 < confidence < 1 or not 0 <= slope < math.inf:
        raise LayerticketError(
            f"images {images}, confidence {confidence}, slope {slope}: they must be at least 1, "
            "in (0, 1), and at least 0."
        )
    by_seed = [[pair] for pair in zip(ticket, dense, strict=True)]
    shifted = estimate([fmean(one[1] - two[1] for one, two in of) for of in by_seed])
    return _shift(shifted, by_seed, 0.5 / images, confidence, slope)


def _shift(
    shifted: Estimate,
    by_seed: Sequence[Sequence[tuple[Rates, Rates]]],
    least: float,
    confidence: float,
    slope: float = 1.0,
) -> Shift:
    """Add the clean accuracies of the pairs to a difference in shifted accuracy."""

    def of(figure: Callable[[Rates, Rates], float]) -> Difference:
        return estimate([fmean(figure(*pair) for pair in of) for of in by_seed]).difference(
            confidence
        )

    def beyond(one: Rates, two: Rates) -> float:
        return one[1] - explained(two[0], two[1], one[0], slope=slope, least=least)

    usable = all(rates[0] > 0 for seed in by_seed for pair in seed for rates in pair)
    found = shifted.difference(confidence)
    made = {one.name: getattr(found, one.name) for one in fields(found)}
    return Shift(
        **made,
        clean=of(lambda one, two: one[0] - two[0]),
        relative=of(lambda one, two: one[1] / one[0] - two[1] / two[0]) if usable else None,
        at_equal_clean=of(beyond),
    )


def _evaluations(pairs: Pairs, terms: _Terms) -> dict[str, Shift]:
    """Return the paired differences of every evaluation that both networks have."""
    named = (row.evaluations for of in pairs.values() for pair in of for row in pair)
    found = {}
    for name in dict.fromkeys(name for of in named for name in of):
        shift = _evaluation(pairs, name, terms)
        if shift is not None:
            found[name] = shift
    return found


def _evaluation(pairs: Pairs, name: str, terms: _Terms) -> Shift | None:
    """Compare two methods on one evaluation, over the seeds where every row has it.

    A seed is left out if its rows were measured on other images or with other settings.
    """

    def of(row: Row) -> Record:
        return row.evaluations.get(name) or {}

    def shifted(row: Row) -> float | None:
        return of(row).get("accuracy")

    def conditions(row: Row) -> dict[str, Any]:
        settings: Record = of(row).get("settings") or {}
        return {key: value for key, value in settings.items() if key != "run_precision"}

    def rates(row: Row) -> Rates:
        clean = of(row).get("clean_accuracy")
        return (row.test_accuracy or 0.0) if clean is None else clean, of(row)["accuracy"]

    def answers(row: Row) -> NDArray[Any] | None:
        """Return the answer on every source image, averaged over its corrupted versions."""
        record = of(row)
        if record.get("correct_counts") is not None:
            counts = np.frombuffer(bytes.fromhex(record["correct_counts"]), np.uint8)
            return np.asarray(counts / record["versions"])
        if record.get("correct") is None:
            return None
        return unpack_correct(record["correct"], record.get("images"))

    known = {
        seed: of_seed
        for seed, of_seed in pairs.items()
        if of_seed
        and all(shifted(row) is not None for pair in of_seed for row in pair)
        and all(conditions(one) == conditions(two) for one, two in of_seed)
    }
    rows = [row for of_seed in known.values() for pair in of_seed for row in pair]
    images = min((of(row)["images"] for row in rows if of(row).get("images")), default=None)
    found = _estimate(known, shifted, answers, images or terms.test_images)
    if found is None:
        return None
    by_seed = [[(rates(one), rates(two)) for one, two in of_seed] for of_seed in known.values()]
    return _shift(found, by_seed, 0.5 / images if images else 1e-6, terms.confidence)


# Controls of equal cost.

TICKETS = ("ticket", "lottery")
ALIKE = 0.05
"""Costs that differ by at most this share count as equal."""


def _with_controls(
    comparison: Comparison, group: _Group, controls: Sequence[_Group], terms: _Terms
) -> Comparison:
    """Compare the tickets of a criterion with every control of the same model, budget and cost."""
    if group.first.role != "criterion":
        return comparison
    beside = [one for one in controls if _belongs(one, group)]
    kinds = Counter(one.first.kind for one in beside)
    answers = [
        _against(group, one, terms, alone=kinds[one.first.kind] == 1)
        for one in beside
        if one.rows.keys() & group.rows.keys()
    ]
    found = _among_random(group, [one for one in beside if one.drawn], terms.confidence)
    return replace(
        comparison,
        controls=tuple(answers),
        percentile=None if found is None else found.share,
        percentile_of=found,
    )


def _belongs(control: _Group, group: _Group) -> bool:
    """Whether a control belongs to this ticket: matched to it, or of equal cost."""
    reference = control.first.reference
    if reference == group.first.method:
        return True
    if control.first.kind in TICKETS and reference is not None:
        return False  # matched to another ticket
    costs = [
        one.compute if control.first.kind == "equal_compute" else one.macs
        for one in (group, control)
    ]
    own, other = costs
    return own is not None and other is not None and abs(other - own) <= ALIKE * own


def _among_random(group: _Group, randoms: Sequence[_Group], confidence: float) -> Percentile | None:
    """Rank a criterion among random tickets of equal cost; an equal training is a tie."""
    drawn = {
        seed: [_accuracy([row]) for one in randoms for row in one.rows.get(seed, ())]
        for seed in group.rows
    }
    seeds = [seed for seed, accuracies in drawn.items() if accuracies]
    if not seeds:
        return None
    own = [_accuracy(group.rows[seed]) for seed in seeds]
    return percentile(own, [drawn[seed] for seed in seeds], confidence=confidence)


def _against(group: _Group, control: _Group, terms: _Terms, *, alone: bool) -> Control:
    """Judge whether the control is as good, by the interval of ticket minus control.

    Below 0, the control is better; above 0, the ticket is better; with 0 inside and all of it below
    the margin, the control is as good. If the better one is better by less than the margin, the
    sentence says so. These outcomes are not corrected for their number.
    """
    pairs = _pairs(group.rows, control.rows)
    same = tuple(seed for seed, of in pairs.items() if not of)
    found = accuracy_estimate(pairs, terms.test_images)
    difference = _difference(found, terms.confidence)
    lost = tuple(sorted({*group.failed, *control.failed}))
    answer: Answer = "not shown" if lost else _answer(difference, terms.margin)
    one = Control(
        method=control.first.method,
        name=words.control_name(control.first, alone=alone),
        kind=control.first.kind,
        n=len(pairs),
        same_seeds=same,
        difference=difference,
        average_effect=_average_effect(found, len(pairs), same),
        outcome=answer,
        minimum_detectable=minimum_detectable(found, terms.confidence) if found else None,
        failed_seeds=lost,
        sentence="",
    )
    return replace(one, sentence=words.control_sentence(group.first.method, one, terms.margin))


def _answer(difference: Difference, margin: float) -> Answer:
    if difference.low is None or difference.high is None:
        return "not shown"
    if difference.high < 0:
        return "control better"
    if difference.low > 0:
        return "ticket better"
    return "as good" if difference.high < margin else "not shown"
