"""Which runs are compared with which. Enters: the runs of a study file. Leaves: paired figures."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from layerticket.study.statistics.roles import marked

__all__ = ["Group", "done", "failed_text", "groups", "paired"]

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
