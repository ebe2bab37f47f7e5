"""One try at one job: claim it, keep its log, do it, write down how it ended.

A job that another process works on is left to it. Whatever goes wrong in a job is written down
and told; the worker goes on with the next.
"""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from layerticket.errors import LayerticketError
from layerticket.files import FolderInUse, exclusive
from layerticket.study.jobs.doing import DOING
from layerticket.study.jobs.folder import StudyFolder
from layerticket.study.jobs.task import Outcome, Task

__all__ = ["perform"]


def perform(task: Task, *, redirect: bool = True) -> Outcome:
    """Do a job, or find that it is done.

    Args:
        task: The job.
        redirect: Whether all the process prints goes to the log of the job.

    Returns:
        How it ended; errors of the job are told in it, not raised.
    """
    folder, name = StudyFolder(task.around.root), task.job.name
    try:
        with exclusive(folder.job(name)):
            record = folder.finished(task.job)
            if record is not None:
                return Outcome(name=name, ended="done", record=record)
            folder.begin(task.job)
            with _logged(folder.log(name), redirect=redirect):
                return _tried(task, folder)
    except FolderInUse:
        return Outcome(name=name, ended="busy")


def _tried(task: Task, folder: StudyFolder) -> Outcome:
    """Do the job and write down how it ended."""
    name = task.job.name
    _note(folder.log(name), f"begins: pid {os.getpid()} on {socket.gethostname()}")
    try:
        record = DOING[task.job.kind](task)
    except FolderInUse:
        raise
    except (Exception, SystemExit) as err:  # whatever a model or a file does, others go on
        _note(folder.log(name), traceback.format_exc())
        said = " ".join(str(err).split())
        error = said if isinstance(err, LayerticketError) else f"{type(err).__name__}: {said}"
        folder.fail(name, error)
        return Outcome(name=name, ended="failed", error=error)
    folder.finish(name, record)
    _note(folder.log(name), "done")
    return Outcome(name=name, ended="done", record=record)


def _note(log: Path, text: str) -> None:
    """Add a line with the time to a log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"[{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC] {text}\n")


@contextlib.contextmanager
def _logged(log: Path, *, redirect: bool) -> Iterator[None]:
    """Let all that this process prints go to a log, also what libraries print below Python."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    if not redirect:
        yield
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(number) for number in (1, 2)]
    try:
        with log.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
