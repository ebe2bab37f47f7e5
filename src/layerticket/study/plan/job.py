"""A piece of work as a frozen value; its hash names what it leaves.

Two rows of a study that need the same piece share it, for it is the same value.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from layerticket.files import digest

__all__ = ["KEEP", "Job", "Kind", "PlannedRun"]

KEEP = "keep"
"""Entry of a training's `Job.spec`: epochs whose weights and optimizer stay in its folder."""

Kind = Literal["network", "search", "train", "evaluate", "similarity"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work; everything that decides how it ends is in it, and what it leaves."""

    kind: Kind
    model: str
    """Name of the dense network it is about."""
    seed: int | None
    spec: Mapping[str, Any]
    """What is to be done, as JSON values."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Names of the jobs that come before, by the part they play."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides how it ends; the jobs that come before are in it by name.

        The epochs a training keeps change nothing in it, so they are left out: whatever was made
        of a dense network stands when a method is added that goes back to another epoch.
        """
        spec = {key: value for key, value in self.spec.items() if key != KEEP}
        return digest({**asdict(self), "spec": spec})

    @property
    def name(self) -> str:
        """Name of its folder: readable, and as unique as 48 bits of the hash."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        what = self.spec.get("method") if self.kind == "search" else None
        readable = "-".join([self.kind, *([what] if what else []), self.model])
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', readable)}{seed}-{self.digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One row of a study: a network that is trained and judged."""

    id: str
    model: str
    budget: str | None
    """As in "remove 5"; None for the dense network."""
    method: str
    """Label of the method, or dense."""
    kind: str
    """Kind of the method, or dense."""
    draw: int | None
    seed: int
    jobs: Mapping[str, str]
    """Names of its jobs by kind."""
