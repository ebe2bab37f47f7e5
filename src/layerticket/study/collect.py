"""One flat table of all rows: ``runs.csv``, and ``runs.parquet`` where pyarrow is installed."""

import csv
import importlib.util
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import read_json, write_atomically
from layerticket.study.folder import StudyFolder
from layerticket.study.job import Surroundings, dataset_of
from layerticket.study.plan import Plan, PlannedRun
from layerticket.study.record import RUN, environment, write_record
from layerticket.study.spec import StudyFile
from layerticket.study.status import cause_of, curve_of, standing_of, status_of
from layerticket.study.toml import study_table, study_text
from layerticket.verdict.pairs import Row, compare_rows

# Too deep for a table; they stand in study.json.
DEEP = ("config", "curve", "scores", "match", "evaluations", "similarity", "removed", "kept")


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row of a study flat: lists become texts, evaluations a column each.

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
    plain |= {f"accuracy on {name}": found["accuracy"] for name, found in judged.items()}
    if row.get("similarity"):
        plain["mean similarity"] = row["similarity"]["mean"]
    return plain


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the table of a study; each file is seen whole or not at all.

    Args:
        folder: Folder of the study.
        rows: The runs of ``study.json``.

    Returns:
        The files.
    """
    table = [flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in table for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    files = [folder / "runs.csv"]
    write_atomically(files[0], text.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        files.append(folder / "runs.parquet")
        write_atomically(files[1], _parquet(table, columns))
    return files


def _parquet(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Return the table as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.table({name: pa.array([row.get(name) for row in table]) for name in columns})
    sink = io.BytesIO()
    pq.write_table(made, sink)
    return sink.getvalue()


STUDY = "study.json"
SCHEMA = 1
TRAINED = (
    "test_accuracy",
    "validation_accuracy",
    "epochs",
    "train_seconds",
    "images_per_second",
    "energy_kwh",
    "co2_kg",
    "energy_method",
    "peak_memory_bytes",
    "params",
    "device",
    "precision",
)
SEARCHED = ("search_seconds", "search_energy_kwh", "sparse_macs", "match")
OF_BLOCKS = ("ticket", "lottery", "control")  # kinds that remove blocks


def collect(
    study: StudyFile, folder: StudyFolder, plan: Plan, around: Surroundings
) -> dict[str, Any]:
    """Collect what is there, and write it to ``study.json`` and ``runs.csv``.

    Two runners may be at work in one folder. Each looks and writes while it alone does, and one
    whose study is no longer that of the folder writes nothing.

    Args:
        study: The study.
        folder: Where it lies.
        plan: Its jobs and rows.
        around: Where and with what it was run.

    Returns:
        What the study came to.
    """
    with folder.held():
        record = _gathered(study, folder, plan, around)
        if folder.holds(plan, study_text(study)):
            write_record(folder.root / STUDY, record)
            write_table(folder.root, record["runs"])
    return record


def _gathered(
    study: StudyFile, folder: StudyFolder, plan: Plan, around: Surroundings
) -> dict[str, Any]:
    """Put everything that is known about a study together."""
    dataset = dataset_of(around)
    networks = _networks(folder, plan)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "title": study.title,
        "study": study_table(study),
        "command": around.command,
        "data": dataset.title,
        "classes": dataset.classes,
        "test_images": len(dataset.test),
        "margin": study.margin,
        "confidence": study.confidence,
        "environment": _environment(folder, around),
        "networks": networks,
        "runs": [_row(run, folder, plan, around, networks) for run in plan.runs],
    }
    tables = {str(table["label"]): table for table in record["study"]["methods"]}
    record["runs"] = [{**row, **_marks(row, tables)} for row in record["runs"]]
    found = compare_rows(
        [Row.from_record(row | _for_now(row)) for row in record["runs"]],
        margin=study.margin,
        confidence=study.confidence,
        networks=networks,
        test_images=record["test_images"],
    )
    comparisons = [one.as_record() for one in found.comparisons]
    return record | {"comparisons": comparisons, "verdict": found.verdict}


def _for_now(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cost and training of a row, until the study records them."""
    search = 0.0 if row["kind"] in ("dense", "shallower", "equal_compute") else None
    search = row["search_seconds"] if row["search_seconds"] is not None else search
    cost = {"train_seconds": row["train_seconds"], "search_seconds": search}
    cost |= {key: row[key] for key in ("energy_kwh", "co2_kg")}
    return {"method": row["label"], "training": row["folder"], "cost": cost}


TICKETS = ("ticket", "lottery")
CONTROLS = ("control", "shallower", "equal_compute")
NEW_WEIGHTS = ", new weights"
RANDOM = re.compile(r"(lottery )?random\b")
NOT_OF_THE_SHAPE = ("label", "initialization")
Table = Mapping[str, Any]


def _marks(run: Mapping[str, Any], tables: Mapping[str, Table]) -> dict[str, Any]:
    label, kind = _label(run, tables), run["kind"]
    table = tables.get(label)
    new = kind in TICKETS and _has_new_weights(label, table)
    role = "baseline"
    if kind == "dense":
        role = "dense"
    elif kind in CONTROLS or new or (kind in TICKETS and _is_random(label, table)):
        role = "control"
    elif kind in TICKETS:
        role = "criterion"
    reference = None
    if new:
        reference = _twin(label, table, tables)
    elif kind not in ("dense", *TICKETS) and table is not None:
        reference = table.get("reference") or _first_ticket(tables)
    return {"role": role, "label": label, "reference": reference}


def _label(run: Mapping[str, Any], tables: Mapping[str, Table]) -> str:
    """Name a method without the number of its draw; a number of the user's own stays."""
    method = str(run["method"])
    if run["draw"] is None:
        return method
    bare = re.sub(rf" {run['draw']}$", "", method)
    several = tables.get(bare, {}).get("draws", 1) > 1
    return method if method in tables and not several else bare


def _has_new_weights(label: str, table: Table | None) -> bool:
    if table is None:
        return label.endswith(NEW_WEIGHTS)
    return table.get("initialization") == "seed"


def _is_random(label: str, table: Table | None) -> bool:
    if table is None:
        return RANDOM.match(label) is not None
    return table.get("criterion") == "random"


def _twin(label: str, table: Table | None, tables: Mapping[str, Table]) -> str | None:
    """Name the method that finds the same shape and trains it from its own weights."""
    if table is None:
        return label.removesuffix(NEW_WEIGHTS)
    shape = _shape(table)
    return next(
        (
            name
            for name, other in tables.items()
            if other.get("initialization") != "seed" and _shape(other) == shape
        ),
        None,
    )


def _shape(table: Table) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in NOT_OF_THE_SHAPE}


def _first_ticket(tables: Mapping[str, Table]) -> str | None:
    return next((name for name, table in tables.items() if table.get("method") in TICKETS), None)


def repeat_command(around: Surroundings, run: str) -> str:
    """Return the command that does one row again, and what it needs, in another folder."""
    words = ["layerticket", "study", "run", "study.toml", "--only", run, "--out", "again"]
    words += ["--threads", str(around.threads)]
    if around.device != "auto":
        words += ["--device", around.device]
    if around.data_dir is not None:
        words += ["--data-dir", str(around.data_dir)]
    for folder in around.shift_dirs:
        words += ["--shift-dir", str(folder)] if folder != around.data_dir else []
    return shlex.join(words)


def _environment(folder: StudyFolder, around: Surroundings) -> dict[str, Any]:
    """Describe software and hardware, and how many jobs of how many threads shared it."""
    shared = {"threads": around.threads, "workers": folder.workers}
    return environment(around.device) | shared


def _networks(folder: StudyFolder, plan: Plan) -> dict[str, Any]:
    """Return what is known about the dense networks by name."""
    found = {}
    for job in plan.jobs.values():
        record = folder.record_of(job.name) if job.kind == "network" else None
        if record is not None:
            found[job.model] = record
    return found


def _row(
    run: PlannedRun,
    folder: StudyFolder,
    plan: Plan,
    around: Surroundings,
    networks: Mapping[str, Any],
) -> dict[str, Any]:
    """Put one row together from what its jobs left."""
    records = {kind: folder.record_of(name) for kind, name in run.jobs.items()}
    trained, search = records["train"], records.get("search") or {}
    place = None if trained is None else folder.root / trained["run"]
    evaluated, similar = records.get("evaluate"), records.get("similarity")
    log, error = _log_and_error(run, folder, plan)
    names = ("id", "model", "budget", "method", "kind", "draw", "seed")
    row: dict[str, Any] = {name: getattr(run, name) for name in names}
    row |= {
        "folder": None if trained is None else trained["run"],
        "status": status_of(run, folder, plan),
        "error": error,
        "log": log,
        **{key: None if trained is None else trained[key] for key in TRAINED},
        "macs": _macs(run, search, networks),
        **{key: search.get(key) for key in SEARCHED},
        **_blocks(run, search, networks),
        "curve": [] if place is None else curve_of(place),
        "evaluations": {} if evaluated is None else evaluated["results"],
        "similarity": similar,
        "config": None if place is None else read_json(place / RUN)["config"],
        "repeat": repeat_command(around, run.id),
    }
    if run.kind == "dense":
        row |= {"search_seconds": 0.0, "search_energy_kwh": 0.0}  # there is nothing to search
    return row


def _macs(run: PlannedRun, search: Mapping[str, Any], networks: Mapping[str, Any]) -> int | None:
    """Multiply-accumulates of the network that is trained; None as long as they are unknown."""
    if "macs" in search:
        return int(search["macs"]["ticket"])
    known = networks.get(run.model) if run.kind == "dense" else None
    return None if known is None else int(known["macs"])


def _blocks(
    run: PlannedRun, search: Mapping[str, Any], networks: Mapping[str, Any]
) -> dict[str, Any]:
    """Tell which blocks went and stayed, and their scores.

    A network without some of its filters or weights has all of its blocks; one of another depth
    has blocks of its own, which are not named.
    """
    if run.kind in OF_BLOCKS:
        found = {key: search.get(key, []) for key in ("removed", "kept")}
        return {**found, "scores": search.get("scores")}
    known = networks.get(run.model) if "model" not in search else None
    names = [] if known is None else [block["name"] for block in known["blocks"]]
    return {"removed": [], "kept": names, "scores": None}


def _log_and_error(
    run: PlannedRun, folder: StudyFolder, plan: Plan
) -> tuple[str | None, str | None]:
    """Return the log to look at, and why the row failed if it did."""
    cause = cause_of(run, folder, plan)
    name = run.jobs["train"] if cause is None else cause[0]
    log, error = folder.log(name), None
    if cause is not None:
        own = name in run.jobs.values()
        error = cause[1] if own else f"{name}, which comes before, failed: {cause[1]}"
    return (_from(log, folder.root) if log.exists() else None, error)


def _from(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def load_study(folder: Path) -> dict[str, Any]:
    """Read ``study.json``: everything a report needs.

    Args:
        folder: Folder of the study.

    Raises:
        LayerticketError: If there is no study.
    """
    return read_json(_existing(folder, STUDY))


def study_status(folder: Path) -> dict[str, Any]:
    """Tell how a study stands, also while another process is at it.

    Args:
        folder: Folder of the study.

    Returns:
        What `layerticket study status --json` prints.

    Raises:
        LayerticketError: If there is no study.
    """
    place = StudyFolder(_existing(folder, "plan.json").parent)
    plan = place.read_plan()
    running = sum(place.is_running(name) for name in plan.jobs)
    return {"study": str(folder), **asdict(standing_of(place, plan, workers=max(1, running)))}


def _existing(folder: Path, name: str) -> Path:
    """Return a file of a study."""
    path = Path(folder) / name
    if not path.exists():
        raise LayerticketError(
            f"{folder} holds no study ({name} is missing). Run one: layerticket study run quick "
            f"--out {folder}"
        )
    return path
