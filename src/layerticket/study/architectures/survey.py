"""All architectures of a list, each in a process of its own, so that none can stop the others."""

import json
import multiprocessing
import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from layerticket.files import digest
from layerticket.study.architectures.examine import examine
from layerticket.study.architectures.specs import Spec

__all__ = ["survey"]

LIBRARIES = ("timm", "torchvision", "transformers")


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
    """Examine in a process of its own with limits; a failure becomes a row with `error`."""
    context = multiprocessing.get_context("forkserver")  # imports once, not for every network
    context.set_forkserver_preload([__name__, *LIBRARIES])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(spec, memory, theirs))
    process.start()
    theirs.close()
    row: dict[str, Any] = {"name": spec.name, "inputs": spec.inputs}
    try:
        if ours.poll(seconds):
            row.update(ours.recv())
            return row
        process.kill()
        return row | {"error": f"took over {seconds:g} s"}
    except EOFError:
        process.join()
        return row | {"error": f"its process ended with code {process.exitcode}"}
    finally:
        process.join()
        ours.close()


def _answer(spec: Spec, memory: int, back: Connection) -> None:
    """Examine one architecture and send the row, or what went wrong."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        row = examine(spec)
    except Exception as err:
        row = {"error": " ".join(f"{type(err).__name__}: {err}".split())[:300]}
    back.send(row)
    back.close()


def _outcome(row: dict[str, Any]) -> str:
    return row.get("error") or f"{row['blocks']} blocks, saving {row['macs_saving']}"
