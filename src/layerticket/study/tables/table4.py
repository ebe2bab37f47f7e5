"""Table 4 of the paper, measured here: what tickets of ResNet-32 and ResNet-56 save in training.

    python -m layerticket.study.tables.table4 --out DIR [--steps 15] [--batch-size 128]

Networks have projection shortcuts and images 3x32x32 pixels of noise, on which costs do not
depend. Blocks are chosen by GraSP at initialization, neighbours of down-samplings stay. Every row
is a file of its own in DIR/rows, so what was cut off goes on with the same command.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from layerticket.blocks.find import find_blocks
from layerticket.counting import count, held_bytes, realized_share
from layerticket.data.batches import scoring_batch
from layerticket.data.dataset import noise
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import Metering
from layerticket.evaluation.memory import MemoryRequest, peak_memory
from layerticket.evaluation.timing import inference_seconds, ratio_of
from layerticket.files import digest, read_json, write_atomically
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.study.measure import Bench, measure_steps
from layerticket.study.record import environment, write_record
from layerticket.study.tables.table4_text import PAPER, table4_text
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from layerticket.training.device import resolve_device, resolve_precision
from layerticket.training.recipe import Recipe

__all__ = ["main", "table4"]

SHAPE, CLASSES = (3, 32, 32), 10


def table4(
    bench: Bench, out: Path, *, rows: tuple[tuple[str, int], ...] = tuple(PAPER), command: str = ""
) -> dict[str, Any]:
    """Measure the rows of Table 4 that are not yet measured, and write both files.

    Args:
        bench: What is measured on; its recipe gives batch size and precision.
        out: Folder of ``table4.json``, ``table4.md`` and the rows.
        rows: (network, blocks removed); all seven by default.
        command: Command line to be noted.

    Returns:
        What ``table4.json`` holds.

    Raises:
        LayerticketError: If a network has too few blocks that may go.
    """
    conditions = {
        "batch_size": bench.recipe.batch_size,
        "precision": resolve_precision(bench.recipe.precision, resolve_device(bench.device)),
        "rounds": bench.rounds,
        "environment": environment(bench.device),
        "metering": None if bench.metering is None else asdict(bench.metering),
    }
    found = []
    for network, removed in rows:
        path = out / "rows" / f"{network}-{removed}-{digest(conditions)[:8]}.json"
        if not path.exists():
            write_record(path, _row(network, removed, bench))
        found.append(read_json(path))
    summary = {"command": command, **conditions, "rows": found}
    write_record(out / "table4.json", summary)
    write_atomically(out / "table4.md", table4_text(summary))
    return summary


def _row(network: str, removed: int, bench: Bench) -> dict[str, Any]:
    """Measure one row."""
    name = f"{network}-projection"
    dense = build_model(name, classes=CLASSES, channels=SHAPE[0], seed=0)
    ticket = find_ticket(
        dense,
        scoring_batch(bench.dataset, bench.dataset.train, 100, seed=0, balanced=False),
        criterion="grasp",
        budget=Budget(remove=removed),
        keep_neighbours=len(find_blocks(dense, torch.zeros(1, *SHAPE))) - 4 >= removed,
        name=name,
        seed=0,
    )
    models = {"dense": dense, "ticket": ticket.apply(dense)}
    counted = _counted(models, bench)
    timed = _timed(models, bench)
    macs = 1 - counted["training_macs"]["ticket"] / counted["training_macs"]["dense"]
    return {
        "network": network,
        "removed": removed,
        "blocks": list(ticket.removed),
        "saved": _saved(counted, _peaks(name, ticket, bench), timed),
        "speedup": timed["speedup"],
        "realized_share": realized_share(macs, 1 - 1 / timed["speedup"]["value"]),
        "counts": counted,
        "timing": timed,
        "paper": PAPER[network, removed],
    }


def _counted(models: Mapping[str, torch.nn.Module], bench: Bench) -> dict[str, dict[str, int]]:
    """Everything that can be counted, by figure and network."""
    size = bench.recipe.batch_size
    batch = scoring_batch(bench.dataset, bench.dataset.train, size, seed=0, balanced=False)
    few = (batch[0][:2], batch[1][:2])
    bf16 = resolve_precision(bench.recipe.precision, resolve_device(bench.device)) == "bf16"
    counts = {name: count(model, few) for name, model in models.items()}
    return {
        "macs": {name: found.macs for name, found in counts.items()},
        "training_macs": {name: found.training_macs for name, found in counts.items()},
        "params": {name: found.params for name, found in counts.items()},
        "held_bytes": {name: held_bytes(m, batch, bf16=bf16) for name, m in models.items()},
    }


def _timed(models: Mapping[str, torch.nn.Module], bench: Bench) -> dict[str, Any]:
    """Everything that is measured with a clock or a meter."""
    steps = measure_steps(models, bench)
    energy = None
    if steps.kwh is not None:
        energy = asdict(ratio_of(steps.kwh["ticket"], steps.kwh["dense"]))
    images = torch.zeros(bench.recipe.batch_size, *SHAPE)
    forward = {
        size: inference_seconds(models, images, batch_size=size, rounds=rounds)
        for size, rounds in ((1, 10 * bench.rounds), (len(images), bench.rounds))
    }
    return {
        "seconds": steps.seconds,
        "speedup": asdict(ratio_of(steps.seconds["dense"], steps.seconds["ticket"])),
        "data_wait_share": steps.data_wait_share,
        "energy_ratio": energy,
        "energy_method": steps.method,
        "latency_speedup": asdict(ratio_of(forward[1]["dense"], forward[1]["ticket"])),
        "throughput_speedup": asdict(
            ratio_of(forward[len(images)]["dense"], forward[len(images)]["ticket"])
        ),
    }


def _peaks(name: str, ticket: Ticket, bench: Bench) -> dict[str, dict[str, int]]:
    """Peak memory of both networks, each in a process of its own."""
    found = {}
    for side, removed in (("dense", ()), ("ticket", ticket.removed)):
        request = MemoryRequest(
            model=name,
            shape=SHAPE,
            classes=CLASSES,
            removed=removed,
            recipe=bench.recipe,
            device=bench.device,
        )
        peak = peak_memory(request)
        found[side] = {"peak": peak.peak_bytes, "training": peak.training_bytes}
    return found


def _saved(
    counted: Mapping[str, Mapping[str, int]],
    peaks: Mapping[str, Mapping[str, int]],
    timed: Mapping[str, Any],
) -> dict[str, float | None]:
    """Savings as shares of the dense network's figures."""
    shares: dict[str, float | None] = {
        name: 1 - counted[name]["ticket"] / counted[name]["dense"]
        for name in ("macs", "training_macs", "params", "held_bytes")
    }
    shares |= {
        f"{kind}_memory": 1 - peaks["ticket"][kind] / peaks["dense"][kind]
        for kind in ("peak", "training")
    }
    ratio = timed["energy_ratio"]
    return shares | {"energy": None if ratio is None else 1 - ratio["value"]}


def main(argv: list[str] | None = None) -> int:
    """Measure and write the table; see the head of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m layerticket.study.tables.table4", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--steps", type=int, default=15, help="timed rounds of steps a row")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch; all by default")
    parser.add_argument("--device", default="auto")
    for name in ("--carbon-intensity", "--cpu-tdp", "--ram-power"):
        parser.add_argument(name, type=float)
    parser.add_argument("--country")
    given = parser.parse_args(argv)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    try:
        bench = Bench(
            dataset=noise(SHAPE, classes=CLASSES, images=max(100, 2 * given.batch_size)),
            recipe=Recipe(batch_size=given.batch_size, precision=given.precision, compile="off"),
            device=given.device,
            rounds=given.steps,
            metering=Metering(
                country=given.country,
                carbon_intensity=given.carbon_intensity,
                cpu_tdp=given.cpu_tdp,
                ram_power=given.ram_power,
            ),
        )
        words = " ".join(sys.argv[1:] if argv is None else argv)
        table4(bench, given.out, command=f"python -m layerticket.study.tables.table4 {words}")
    except LayerticketError as err:
        sys.stderr.write(f"table4: {err}\n")
        return 2
    sys.stdout.write((given.out / "table4.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
