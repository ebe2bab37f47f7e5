"""Is a ticket more robust than its dense network, and more than its clean accuracy explains?

Enters: clean and shifted accuracies of paired seeds. Leaves: paired differences with intervals.
Refuses to know files and runs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from statistics import fmean
from typing import Any, Literal

from layerticket.errors import LayerticketError
from layerticket.verdict.judge import mean_interval
from layerticket.verdict.statistics import (
    Difference,
    Outcome,
    Percentile,
    percentile,
    ratio_interval,
)

Record = Mapping[str, Any]
Role = Literal["dense", "criterion", "control", "baseline"]
Status = Literal["done", "failed", "running", "waiting"]


def as_record(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """Turn records into JSON values: a dataclass becomes an object, a tuple a list."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_record(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_record(part) for key, part in value.items()}
    return [as_record(part) for part in value] if isinstance(value, (list, tuple)) else value


def _of_record(cls: type[Any], record: Record, **made: object) -> Any:  # noqa: ANN401
    """Make a dataclass of a JSON object; lists become tuples, `made` is made already."""
    values = {one.name: record[one.name] for one in fields(cls) if one.name in record} | made
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One network of a study that is trained and judged; one entry of "runs" in study.json.

    Keys in the file are the names of the fields; null is "not measured". Times are in seconds,
    energy in kWh, carbon in kg CO2e, accuracies are fractions.
    """

    id: str
    model: str
    """Name of the dense network."""
    budget: str | None
    """How much is removed, as in "remove 5"; None for dense."""
    method: str
    """Label of the method; the draws of one method share it."""
    kind: str
    """Kind of the method: dense, ticket, lottery, control, filters, weights, imp, shallower, ..."""
    role: Role
    """What the row is for; only criteria are judged."""
    reference: str | None = None
    """Label of the ticket it is matched to, or shares its shape with."""
    draw: int | None = None
    """Number of the draw, where something is drawn at random."""
    seed: int
    training: str | None = None
    """Name of its training; rows with equal names are the same network. None until it is known."""

    status: Status = "waiting"
    error: str | None = None
    log: str | None = None
    folder: str | None = None

    test_accuracy: float | None = None
    validation_accuracy: float | None = None
    correct: str | None = None
    """Which test images were answered rightly, see `pack_correct`."""
    evaluations: Record = field(default_factory=dict)
    similarity: Record | None = None
    curve: tuple[Record, ...] = ()

    macs: int | None = None
    sparse_macs: int | None = None
    """MACs without the masked weights, which a dense library still computes."""
    params: int | None = None
    epochs: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    energy_kwh: float | None = None
    co2_kg: float | None = None
    energy_method: str | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    precision: str | None = None
    workers: int | None = None
    """Workers of the runner that trained it."""
    jobs_beside: int | None = None
    """Most other jobs at any moment of its training."""
    search_seconds: float | None = None
    search_energy_kwh: float | None = None
    cost: Record | None = None
    """"train_seconds", "search_seconds", "energy_kwh", "co2_kg": sums over the distinct trainings
    and searches that the row needs to exist, each once."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    scores: Mapping[str, float] | None = None
    match: Record | None = None
    config: Record | None = None
    repeat: str = ""
    """Command that does this row again."""

    @classmethod
    def from_record(cls, record: Record) -> "Row":
        """Read an entry of study.json."""
        row: Row = _of_record(cls, record)
        return row

    def as_record(self) -> dict[str, Any]:
        """Write an entry of study.json."""
        record: dict[str, Any] = as_record(self)
        return record

    @property
    def is_tested(self) -> bool:
        """Whether it was trained and tested, whatever became of its other evaluations."""
        return self.test_accuracy is not None

    @property
    def is_lost(self) -> bool:
        """Whether it failed before it had an accuracy."""
        return self.status == "failed" and not self.is_tested


NOTHING = Difference()


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift(Difference):
    """Difference in one evaluation, and what the clean accuracy does not explain of it."""

    clean: Difference = NOTHING
    """Of the clean accuracy, on the images of this evaluation where it states one."""
    relative: Difference | None = None
    """Of shifted / clean accuracy; None where a clean accuracy is 0 or unknown."""
    at_equal_clean: Difference | None = None
    """Of the shifted accuracy, less what the change of the clean accuracy explains."""


Answer = Literal["control better", "as good", "ticket better", "not shown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """How a ticket compares with a control of equal cost; differences are ticket minus control."""

    method: str
    name: str
    """The control in words."""
    kind: str
    n: int
    """Seeds both have, those with the same network included."""
    same_seeds: tuple[int, ...]
    """Seeds where both are the same network."""
    difference: Difference
    """Over the seeds where they differ."""
    average_effect: float | None
    """Mean over all seeds, 0 where the network is the same; None if there is no such seed."""
    outcome: Answer
    failed_seeds: tuple[int, ...]
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
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
    """Paired seeds, those with the same network included."""
    seeds: tuple[int, ...]
    same_seeds: tuple[int, ...] = ()
    """Seeds where the method is the dense network itself: no evidence."""
    failed_seeds: tuple[int, ...] = ()
    accuracy: Mapping[str, float | None] = field(default_factory=dict)
    dense_accuracy: Mapping[str, float | None] = field(default_factory=dict)

    difference: Difference = NOTHING
    average_effect: float | None = None
    """Mean over all seeds, 0 where the network is the same; None if there is no such seed."""
    outcome: Outcome = "undecided"
    p_value: float | None = None
    p_adjusted: float | None = None
    comparisons: int = 0
    """How many comparisons the correction is for."""
    outcome_adjusted: Outcome = "undecided"
    spread: float | None = None
    seeds_needed: int | None = None
    """Seeds in all that would decide with 80 % power; None if decided or no number would."""
    images_needed: int | None = None
    """Test images it takes at least where no number of seeds decides."""
    minimum_detectable: float | None = None
    caution: str | None = None
    """What to keep in mind about a decided outcome."""

    macs_saving: float | None = None
    params_saving: float | None = None
    speedup: Mapping[str, float | None] = field(default_factory=dict)
    memory_saving: float | None = None
    energy_saving: float | None = None
    co2_saving: float | None = None

    evaluations: Mapping[str, Shift] = field(default_factory=dict)
    similarity: float | None = None
    percentile: float | None = None
    percentile_of: Percentile | None = None
    controls: tuple[Control, ...] = ()
    sentence: str = ""

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

    def as_record(self) -> dict[str, Any]:
        """Write an entry of "comparisons" in study.json."""
        record: dict[str, Any] = as_record(self)
        return record


def _shift_of(record: Record) -> Shift:
    made = {
        name: record[name] and _of_record(Difference, record[name])
        for name in ("clean", "relative", "at_equal_clean")
    }
    shift: Shift = _of_record(Shift, record, **made)
    return shift


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What the rows of a study show."""

    comparisons: tuple[Comparison, ...]
    """One for each model, budget and method, in the order of the rows."""
    verdict: str
    """One sentence on the tickets."""


TICKETS = ("ticket", "lottery")
CONTROLS = ("control", "shallower", "equal_compute")
NEW_WEIGHTS = ", new weights"
RANDOM = re.compile(r"(lottery )?random\b")
# What two methods may differ in and still find the same shape.
NOT_OF_THE_SHAPE = ("label", "initialization")

Table = Mapping[str, Any]


def marked(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mark every row with its role, its label, and what it is matched to.

    All of it follows from the methods of the study file; where these are not there, from labels.

    Args:
        study: The object of ``study.json``: "runs", and the study file as "study". It is not
            modified.

    Returns:
        The rows with "role" (dense, criterion, control or rival), "label" (the method without the
        number of a draw) and "reference" (label of the ticket it belongs to; None if it has none).
    """
    listed = (study.get("study") or {}).get("methods") or []
    tables = {str(table["label"]): table for table in listed if "label" in table}
    return [{**run, **_marks(run, tables)} for run in study["runs"]]


def _marks(run: Mapping[str, Any], tables: Mapping[str, Table]) -> dict[str, Any]:
    label, kind = _label(run, tables), run["kind"]
    table = tables.get(label)
    new = kind in TICKETS and _has_new_weights(label, table)
    role = "rival"
    if kind == "dense":
        role = "dense"
    elif kind in CONTROLS or new or (kind in TICKETS and _is_random(label, table)):
        role = "control"
    elif kind in TICKETS:
        role = "criterion"
    reference = None
    if new:
        reference = _twin(label, table, tables)
    elif kind not in ("dense", *TICKETS) and table is not None:
        reference = table.get("reference") or _first_ticket(tables)
    return {"role": role, "label": label, "reference": reference}


def _label(run: Mapping[str, Any], tables: Mapping[str, Table]) -> str:
    """Name a method without the number of its draw; a number of the user's own stays."""
    method = str(run["method"])
    if run["draw"] is None:
        return method
    bare = re.sub(rf" {run['draw']}$", "", method)
    several = tables.get(bare, {}).get("draws", 1) > 1
    return method if method in tables and not several else bare


def _has_new_weights(label: str, table: Table | None) -> bool:
    if table is None:
        return label.endswith(NEW_WEIGHTS)
    return table.get("initialization") == "seed"


def _is_random(label: str, table: Table | None) -> bool:
    if table is None:
        return RANDOM.match(label) is not None
    return table.get("criterion") == "random"


def _twin(label: str, table: Table | None, tables: Mapping[str, Table]) -> str | None:
    """Name the method that finds the same shape and trains it from its own weights."""
    if table is None:
        return label.removesuffix(NEW_WEIGHTS)
    shape = _shape(table)
    return next(
        (
            name
            for name, other in tables.items()
            if other.get("initialization") != "seed" and _shape(other) == shape
        ),
        None,
    )


def _shape(table: Table) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in NOT_OF_THE_SHAPE}


def _first_ticket(tables: Mapping[str, Table]) -> str | None:
    return next((name for name, table in tables.items() if table.get("method") in TICKETS), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanDifference:
    """Ticket minus dense over paired seeds; fractions."""

    differences: tuple[float, ...]
    """One per seed."""
    mean: float
    std: float | None
    """Standard deviation of the differences (n - 1 below); None for one seed."""
    low: float | None
    """Lower end of the interval of the mean; None for one seed."""
    high: float | None
    """Upper end; None for one seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftedPair:
    """What paired seeds tell about one kind of shift."""

    n: int
    """Paired seeds."""
    confidence: float
    """Confidence of the two-sided intervals."""
    slope: float
    """As given to `compare_shifted`."""
    clean: MeanDifference
    """Of the accuracy on the test images."""
    shifted: MeanDifference
    """Of the accuracy on the shifted images."""
    relative: MeanDifference | None
    """Of shifted / clean accuracy; None if a clean accuracy is 0."""
    at_equal_clean: MeanDifference
    """Of the shifted accuracy, less what the change of the clean accuracy explains."""


def explained(
    clean_dense: float, shifted_dense: float, clean: float, *, slope: float, least: float
) -> float:
    """Shifted accuracy one expects of a network with another clean accuracy.

    Over many networks, clean and shifted accuracy lie near a line once both are on the scale
    ``logit(a) = ln(a / (1 - a))`` (Taori et al., 2020; Miller et al., 2021). The line here goes
    through the dense network:

        ``expected = sigmoid(logit(shifted_dense) + slope (logit(clean) - logit(clean_dense)))``

    Args:
        clean_dense: Clean accuracy of the dense network, in [0, 1].
        shifted_dense: Its shifted accuracy.
        clean: Clean accuracy of the other network.
        slope: Of the line; 1 moves both by the same amount on that scale.
        least: Accuracies are kept this far from 0 and 1, where the scale ends.

    Returns:
        The expected accuracy, in (0, 1); that of the dense network where the clean ones agree.

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


def compare_shifted(
    dense: Sequence[tuple[float, float]],
    ticket: Sequence[tuple[float, float]],
    *,
    images: int,
    confidence: float = 0.95,
    slope: float = 1.0,
) -> ShiftedPair:
    """Compare tickets with dense networks of the same seeds on shifted images.

    Args:
        dense: (clean, shifted) accuracy of the dense networks, one pair per seed.
        ticket: The same of the tickets, in the same order of seeds.
        images: Number of images of the smaller set; half an image bounds accuracies off 0 and 1.
        confidence: Of the two-sided intervals, in (0, 1).
        slope: See `explained`.

    Returns:
        The differences with their intervals, as `study.statistics.verdict` computes.

    Raises:
        LayerticketError: If there are no pairs, or a figure is out of range.

    Example:
        >>> pair = compare_shifted([(0.9, 0.7), (0.8, 0.6)], [(0.9, 0.71), (0.8, 0.61)], images=100)
        >>> round(pair.at_equal_clean.mean, 4)
        0.01
    """
    _check(dense, ticket, images, confidence, slope)
    pairs = list(zip(dense, ticket, strict=True))
    usable = all(clean > 0 for clean, _ in (*dense, *ticket))
    relative = [t[1] / t[0] - d[1] / d[0] for d, t in pairs] if usable else None
    remaining = [
        shifted - explained(d[0], d[1], clean, slope=slope, least=0.5 / images)
        for d, (clean, shifted) in pairs
    ]
    return ShiftedPair(
        n=len(pairs),
        confidence=confidence,
        slope=slope,
        clean=_difference([t[0] - d[0] for d, t in pairs], confidence),
        shifted=_difference([t[1] - d[1] for d, t in pairs], confidence),
        relative=None if relative is None else _difference(relative, confidence),
        at_equal_clean=_difference(remaining, confidence),
    )


def _difference(values: Sequence[float], confidence: float) -> MeanDifference:
    mean, std, low, high = mean_interval(values, confidence=confidence)
    return MeanDifference(differences=tuple(values), mean=mean, std=std, low=low, high=high)


def _check(
    dense: Sequence[tuple[float, float]],
    ticket: Sequence[tuple[float, float]],
    images: int,
    confidence: float,
    slope: float,
) -> None:
    """Refuse input that no comparison can rest on."""
    if not dense or len(dense) != len(ticket):
        raise LayerticketError(
            f"there are {len(dense)} dense and {len(ticket)} ticket networks, but seeds are "
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


Run = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs of one method beside the dense runs of the same model."""

    model: str
    """Name of the dense network."""
    budget: str
    """How much was removed."""
    method: str
    """Label of the method; draws of one method share it."""
    kind: str
    """Kind of the method."""
    role: str
    """criterion, control or rival."""
    reference: str | None
    """Method of the ticket it is matched to; None if it is matched to none."""
    drawn: bool
    """Whether its blocks were drawn, any number of times a seed."""
    runs: Mapping[int, Sequence[Run]]
    """Trained runs by seed, those that have a dense run of the same seed."""
    dense: Mapping[int, Run]
    """Dense run of each of these seeds."""
    failed: Sequence[int] = ()
    """Seeds where a run of the method, or the dense one, failed before it had an accuracy."""

    @property
    def seeds(self) -> list[int]:
        """Paired seeds, ascending."""
        return sorted(self.runs)


def done(run: Run) -> bool:
    """Whether a run was trained and tested, whatever became of its other evaluations."""
    return run["test_accuracy"] is not None


def _lost(run: Run) -> bool:
    return run["status"] == "failed" and not done(run)


def failed_text(seeds: Sequence[int]) -> str:
    """Tell which seeds failed.

    Example:
        >>> failed_text([1, 3])
        'seeds 1 and 3 failed'
    """
    named = [str(seed) for seed in seeds]
    if len(named) == 1:
        return f"seed {named[0]} failed"
    return f"seeds {', '.join(named[:-1])} and {named[-1]} failed"


def groups(study: Mapping[str, Any]) -> list[Group]:
    """Put the runs of each model, budget and method together, in the order of the study.

    Args:
        study: The object of ``study.json``.

    Returns:
        One group for each method that was planned; its runs are empty while none is finished.
    """
    dense: dict[str, dict[int, Run]] = defaultdict(dict)
    lost: dict[str, set[int]] = defaultdict(set)
    found: dict[tuple[str, str, str, str], list[Run]] = defaultdict(list)
    for run in marked(study):
        if run["kind"] != "dense":
            found[run["model"], run["budget"] or "", run["label"], run["kind"]].append(run)
        elif done(run):
            dense[run["model"]][run["seed"]] = run
        elif _lost(run):
            lost[run["model"]].add(run["seed"])
    return [_group(runs, dense[key[0]], lost[key[0]]) for key, runs in found.items()]


def _group(runs: Sequence[Run], dense: Mapping[int, Run], lost: Set[int]) -> Group:
    by_seed: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        if done(run) and run["seed"] in dense:
            by_seed[run["seed"]].append(run)
    first = runs[0]
    return Group(
        model=first["model"],
        budget=first["budget"] or "",
        method=first["label"],
        kind=first["kind"],
        role=first["role"],
        reference=first["reference"],
        drawn=first["kind"] == "control" and first["draw"] is not None,
        runs=dict(by_seed),
        dense={seed: dense[seed] for seed in by_seed},
        failed=sorted({run["seed"] for run in runs if _lost(run) or run["seed"] in lost}),
    )


def paired(group: Group, figure: str, *, same: Sequence[str] = ()) -> list[tuple[float, float]]:
    """Pair a figure of the dense network with that of the method, seed by seed.

    Args:
        group: The runs.
        figure: Key of a run; draws of one seed are averaged.
        same: Keys that have to be equal in both runs, or the figures cannot be compared.

    Returns:
        (dense, method) for each seed where both were measured.
    """
    return list(_pairs(group, figure, same))


def _pairs(group: Group, figure: str, same: Sequence[str]) -> Iterator[tuple[float, float]]:
    for seed in group.seeds:
        dense, runs = group.dense[seed], group.runs[seed]
        values = [run[figure] for run in runs]
        alike = all(run[key] == dense[key] for run in runs for key in same)
        if alike and dense[figure] is not None and None not in values:
            yield float(dense[figure]), fmean(values)


# Time, memory and energy mean something only beside those of the same machine at its work.
SAME = ("device", "precision")
UNSEARCHED = ("dense", "shallower", "equal_compute")  # kinds with nothing to search
WHOLE = "whole_seconds"


def savings(group: Group, network: Mapping[str, Any] | None, confidence: float) -> dict[str, Any]:
    """Sum up what was saved; a share is 1 - method / dense, so 0.34 is a third less.

    Args:
        group: The runs.
        network: "macs" and "params" of the dense network, used where its runs do not state them.
        confidence: Of the interval of the speed-up.

    Returns:
        "macs_saving", "params_saving", "memory_saving", "energy_saving", "co2_saving" as shares,
        and "speedup", search included, with the t-interval of the ratios; None for what was not
        measured in both.
    """
    return {
        "macs_saving": _counted(group, "macs", network),
        "params_saving": _counted(group, "params", network),
        "speedup": _speedup(group, confidence),
        "memory_saving": _share(group, "peak_memory_bytes"),
        "energy_saving": _share(group, "energy_kwh", "energy_method"),
        "co2_saving": _share(group, "co2_kg", "energy_method"),
    }


def _counted(group: Group, figure: str, network: Mapping[str, Any] | None) -> float | None:
    """Share saved of what is counted, not measured: the dense count is one for all seeds."""
    counts = [run[figure] for seed in group.seeds for run in group.runs[seed]]
    if not counts or None in counts:
        return None
    known = [run[figure] for run in group.dense.values() if run[figure] is not None]
    dense = fmean(known) if known else (network or {}).get(figure)
    return None if not dense else 1 - fmean(counts) / dense


def _share(group: Group, figure: str, *same: str) -> float | None:
    """Share saved of what is measured, of the seeds where both networks have it."""
    pairs = paired(group, figure, same=(*SAME, *same))
    dense = sum(before for before, _ in pairs)
    return 1 - sum(after for _, after in pairs) / dense if dense > 0 else None


def _speedup(group: Group, confidence: float) -> dict[str, float | None]:
    """Ratio of the seconds from nothing to the trained network: the search is part of it.

    The search of a lottery ticket has trained the dense network; without it, the rest of the
    training would pass for the whole.
    """
    whole = replace(
        group,
        runs={seed: [_whole(run) for run in runs] for seed, runs in group.runs.items()},
        dense={seed: _whole(run) for seed, run in group.dense.items()},
    )
    pairs = [pair for pair in paired(whole, WHOLE, same=SAME) if min(pair) > 0]
    if not pairs:
        return {"mean": None, "low": None, "high": None}
    dense, method = zip(*pairs, strict=True)
    mean, low, high = ratio_interval(dense, method, confidence=confidence)
    return {"mean": mean, "low": low, "high": high}


def _whole(run: Mapping[str, Any]) -> dict[str, Any]:
    """Add up search and training; None if one of them was not measured."""
    search = run["search_seconds"]
    if search is None and run["kind"] in UNSEARCHED:
        search = 0.0
    parts = (run["train_seconds"], search)
    return {**run, WHOLE: None if None in parts else sum(parts)}


TICKETS_controls = ("ticket", "lottery")
ALIKE = 0.05
"""Costs that differ by no more than this share count as equal."""


def spoken(control: Group) -> str:
    """Name a control so that readers know what it is; a label of the user's own stays."""
    if control.kind in TICKETS_controls and control.reference is not None:
        return f"the same shape with new weights ({control.method})"
    if control.kind in TICKETS_controls:
        return f"tickets drawn at random ({control.method})"
    known = {
        "shallower": "a plain shallower network",
        "dense, equal compute": "the dense network at equal compute",
    }
    return known.get(control.method, control.method)


def _plural(name: str) -> bool:
    """Whether a name takes the verb in the plural."""
    return name.endswith("blocks") or name.startswith("tickets drawn")


def _beside(group: Group, others: Sequence[Group]) -> list[Group]:
    """Pick the controls of the same model and budget that were matched to this one, or cost it."""
    return [
        one
        for one in others
        if (one.model, one.budget) == (group.model, group.budget)
        and one.role == "control"
        and _belongs(one, group)
    ]


def _belongs(control: Group, group: Group) -> bool:
    """Whether a control is one of this ticket's: matched to it, or of equal cost."""
    if control.reference == group.method:
        return True
    if control.kind in TICKETS_controls and control.reference is not None:
        return False  # the shape of another ticket
    compute = control.kind == "equal_compute"
    own, other = (_cost(one, compute=compute) for one in (group, control))
    return own is not None and other is not None and abs(other - own) <= ALIKE * own


def _cost(group: Group, *, compute: bool) -> float | None:
    """MACs of the network, times epochs where compute was matched; None if unknown."""
    runs = [run for seed in group.seeds for run in group.runs[seed]]
    if not runs or any(run[key] is None for run in runs for key in ("macs", "epochs")):
        return None
    return fmean(run["macs"] * (run["epochs"] if compute else 1) for run in runs)


def among_random(group: Group, others: Sequence[Group], confidence: float) -> dict[str, Any]:
    """Say at which percentile among random tickets of equal cost a criterion stands.

    Args:
        group: The tickets of one criterion.
        others: All other groups of the study.
        confidence: Of the interval.

    Returns:
        "percentile" in [0, 1], and "percentile_of" with its interval and numbers of tickets and
        seeds; both None without random tickets, and for what is no criterion.
    """
    randoms = [one for one in _beside(group, others) if one.drawn]
    seeds = [s for s in group.seeds if any(s in one.runs for one in randoms)]
    if group.role != "criterion" or not seeds:
        return {"percentile": None, "percentile_of": None}
    found = percentile(
        [_accuracy(group, seed) for seed in seeds],
        [
            [run["test_accuracy"] for one in randoms for run in one.runs.get(seed, ())]
            for seed in seeds
        ],
        confidence=confidence,
    )
    return {"percentile": found.share, "percentile_of": asdict(found)}


def _accuracy(group: Group, seed: int) -> float:
    """Accuracy of a seed; draws averaged."""
    return fmean(run["test_accuracy"] for run in group.runs[seed])


def against_controls(
    group: Group,
    others: Sequence[Group],
    *,
    margin: float,
    confidence: float,
    resolution: float = 0.0,
) -> list[dict[str, Any]]:
    """Hold the tickets of a criterion against every control of the same model, budget and cost.

    With d = criterion - control of n shared seeds and the t-interval of its mean: the control
    does *as well* if the interval lies below the margin, the criterion is *better* if it lies
    above 0, and neither is shown otherwise. A difference that is real but smaller than the
    margin counts as "as well", and the sentence says both. Answers are not corrected for their
    number.

    Args:
        group: The tickets of one criterion.
        others: All other groups of the study.
        margin: Difference in accuracy that would matter, as a fraction.
        confidence: Of the interval.
        resolution: As in `verdict`.

    Returns:
        One answer for each control, with a sentence; empty for what is no criterion.
    """
    if group.role != "criterion":
        return []
    return [
        _answer(group, control, margin, confidence, resolution)
        for control in _beside(group, others)
        if set(control.seeds) & set(group.seeds)
    ]


def _answer(
    group: Group, control: Group, margin: float, confidence: float, resolution: float
) -> dict[str, Any]:
    seeds = sorted(set(group.seeds) & set(control.seeds))
    differences = [round(_accuracy(group, s) - _accuracy(control, s), 12) for s in seeds]
    mean, std, low, high = mean_interval(differences, confidence=confidence, resolution=resolution)
    lost = sorted({*group.failed, *control.failed})
    outcome: Shown = "not shown" if lost else _outcome(low, high, margin)
    interval = {"mean": mean, "std": std, "low": low, "high": high}
    name = spoken(control)
    return {
        "method": control.method,
        "name": name,
        "plural": _plural(name),
        "kind": control.kind,
        "n": len(seeds),
        "difference": interval,
        "outcome": outcome,
        "failed_seeds": lost,
        "sentence": _sentence(group.method, name, interval, outcome, margin, len(seeds))
        + (f" Nothing is shown while {failed_text(lost)}." if lost else ""),
    }


Shown = Literal["as well", "better", "not shown"]


def _outcome(low: float | None, high: float | None, margin: float) -> Shown:
    if low is None or high is None:
        return "not shown"
    if high < margin:
        return "as well"
    return "better" if low > 0 else "not shown"


def _sentence(
    criterion: str,
    control: str,
    difference: dict[str, float | None],
    outcome: Shown,
    margin: float,
    n: int,
) -> str:
    """Say plainly whether the control does as well."""
    mean, low, high = (difference[end] for end in ("mean", "low", "high"))
    text = f"{criterion} minus {control}: {100 * (mean or 0):+.2f} pp"
    if low is None or high is None:
        return f"{text} in one seed, which decides nothing."
    text += f" ({100 * low:+.2f} to {100 * high:+.2f} pp, n = {n})"
    if outcome == "better":
        return f"{criterion} is better than {control}. {text}."
    if outcome == "not shown":
        return f"Not shown whether {control} would do as well as {criterion}. {text}."
    do, are = ("do", "are") if _plural(control) else ("does", "is")
    real = "; the difference is real but smaller than that" if low > 0 else ""
    if high < 0:
        real = f"; {control} {are} even better"
    told = f"{control} {do} as well as {criterion}, within {100 * margin:g} pp{real}. {text}."
    return told[0].upper() + told[1:] if control.startswith(("a ", "the ", "tickets ")) else told
