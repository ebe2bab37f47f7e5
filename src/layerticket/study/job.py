"""What is handed to a worker, and what it hands back; both travel between processes."""

import contextlib
import functools
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from layerticket.blocks.find import find_blocks
from layerticket.data.dataset import Dataset
from layerticket.data.sources import load_data
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import Metering
from layerticket.evaluation.robustness import Conditions
from layerticket.files import FolderInUse, exclusive
from layerticket.selection import Budget
from layerticket.study.evaluate import evaluate_run, similarity_of
from layerticket.study.folder import StudyFolder
from layerticket.study.methods import METHODS, Search, method_of
from layerticket.study.plan import KEEP, Job, Kind
from layerticket.study.record import build_named, train_run
from layerticket.study.values import build
from layerticket.training.checkpoint import NotKept
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Tracking


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


@functools.lru_cache(maxsize=1)
def _loaded(data: str, data_dir: Path | None, validation_fraction: float) -> Dataset:
    """Load images once a process."""
    return load_data(data, data_dir=data_dir, validation_fraction=validation_fraction)


def dataset_of(around: Surroundings) -> Dataset:
    """Return the images of a study; loaded once a process."""
    return _loaded(around.data, around.data_dir, around.validation_fraction)


def _data(task: Task) -> Dataset:
    """Return the images, if they are those the study was planned with."""
    dataset, wanted = dataset_of(task.around), task.job.spec["data_fingerprint"]
    if dataset.fingerprint != wanted:
        raise LayerticketError(
            f"the images here have fingerprint {dataset.fingerprint[:12]}, the study was planned "
            f"with {wanted[:12]}. Give every worker the same files."
        )
    return dataset


def _network(task: Task) -> dict[str, Any]:
    """Look at the dense network: its cost, and which blocks can go."""
    dataset = _data(task)
    model = build_named(task.job.model, dataset, 0)
    blocks = find_blocks(model, dataset.train.fetch(slice(2)).float())
    fields = ("name", "position", "stage", "macs", "params")
    return {
        "macs": blocks.macs,
        "params": blocks.params,
        "blocks": [{name: asdict(block)[name] for name in fields} for block in blocks],
    }


def _search(task: Task) -> dict[str, Any]:
    """Find what is to be trained in place of the dense network."""
    job, root, around = task.job, task.around.root, task.around
    method = method_of(_settings(job.spec), job.name)
    out = StudyFolder(root).found(job.name)
    if out.exists() and not method.trains:
        shutil.rmtree(out)  # left by a search that was cut off
    dense, reference = task.given.get("dense"), task.given.get("reference")
    at = Search(
        model=job.model,
        dataset=_data(task),
        budget=Budget(**job.spec["budget"]),
        seed=int(job.seed or 0),
        recipe=Recipe(**job.spec["recipe"]),
        out=out,
        draw=job.spec["draw"],
        dense=None if dense is None else root / dense["run"],
        reference=None if reference is None else root / reference["ticket"],
        device=around.device,
        metering=around.metering,
    )
    record = method.search(at)
    if "ticket" in record:
        record = {**record, "ticket": _relative(Path(record["ticket"]), root)}
    if "runs" in record:
        record = {**record, "runs": [_relative(Path(run), root) for run in record["runs"]]}
    return record


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Take the table of the method out of a job."""
    fields = METHODS[spec["method"]].__dataclass_fields__
    return {k: v for k, v in spec.items() if (k == "method" or k in fields) and v is not None}


def _train(task: Task) -> dict[str, Any]:
    """Train the dense network, or what a search found."""
    job, root = task.job, task.around.root
    found = task.given.get("search", {})
    recipe = Recipe(**job.spec["recipe"])
    train = functools.partial(
        train_run,
        found.get("model", job.model),
        _data(task),
        replace(recipe, epochs=found.get("epochs", recipe.epochs)),
        seed=int(job.seed or 0),
        ticket=root / found["ticket"] if "ticket" in found else None,
        initialization=job.spec["initialization"] if "ticket" in found else "ticket",
        initialization_seed=job.spec.get("initialization_seed") if "ticket" in found else None,
        validation_fraction=job.spec["validation_fraction"],
        device=task.around.device,
        progress=False,
        command=task.repeat,
        metering=task.around.metering,
        tracking=task.around.tracking,
    )
    keep = job.spec.get(KEEP, [])
    try:
        result = train(out=StudyFolder(root).runs, keep=keep)
    except NotKept:  # trained before anything went back to these epochs: once more, keeping them
        result = train(out=root / f"runs-keeping-{'-'.join(map(str, keep))}", keep=keep)
    return {**result, "run": _relative(Path(result["run"]), root)}


def _evaluate(task: Task) -> dict[str, Any]:
    """Judge a trained network."""
    spec, around = task.job.spec, task.around
    conditions = build(Conditions, spec["conditions"], "conditions")
    conditions = replace(conditions, shift_dir=(*conditions.shift_dir, *around.shift_dirs))
    run = around.root / task.given["train"]["run"]
    judged = evaluate_run(run, _data(task), spec["on"], conditions=conditions, device=around.device)
    return {**judged, "run": _relative(run, around.root)}


def _similarity(task: Task) -> dict[str, Any]:
    """Compare the layers of a trained network with those of the dense one."""
    root = task.around.root
    run, dense = (root / task.given[role]["run"] for role in ("train", "dense"))
    return similarity_of(run, dense, _data(task))


DOING: Mapping[Kind, Callable[[Task], dict[str, Any]]] = {
    "network": _network,
    "search": _search,
    "train": _train,
    "evaluate": _evaluate,
    "similarity": _similarity,
}


def _relative(path: Path, root: Path) -> str:
    """Tell a folder as seen from that of the study."""
    return path.resolve().relative_to(root.resolve()).as_posix()


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
