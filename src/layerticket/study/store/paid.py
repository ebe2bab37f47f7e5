"""What a study has paid so far, in energy or carbon: every job once.

The bill of a run holds all it takes to get there: its search, and the dense training that search
looks at. Those are shared by many runs, so the bills of the runs cannot be added up.
"""

from collections.abc import Mapping
from typing import Any, Literal

from layerticket.study.jobs.folder import StudyFolder
from layerticket.study.plan.job import Job
from layerticket.study.plan.unfold import Plan

__all__ = ["paid_so_far"]

Figure = Literal["energy_kwh", "co2_kg"]


def paid_so_far(folder: StudyFolder, plan: Plan, figure: Figure) -> float | None:
    """Add up what the finished trainings and searches of a study took, each its own part.

    Args:
        folder: Where the study lies.
        plan: What belongs to it.
        figure: Which figure of their records.

    Returns:
        The sum; None before the first training ends, and where a part was not metered.
    """
    records = {name: folder.record_of(name) for name in plan.jobs}
    parts = [
        _own(job, records, figure)
        for name, job in plan.jobs.items()
        if job.kind in ("train", "search") and records[name] is not None
    ]
    if not any(records[name] for name, job in plan.jobs.items() if job.kind == "train"):
        return None
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _own(job: Job, records: Mapping[str, dict[str, Any] | None], figure: Figure) -> float | None:
    """Return what a job took itself: its bill without that of the job it carries on."""
    bill = records[job.name] or {}
    if job.kind == "train":
        search = records[job.needs["search"]] or {} if "search" in job.needs else {}
        # What another network or more epochs take is not searched, and is on no bill.
        before = search.get(f"search_{figure}") if "ticket" in search else 0.0
        return _less(bill[figure], before)
    if "ticket" not in bill:
        return 0.0
    dense = records[job.needs["dense"]] or {} if "dense" in job.needs else None
    return _less(bill[f"search_{figure}"], 0.0 if dense is None else dense.get(figure))


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
