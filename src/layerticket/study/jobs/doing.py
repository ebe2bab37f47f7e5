"""What each kind of job does, with the steps of `layerticket find`, `train` and `evaluate`.

Enters: a `Task`. Leaves: a record of JSON values, with folders relative to that of the study.
"""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from layerticket.blocks import find_blocks
from layerticket.data import Dataset, load_data
from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.study.evaluating.conditions import Conditions
from layerticket.study.evaluating.evaluate import evaluate_run
from layerticket.study.evaluating.similarity import similarity_of
from layerticket.study.files.values import build
from layerticket.study.jobs.folder import StudyFolder
from layerticket.study.jobs.task import Surroundings, Task
from layerticket.study.methods.method import Search
from layerticket.study.methods.registry import METHODS, method_of
from layerticket.study.plan.job import KEEP, Kind
from layerticket.study.runs.train import build_named, train_run
from layerticket.training import Recipe
from layerticket.training.keeping import NotKept

__all__ = ["DOING", "dataset_of"]


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
    blocks = find_blocks(model, dataset.train.images[:2].float())
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
    conditions = replace(conditions, folders=(*conditions.folders, *around.shift_dirs))
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
