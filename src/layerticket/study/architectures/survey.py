"""All architectures of a list, each in a process of its own, so that none can stop the others.

Run as ``python -m layerticket.study.architectures.survey SPEC`` it examines one and prints the row.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerticket.files import digest
from layerticket.study.architectures.examine import examine
from layerticket.study.architectures.specs import Spec

__all__ = ["survey"]


def survey(
    specs: Sequence[Spec],
    journal: Path,
    *,
    seconds: float = 300,
    memory: int = 6 * 2**30,
    versions: dict[str, str],
    tell: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Examine architectures one after the other, on one thread each.

    Args:
        specs: What to examine.
        journal: File of finished rows, a JSON line each; rows in it that were made of the same
            specification with the same versions are not made again.
        seconds: Time each one may take.
        memory: Bytes each one may take.
        versions: Versions of the libraries, recorded with each row.
        tell: Called with a line of progress.

    Returns:
        The rows in the order of `specs`. Where the examination itself failed, a row has `error`
        (the last line of what the process said) instead of figures.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    done = _finished(journal)
    rows = []
    for number, spec in enumerate(specs, start=1):
        key = digest({"spec": asdict(spec), "versions": versions})
        if key not in done:
            done[key] = _apart(spec, seconds, memory)
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "row": done[key]}) + "\n")
            tell(f"{number} of {len(specs)}: {spec.name}: {_outcome(done[key])}")
        rows.append(done[key])
    return rows


def _finished(journal: Path) -> dict[str, dict[str, Any]]:
    """Read the rows of an earlier call; a line cut off by an interruption is made again."""
    rows = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[entry["key"]] = entry["row"]
    return rows


def _apart(spec: Spec, seconds: float, memory: int) -> dict[str, Any]:
    """Examine in a fresh process with limits; a failure becomes a row with `error`."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(spec)), str(memory)]
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=os.environ | one,
        )
    except subprocess.TimeoutExpired:
        return {"name": spec.name, "inputs": spec.inputs, "error": f"took over {seconds:g} s"}
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [f"ended with code {ran.returncode}"])[-1]
        return {"name": spec.name, "inputs": spec.inputs, "error": last}
    row: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return row


def _outcome(row: dict[str, Any]) -> str:
    return row.get("error") or f"{row['blocks']} blocks, saving {row['macs_saving']}"


def _main(spec: str, memory: str) -> None:
    """Answer for one architecture on stdout."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    sys.stdout.write(json.dumps(examine(Spec(**json.loads(spec)))) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
