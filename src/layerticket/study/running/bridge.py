"""`run_job` over the jobs as they are today, until they have that form themselves."""

from dataclasses import asdict
from pathlib import Path

from layerticket.files import FolderInUse, read_json
from layerticket.study.collect import repeat_command
from layerticket.study.folder import StudyFolder
from layerticket.study.job import Surroundings, Task, perform
from layerticket.study.record import write_record
from layerticket.study.values import build, table_of


def write_context(around: Surroundings) -> None:
    """Write down where and with what the study runs."""
    write_record(around.root / "context.json", table_of(asdict(around)))


def run_job(root: Path, name: str) -> None:
    """Do a job of the study in a folder."""
    around = build(Surroundings, read_json(root / "context.json"), "context.json")
    folder = StudyFolder(root)
    plan = folder.read_plan()
    job = plan.jobs[name]
    given = {role: folder.record_of(need) or {} for role, need in job.needs.items()}
    repeat = repeat_command(around, job.digest[:12]) if job.kind == "train" else ""
    task = Task(job=job, given=given, around=around, repeat=repeat)
    outcome = perform(task, redirect=False)
    if outcome.ended == "busy":
        raise FolderInUse(name)
    if outcome.ended == "failed":
        raise RuntimeError(outcome.error)
