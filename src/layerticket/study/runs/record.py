"""The files of one run's folder. Enters: folders and configs. Leaves: records that were checked."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import canonical_json, read_json, write_atomically
from layerticket.study.runs.config import RunConfig
from layerticket.study.runs.environment import environment
from layerticket.training.journal import CHECKPOINT

__all__ = [
    "LATER_KEYS",
    "RESULT",
    "RESULT_KEYS",
    "RUN",
    "WEIGHTS",
    "claim",
    "find_result",
    "load_result",
    "write_record",
]

RUN, RESULT, WEIGHTS = "run.json", "result.json", "model.safetensors"

RESULT_KEYS = (
    "run",
    "test_accuracy",
    "validation_accuracy",
    "epochs",
    "train_seconds",
    "images_per_second",
    "energy_kwh",
    "co2_kg",
    "peak_memory_bytes",
    "params",
    "precision",
    "device",
    "data_wait_share",
    "energy",
    "energy_method",
    "processes",
)
# Not in runs finished before these were measured, where they read as null.
LATER_KEYS = ("data_wait_share", "energy", "energy_method", "processes")


def find_result(config: RunConfig, out: Path) -> dict[str, Any] | None:
    """Look up a finished run without loading data or building networks.

    Args:
        config: The run.
        out: Folder of all runs.

    Returns:
        Its result, or None if the run is not finished.

    Raises:
        LayerticketError: If its folder is damaged or another run's.
    """
    folder = Path(out) / config.name
    if not (folder / RESULT).exists():
        return None
    _check_owner(folder, config)
    return load_result(folder)


def load_result(folder: Path) -> dict[str, Any]:
    """Read what a finished run ended with.

    Args:
        folder: Folder of the run, wherever it lies now.

    Returns:
        The keys of `RESULT_KEYS`; "run" is the folder as given.

    Raises:
        LayerticketError: If the run is not finished, or its result is damaged.
    """
    folder = Path(folder)
    if not (folder / RESULT).exists():
        raise LayerticketError(
            f"{folder} holds no {RESULT}: it is no run, or not finished. Train it to the end."
        )
    result = read_json(folder / RESULT)
    result = dict.fromkeys(LATER_KEYS) | result
    odd = sorted(set(RESULT_KEYS) ^ result.keys())
    if odd:
        raise LayerticketError(
            f"{folder / RESULT} is damaged or foreign: key {odd[0]!r} is missing or unknown. "
            "Delete the folder and train again."
        )
    return {key: result[key] for key in RESULT_KEYS} | {"run": str(folder)}


def claim(folder: Path, config: RunConfig, device: str, command: str, processes: int = 1) -> None:
    """Write ``run.json``, or check that it is ours and note that the run was resumed."""
    session = {
        "environment": environment(device),
        "command": command,
        "processes": processes,
    }
    path = folder / RUN
    if path.exists():
        record = _check_owner(folder, config)
        record["resumed"] = [*record.get("resumed", []), session]
    else:
        if (folder / CHECKPOINT).exists():
            raise LayerticketError(f"{folder} holds a checkpoint but no {RUN}. Delete the folder.")
        record = {"config": asdict(config), **session}
    write_atomically(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def _check_owner(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Read ``run.json`` and refuse a folder of another run."""
    record = read_json(folder / RUN)
    if canonical_json(record.get("config")) != canonical_json(asdict(config)):
        raise LayerticketError(
            f"{folder} belongs to another run. Choose another folder, or delete this one."
        )
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON object for people and programs to read."""
    write_atomically(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
