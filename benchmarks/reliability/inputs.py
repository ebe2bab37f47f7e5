"""Test generated bad inputs: tickets, study files, data folders, command lines; 500 of each.

    python benchmarks/reliability/inputs.py --each 500

Each must be accepted, or fail with a one-line error. A traceback, or more than `TIME_LIMIT`
seconds, is a fault and is printed with its input.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import pickle
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from common import EPOCHS, MODEL, build, scratch

from layerticket.errors import LayerticketError
from layerticket.files import digest

TIME_LIMIT = 20
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, 10**30, 10**400, 2**63 - 1, "", "x", "²", "٣",
    "\ud800", "\0", "../..", "/etc/passwd", "nan", "a" * 5000, "9" * 5000, [], [None], [[[]]],
    ["x"] * 50, {}, {"a": 1}, {"": {}}, {"../x": "y"}, [1, "a", None], float("nan"), float("inf"),
]  # fmt: skip
WORDS = [
    "", "x", "-1", "0", "1e999", "nan", "inf", "²", "٣", "9" * 400, "9" * 5000, "a" * 5000,
    "\udc80", "a\0b", "../..", "/etc/hostname", "/dev/null", "/proc/self/mem", "3,²,32", "1,2",
    "[]", "{}",
    "true", "--json", "-", "--", "torch:zeros", "sys:exit", "a.b:c", ":", "timm:",
    "hf:/etc", "resnet21", "common:nothing", "0x10", "1_000", " ", "\n", "%s", "100%", "-5%",
    "2GiB",
]  # fmt: skip
VERBS: dict[str, list[str]] = {
    "blocks": ["--input-shape", "--data", "--granularity", "--spread", "--repeats"],
    "find": [
        "--remove", "--save-macs", "--save-params", "--save-time", "--max-memory", "--criterion",
        "--seed", "--rounds", "--images", "--temperature", "--reduction", "--normalization",
        "--redraw",
        "--micro-batches", "--protect", "--min-per-stage", "--run", "--rewind", "--baseline",
        "--reference", "--draw", "--match", "--data", "--data-dir", "--device",
        "--validation-fraction",
    ],
    "train": [
        "--epochs", "--batch-size", "--learning-rate", "--momentum", "--betas", "--weight-decay",
        "--schedule", "--warmup-epochs", "--augmentation", "--seed", "--init-seed", "--keep",
        "--ticket",
        "--preset", "--data", "--device", "--clip-norm", "--ema-decay", "--precision",
        "--carbon-intensity", "--cpu-tdp",
    ],
    "evaluate": ["--on", "--epsilons", "--steps", "--images", "--seed", "--shift-dir", "--device"],
    "study run": [
        "--set", "--only", "--workers", "--executor", "--threads", "--retries", "--device",
    ],
    "study status": [],
    "report": ["--out"],
    "demo": ["--remove", "--criteria", "--seeds", "--epochs", "--margin", "--data", "--device"],
}  # fmt: skip


class TooLong(BaseException):
    """An attempt took more than `TIME_LIMIT` seconds."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise `TooLong` after `TIME_LIMIT` seconds."""

    def late(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutated(value: Any, draws: random.Random) -> Any:
    """Change one thing in nested tables and lists: replace a value, delete a key or add one."""
    value = copy.deepcopy(value)
    place, path = value, []
    while isinstance(place, (dict, list)) and place and (not path or draws.random() < 0.6):
        key = draws.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path.append((place, key))
        place = place[key]
    inside, key = path[-1]
    how = draws.random()
    if how < 0.1 and isinstance(inside, dict):
        del inside[key]
    elif how < 0.2 and isinstance(inside, dict):
        inside[draws.choice(["unknown", "", "schema", "é" * 9])] = draws.choice(ODD)
    else:
        inside[key] = copy.deepcopy(draws.choice(ODD))
    return value


def damaged(content: bytes, draws: random.Random) -> bytes:
    """Cut, overwrite, repeat or delete bytes of a file."""
    at = draws.randrange(len(content) + 1)
    how = draws.randrange(5)
    if how == 0:
        return content[:at]
    if how == 1:
        few = bytes(draws.randrange(256) for _ in range(draws.randrange(1, 9)))
        return content[:at] + few + content[at + len(few) :]
    if how == 2:
        return content[:at] + content[at // 2 :]
    if how == 3:
        return draws.randbytes(draws.randrange(200))
    return content[:at] + content[at + draws.randrange(1, 50) :]


def in_place_of(path: Path, draws: random.Random) -> str:
    """Replace a file by something else: a pipe, a folder, a link to nothing or to itself."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    how = draws.choice(["pipe", "folder", "loop", "dangling", "nothing", "device", "unreadable"])
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how in ("loop", "dangling", "device"):
        target = {"loop": path.name, "dangling": "nowhere", "device": "/dev/zero"}[how]
        path.symlink_to(target)
    elif how == "unreadable":
        path.write_bytes(b"")
    return how


Attempt = Callable[[], object]


def tickets(folder: Path, draws: random.Random) -> Iterator[tuple[str, Attempt]]:
    """Yield tickets with a changed record and a right checksum, or with damaged files."""
    import layerticket as lt

    model = build(10, 1)
    batch = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    found = lt.find_ticket(model, batch, criterion="snip", budget=lt.Budget(remove=1), noise=True)
    whole, place = found.save(folder / "whole"), folder / "t"

    def load() -> object:
        return lt.Ticket.load(place).apply(model)

    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        file = draws.choice(["ticket.json", "ticket.json", "ticket.json", "init.safetensors"])
        path = place / file
        how = draws.random()
        if how < 0.7 and file == "ticket.json":
            record = mutated(json.loads(path.read_text()), draws)
            with contextlib.suppress(LayerticketError):
                record["checksum"] = digest({k: v for k, v in record.items() if k != "checksum"})
            with contextlib.suppress(ValueError):  # Python writes no number of 5,000 digits
                path.write_text(json.dumps(record))
            yield f"changed record: {str(record)[:200]}", load
        elif how < 0.9:
            path.write_bytes(damaged(path.read_bytes(), draws))
            yield f"damaged {file}", load
        else:
            yield f"{in_place_of(path, draws)} in place of {file}", load


def study_files(folder: Path, draws: random.Random) -> Iterator[tuple[str, Attempt]]:
    """Yield study files with wrong values or damaged bytes; studies are planned, not run."""
    import tomllib

    from layerticket.study.plan import unfold
    from layerticket.study.toml import SHIPPED, read_study

    shipped = [tomllib.loads(path.read_text()) for path in sorted(SHIPPED.glob("[a-z]*.toml"))]
    path = folder / "study.toml"

    def plan() -> object:
        return unfold(read_study(path), {"fingerprint": "a"})

    while True:
        table = draws.choice(shipped)
        for _ in range(draws.randrange(1, 4)):
            table = mutated(table, draws)
        try:
            text = tomli_w.dumps(table).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError, AttributeError):  # TOML has no None
            continue
        if draws.random() < 0.2:
            text = damaged(text, draws)
        path.write_bytes(text)
        yield f"study file {text[:200]!r}", plan


def data_folders(folder: Path, draws: random.Random) -> Iterator[tuple[str, Attempt]]:
    """Yield CIFAR's batches, shifted sets and image folders with one damaged or replaced file."""
    from PIL import Image

    from layerticket.data.folders import read_folder
    from layerticket.data.shifts import open_published, read_shift
    from layerticket.data.sources import SHIFTS, load_data

    rng, whole, place = np.random.default_rng(0), folder / "whole", folder / "d"
    pixels = rng.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    digits = load_data("digits")
    batches, shifts, images = whole / "cifar-10-batches-py", whole / "shifts", whole / "images"
    for one in (batches, shifts, *(images / str(n) for n in range(10))):
        one.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        content = {b"data": pixels[:10].reshape(10, -1), b"labels": list(range(10))}
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))
    shift = SHIFTS["cifar10.1"]
    np.save(shifts / shift.images, pixels)
    np.save(shifts / str(shift.labels), np.arange(2000) % 10)
    np.save(shifts / "gaussian_noise.npy", pixels[:1795].reshape(-1, 32, 32, 3))
    np.save(shifts / "labels.npy", np.arange(1795) % 10)
    for n in range(10):
        Image.fromarray(pixels[n]).save(images / str(n) / "a.png")
    readers: dict[str, Attempt] = {
        "cifar-10-batches-py": lambda: load_data("cifar10", data_dir=place),
        "shifts": lambda: (
            read_shift("cifar10.1", [place / "shifts"]),
            open_published(place / "shifts", ["gaussian_noise"], 359, (3, 32, 32), 10),
        ),
        "images": lambda: read_folder(place / "images", digits, image_size=(8, 8)),
    }
    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        kind = draws.choice(list(readers))
        path = draws.choice(sorted(p for p in (place / kind).rglob("*") if p.is_file()))
        how = draws.random()
        if how < 0.6:
            path.write_bytes(damaged(path.read_bytes(), draws))
            what = "damaged"
        elif how < 0.8:
            what = in_place_of(path, draws)
        else:
            other = draws.choice(["²", "٣", "-1", "x", "1000000", "data_batch_9", "é"])
            target = path.parent if kind == "images" else path
            target.rename(target.with_name(other))
            what = f"renamed to {other}"
        yield f"{path.relative_to(place)} {what}", readers[kind]


def command_lines(folder: Path, draws: random.Random) -> Iterator[tuple[str, Attempt]]:
    """Yield command lines with at least one wrong argument."""
    from layerticket.cli.app import main

    kept: dict[str, str] = {"out": str(folder / "out")}

    def one(words: list[str]) -> Attempt:
        def call() -> object:
            said = io.StringIO()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                code = main(words)
            lines = [line for line in said.getvalue().splitlines() if line.strip()]
            if code and len([line for line in lines if line.startswith("layerticket: ")]) < 1:
                raise AssertionError(f"exit code {code} without a message")
            if any(line.startswith("Traceback") for line in lines):
                raise AssertionError(lines[-1])
            if code:
                raise LayerticketError(lines[-1])
            return None

        return call

    while True:
        verb = draws.choice(list(VERBS))
        first = draws.choice(["resnet20", MODEL, *WORDS]) if verb != "demo" else ""
        words = [*verb.split(), *([first] if first else [])]
        for option in draws.sample(VERBS[verb], min(len(VERBS[verb]), draws.randrange(1, 4))):
            words += [option, draws.choice(WORDS)]
        if verb in ("find", "train", "study run", "demo"):
            words += ["--out", draws.choice([kept["out"], kept["out"], "/etc/hostname", "a\0b"])]
        if verb == "train" and "--epochs" not in words:
            words += ["--epochs", str(EPOCHS)]
        yield f"layerticket {words!r}"[:300], one(words)


KINDS = {
    "tickets": tickets,
    "study files": study_files,
    "data folders": data_folders,
    "command lines": command_lines,
}


def measure(kind: str, each: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Try `each` inputs of a kind; return the number of each outcome, and the faults."""
    found: Counter[str] = Counter()
    faults: list[str] = []
    with scratch() as folder:
        made = KINDS[kind](folder, random.Random(seed))
        for _ in range(each):
            what, attempt = next(made)
            try:
                with time_limit():
                    attempt()
                found["accepted"] += 1
            except LayerticketError:
                found["one-line error"] += 1
            except TooLong:
                found["too long"] += 1
                faults.append(f"too long: {what}")
            except BaseException as err:
                found["traceback"] += 1
                faults.append(f"{type(err).__name__}: {str(err)[:200]}: {what}")
    return found, faults


def main() -> None:
    """Measure, and print one line per kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    given = parser.parse_args()
    for kind in given.kind or KINDS:
        found, faults = measure(kind, given.each, given.seed)
        print(json.dumps({kind: found}), flush=True)
        for fault in faults:
            print("  " + ascii(fault), flush=True)


if __name__ == "__main__":
    main()
