"""What is handed to a worker, and what it hands back; both travel between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from layerticket.evaluation import Metering
from layerticket.study.plan.job import Job
from layerticket.training import Tracking

__all__ = ["Outcome", "Surroundings", "Task"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Where and with what a study is run; decides nothing about how jobs end."""

    root: Path
    """Folder of the study."""
    data: str
    validation_fraction: float
    data_dir: Path | None = None
    """Folder of the images."""
    shift_dirs: tuple[Path, ...] = ()
    """Folders of shifted images, beside those of the study file."""
    device: str = "auto"
    threads: int = 1
    """Of each worker."""
    metering: Metering = field(default_factory=Metering)
    tracking: Tracking = field(default_factory=Tracking)
    command: str = ""
    """Command that the study was run with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A job, with what came out of those before it."""

    job: Job
    given: Mapping[str, Mapping[str, Any]]
    """Records of the jobs it needs, by the part they play."""
    around: Surroundings
    repeat: str = ""
    """Command to be noted in what it leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a try at a job ended."""

    name: str
    """The job."""
    ended: Literal["done", "failed", "busy", "died"]
    """busy: another process is at it; died: its worker did not come back."""
    record: Mapping[str, Any] | None = None
    error: str = ""
    spoiled: bool = False
    """Whether its worker may be of no use any more, so that another has to take its place."""
