"""Collect the results of a study: ``study.json`` for reports, ``runs.csv`` as one flat table."""

import csv
import functools
import importlib.util
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerticket.files import canonical_json, read_json, write_atomically, write_json
from layerticket.study.evaluate import EVALUATION, PAIRS
from layerticket.study.folder import Context, StudyFolder
from layerticket.study.job import dataset_of
from layerticket.study.plan import Plan, PlannedRow
from layerticket.study.record import FIRST, RUN, WEIGHTS, environment
from layerticket.study.spec import StudyFile
from layerticket.study.status import StudyView, curve_of, existing
from layerticket.study.toml import study_table, study_text
from layerticket.training.checkpoint import METRICS
from layerticket.verdict.pairs import SCHEMA, Row, as_record, compare_rows

STUDY = "study.json"
# Nested values: they are in study.json only.
DEEP = (
    "config",
    "curve",
    "scores",
    "match",
    "evaluations",
    "similarity",
    "removed",
    "kept",
    "cost",
)
OF_TRAINING = (
    "test_accuracy",
    "validation_accuracy",
    "correct",
    "epochs",
    "train_seconds",
    "images_per_second",
    "data_wait_share",
    "energy_kwh",
    "co2_kg",
    "energy_method",
    "peak_memory_bytes",
    "params",
    "device",
    "precision",
    "workers",
    "jobs_beside",
)
OF_SEARCH = ("search_seconds", "search_energy_kwh", "sparse_macs", "match")
OF_BLOCKS = ("ticket", "lottery", "control")  # kinds that remove blocks


def collect(study: StudyFile, folder: StudyFolder, plan: Plan, context: Context) -> dict[str, Any]:
    """Collect the results so far, and write them to ``study.json`` and ``runs.csv``.

    Two runners can share a folder. Each reads and writes under a lock, and writes nothing if the
    folder has been given another version of the study.

    Args:
        study: The study.
        folder: Its folder.
        plan: Its jobs and rows.
        context: Its context: command, device, threads, data folders.

    Returns:
        The content of ``study.json``.
    """
    with folder.held():
        record = _collected(study, folder, plan, context)
        if folder.matches(plan, study_text(study)):
            write_json(folder.root / STUDY, record)
            write_table(folder.root, record["runs"])
            if study.keep_weights == "none":
                drop_weights(folder, plan)
    return record


def load_study(folder: Path) -> dict[str, Any]:
    """Read ``study.json``, which has everything a report needs.

    Args:
        folder: Folder of the study.

    Raises:
        LayerticketError: If there is no study.
    """
    return read_json(existing(folder, STUDY))


def repeat_command(context: Context, row: str) -> str:
    """Return the command that repeats one row, and the jobs it needs, in another folder."""
    words = ["layerticket", "study", "run", "study.toml", "--only", row, "--out", "again"]
    words += ["--threads", str(context.threads)]
    if context.device != "auto":
        words += ["--device", context.device]
    if context.data_dir is not None:
        words += ["--data-dir", str(context.data_dir)]
    for folder in context.shift_dirs:
        words += ["--shift-dir", str(folder)] if folder != context.data_dir else []
    return shlex.join(words)


def _collected(
    study: StudyFile, folder: StudyFolder, plan: Plan, context: Context
) -> dict[str, Any]:
    """Return the content of ``study.json``."""
    view = StudyView.of(folder, plan)
    dataset = dataset_of(study, context.data_dir)
    networks = {
        job.model: record
        for job in plan.jobs.values()
        if job.kind == "network" and (record := view.folder.record(job.name)) is not None
    }
    rows = [_row(row, view, context, networks) for row in plan.rows]
    gathered: dict[str, Any] = {
        "schema": SCHEMA,
        "title": study.title,
        "study": study_table(study),
        "command": context.command,
        "data": dataset.title if study.has_data else None,
        "classes": dataset.classes,
        "test_images": len(dataset.test) if study.has_data else None,
        "margin": study.margin,
        "confidence": study.confidence,
        "environment": _environment(view, context),
        "environments": _environments(view),
        "networks": networks,
        "cost": asdict(view.total_bill().total),
        "runs": as_record(rows),
    }
    found = compare_rows(
        rows,
        margin=study.margin,
        confidence=study.confidence,
        networks=networks,
        test_images=gathered["test_images"],
    )
    return gathered | {"comparisons": as_record(found.comparisons), "verdict": found.verdict}


def _environment(view: StudyView, context: Context) -> dict[str, Any]:
    """Return software and hardware of the first finished training, with threads and workers."""
    known = (view.result(row) for row in view.plan.rows)
    first = next((result for result in known if result is not None), None)
    found = dict(first["environment"]) if first is not None else environment()
    return found | {"threads": context.threads, "workers": context.workers}


def _environments(view: StudyView) -> list[dict[str, Any]]:
    """List where the study ran: one entry for each task and environment, with seeds and runs.

    A resumed training is listed in every environment that it ran in.
    """
    found: dict[tuple[str, str], tuple[dict[str, Any], set[int], set[str]]] = {}
    for row in view.plan.rows:
        record = view.folder.record(row.jobs["train"])
        if record is None or view.result(row) is None:
            continue
        place = view.folder.training(record["training"])
        begun = view.folder.read(place / RUN) or {}
        judged = view.folder.read(place / EVALUATION)
        pairs = view.folder.read(place / PAIRS) or {}
        sessions = {
            "training": [begun, *begun.get("resumed", [])],
            "evaluation": [] if judged is None else [judged],
            **{name: list(of.values()) for name, of in pairs.items()},
        }
        for task, each in sessions.items():
            for known in (one["environment"] for one in each if one.get("environment")):
                key = task, canonical_json(known)
                _, seeds, runs = found.setdefault(key, (known, set(), set()))
                seeds.add(row.seed)
                runs.add(place.name)
    return [
        {"task": task, "seeds": sorted(seeds), "runs": len(runs), "environment": known}
        for (task, _), (known, seeds, runs) in found.items()
    ]


def _row(
    row: PlannedRow, view: StudyView, context: Context, networks: Mapping[str, Mapping[str, Any]]
) -> Row:
    """Return one row, from the records of its jobs."""
    folder = view.folder
    record, result = folder.record(row.jobs["train"]), view.result(row)
    search = folder.record(row.jobs["search"]) if "search" in row.jobs else None
    judged = folder.record(row.jobs["evaluate"]) if "evaluate" in row.jobs else None
    place = None if record is None or result is None else folder.training(record["training"])
    found, error, log = search or {}, None, folder.log(row.jobs["train"])
    if (cause := view.cause_of(row)) is not None:
        log, own = folder.log(cause[0]), cause[0] in row.jobs.values()
        error = cause[1] if own else f"the earlier job {cause[0]} failed: {cause[1]}"
    figures: dict[str, Any] = {
        name: None if result is None else result[name] for name in OF_TRAINING
    }
    figures |= {name: found.get(name) for name in OF_SEARCH}
    if row.kind == "dense":
        figures |= {"search_seconds": 0.0, "search_energy_kwh": 0.0}  # no search
    names = ("id", "model", "budget", "method", "kind", "role", "reference", "draw", "seed")
    planned: dict[str, Any] = {name: getattr(row, name) for name in names}
    return Row(
        **planned,
        **figures,
        **_blocks(row, found, networks),
        training=None if record is None else record["training"],
        status=view.state(row),
        error=error,
        log=_from(log, folder.root) if log.exists() else None,
        folder=None if place is None else _from(place, folder.root),
        macs=_macs(row, found, networks),
        curve=()
        if place is None
        else _curve(place, (place / METRICS).stat().st_mtime_ns)
        if (place / METRICS).exists()
        else (),
        evaluations={} if judged is None else judged["results"],
        similarity=None if judged is None else judged["similarity"],
        config=None if place is None or result is None else _config(place, result, folder),
        repeat=repeat_command(context, row.id),
        cost=None if result is None else asdict(view.bill(row).total),
    )


def _config(place: Path, result: Mapping[str, Any], folder: StudyFolder) -> dict[str, Any] | None:
    """Return the config of a training; of a user's own, also whether it changed parameters."""
    config: dict[str, Any] | None = (folder.read(place / RUN) or {}).get("config")
    known = result["parameters_unchanged"]
    return config if config is None or known is None else {**config, "parameters_unchanged": known}


@functools.lru_cache(maxsize=100_000)
def _curve(place: Path, when: int) -> tuple[Any, ...]:
    """Read a curve once per version of its file."""
    return tuple(curve_of(place))


def _macs(
    row: PlannedRow, found: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]]
) -> int | None:
    """Return the multiply-accumulates of the trained network; None if not known yet."""
    if "macs" in found:
        return int(found["macs"]["ticket"])
    known = networks.get(row.model) if row.kind == "dense" else None
    return None if known is None else int(known["macs"])


def _blocks(
    row: PlannedRow, found: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the removed and kept blocks, and their scores.

    A network with filters or weights removed keeps all its blocks. The blocks of a network of
    another depth are not listed.
    """
    if row.kind in OF_BLOCKS:
        gone, left = (tuple(found.get(key, ())) for key in ("removed", "kept"))
        return {"removed": gone, "kept": left, "scores": found.get("scores")}
    known = networks.get(row.model) if "model" not in found else None
    names = () if known is None else tuple(block["name"] for block in known["blocks"])
    return {"removed": (), "kept": names, "scores": None}


def _from(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def drop_weights(folder: StudyFolder, plan: Plan) -> None:
    """Delete the weights and snapshots of trainings that no open job of the plan needs."""
    view = folder.view()
    needed: set[str] = set()
    known: set[str] = set()
    for name, job in plan.jobs.items():
        open_ = not view.is_done(name)
        if job.kind == "search" and not open_:  # the rounds of iterative pruning
            known.update(Path(run).name for run in (view.record(name) or {}).get("runs", ()))
        for need in (name, *job.needs.values()):
            record = view.record(need) if need.startswith("train-") else None
            if record is not None:
                known.add(record["training"])
                if open_:
                    needed.add(record["training"])
        if open_ and job.kind == "train" and "search" in job.needs:
            search = view.record(job.needs["search"])
            needed.update((search or {}).get("inputs", {}))
    for training in known - needed:
        place = folder.training(training)
        for path in (place / WEIGHTS, place / FIRST, *place.glob("epoch-*.safetensors")):
            path.unlink(missing_ok=True)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a row of a study: lists become text, each evaluation becomes a column.

    Example:
        >>> row = {"seed": 0, "removed": ["a", "b"], "evaluations": {"fgsm": {"accuracy": 0.5}}}
        >>> flat(row)
        {'seed': 0, 'removed': 'a b', 'accuracy on fgsm': 0.5}
    """
    plain = {key: value for key, value in row.items() if key not in DEEP}
    for key in ("removed", "kept"):
        if key in row:
            plain[key] = " ".join(row[key])
    judged = row.get("evaluations") or {}
    plain |= {
        f"accuracy on {name}": found["accuracy"]
        for name, found in judged.items()
        if "accuracy" in found
    }
    if row.get("similarity"):
        plain["mean similarity"] = row["similarity"]["mean"]
    return plain | {f"cost_{key}": value for key, value in (row.get("cost") or {}).items()}


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of a study; each file is written atomically.

    Args:
        folder: Folder of the study.
        rows: The runs of ``study.json``.
    """
    table = [flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in table for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(folder / "runs.csv", text.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        write_atomically(folder / "runs.parquet", _parquet(table, columns))


def _parquet(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Return the table as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.table({name: pa.array([row.get(name) for row in table]) for name in columns})
    sink = io.BytesIO()
    pq.write_table(made, sink)
    return sink.getvalue()
