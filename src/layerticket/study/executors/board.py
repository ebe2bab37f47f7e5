"""Which jobs of a study are left, at work and over; knows nothing of processes."""

import time
from collections import Counter
from dataclasses import dataclass, field

from layerticket.study.jobs.folder import StudyFolder
from layerticket.study.jobs.task import Outcome
from layerticket.study.plan.unfold import Plan

__all__ = ["PAUSE", "Board"]

PAUSE = 1.0  # seconds until a job that another process is at is looked at again


@dataclass(slots=True)
class Board:
    """Which jobs are left, at work and over."""

    plan: Plan
    folder: StudyFolder
    retries: int
    left: dict[str, None] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    deaths: Counter[str] = field(default_factory=Counter)
    again: dict[str, float] = field(default_factory=dict)
    """When a job that another process is at may be tried again."""

    def ready(self) -> str | None:
        """Return the first job that can be begun now; those that never can be are given up."""
        for name in list(self.left):
            needs = self.plan.jobs[name].needs.values()
            if self.failed.intersection(needs):
                self.failed.add(name)
                del self.left[name]
            elif self.again.get(name, 0.0) <= time.monotonic() and all(
                self.folder.finished(self.plan.jobs[need]) is not None for need in needs
            ):
                return name
        return None

    def ended(self, outcome: Outcome) -> None:
        """Take note of how a try ended."""
        name = outcome.name
        self.running.discard(name)
        if outcome.ended == "died":
            self.deaths[name] += 1
            if self.deaths[name] > self.retries:
                tries = self.deaths[name]
                self.folder.fail(name, f"{outcome.error}, {tries} times of {tries}")
                self.failed.add(name)
            else:
                self.left[name] = None
        elif outcome.ended == "busy":
            self.again[name] = time.monotonic() + PAUSE
            self.left[name] = None
        elif outcome.ended == "failed":
            self.failed.add(name)
