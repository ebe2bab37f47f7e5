"""Measure the paper's Table 4 on this machine: what tickets save in training."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from layerticket.blocks.find import find_blocks
from layerticket.counting import count, held_bytes, realized_share
from layerticket.data.batches import scoring_batch
from layerticket.data.dataset import noise
from layerticket.errors import LayerticketError
from layerticket.evaluation.memory import MemoryRequest, peak_memory
from layerticket.evaluation.timing import inference_seconds, ratio_of
from layerticket.files import digest, read_json, write_atomically, write_json
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.study.measured_budget import TimingSetup, measure_steps
from layerticket.study.record import environment
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from layerticket.training.device import Metering, Where, resolve_device, resolve_precision
from layerticket.training.recipe import Recipe
from load import BUSY, neighbours

SHAPE, CLASSES = (3, 32, 32), 10

# source: arXiv:2301.10835, Table 4 (2023); savings in percent, speed-up as a factor. The row with
# label 4 of ResNet-32 has the FLOPs of 5 blocks less, so 5 are removed here.
_COLUMNS = ("label", "flops", "memory", "co2", "speedup")
PAPER: dict[tuple[str, int], dict[str, float]] = {
    key: dict(zip(_COLUMNS, values, strict=True))
    for key, values in {
        ("resnet32", 1): (1, 6.82, 10.13, 11.11, 1.10),
        ("resnet32", 3): (3, 20.47, 25.29, 25.92, 1.35),
        ("resnet32", 5): (4, 34.13, 30.11, 33.33, 1.57),
        ("resnet56", 3): (3, 11.25, 15.15, 13.33, 1.16),
        ("resnet56", 4): (4, 15.00, 19.42, 20.00, 1.24),
        ("resnet56", 5): (5, 18.76, 23.69, 24.44, 1.34),
        ("resnet56", 12): (12, 45.00, 45.82, 51.11, 2.03),
    }.items()
}


def table4(
    setup: TimingSetup,
    out: Path,
    *,
    rows: tuple[tuple[str, int], ...] = tuple(PAPER),
    command: str = "",
) -> dict[str, Any]:
    """Measure the missing rows of Table 4, and write ``table4.json`` and ``table4.md``.

    Args:
        setup: Data, device, and a recipe with batch size and precision.
        out: Folder for both files and the rows.
        rows: (network, blocks removed); all seven by default.
        command: Command line; recorded.

    Returns:
        The content of ``table4.json``.

    Raises:
        LayerticketError: If a network has too few removable blocks.
    """
    conditions = {
        "batch_size": setup.recipe.batch_size,
        "precision": resolve_precision(setup.recipe.precision, resolve_device(setup.where.device)),
        "rounds": setup.rounds,
        "environment": environment(setup.where.device),
        "metering": asdict(setup.where.metering),
    }
    found = []
    for network, removed in rows:
        path = out / "rows" / f"{network}-{removed}-{digest(conditions)[:8]}.json"
        if not path.exists():
            write_json(path, _row(network, removed, setup))
        found.append(read_json(path))
    summary = {"command": command, **conditions, "rows": found}
    write_json(out / "table4.json", summary)
    write_atomically(out / "table4.md", table4_text(summary))
    return summary


def _row(network: str, removed: int, setup: TimingSetup) -> dict[str, Any]:
    """Measure one row."""
    name = f"{network}-projection"
    dense = build_model(name, classes=CLASSES, channels=SHAPE[0], seed=0)
    ticket = find_ticket(
        dense,
        scoring_batch(setup.dataset, setup.dataset.train, 100, seed=0, balanced=False),
        criterion="grasp",
        budget=Budget(remove=removed),
        keep_neighbours=len(find_blocks(dense, torch.zeros(1, *SHAPE))) - 4 >= removed,
        name=name,
        seed=0,
    )
    models = {"dense": dense, "ticket": ticket.apply(dense)}
    counted = _counted(models, setup)
    with neighbours() as others:
        timed = _timed(models, setup)
    macs = 1 - counted["training_macs"]["ticket"] / counted["training_macs"]["dense"]
    return {
        "network": network,
        "removed": removed,
        "blocks": list(ticket.removed),
        "saved": _saved(counted, _peaks(name, ticket, setup), timed),
        "speedup": timed["speedup"],
        "realized_share": realized_share(macs, 1 - 1 / timed["speedup"]["value"]),
        "counts": counted,
        "timing": timed,
        "others_cpu_share": others["share"],
        "paper": PAPER[network, removed],
    }


def _counted(
    models: Mapping[str, torch.nn.Module], setup: TimingSetup
) -> dict[str, dict[str, int]]:
    """Return all counts, by figure and network."""
    size = setup.recipe.batch_size
    batch = scoring_batch(setup.dataset, setup.dataset.train, size, seed=0, balanced=False)
    few = (batch[0][:2], batch[1][:2])
    bf16 = resolve_precision(setup.recipe.precision, resolve_device(setup.where.device)) == "bf16"
    counts = {name: count(model, few) for name, model in models.items()}
    return {
        "macs": {name: found.macs for name, found in counts.items()},
        "training_macs": {name: found.training_macs for name, found in counts.items()},
        "params": {name: found.params for name, found in counts.items()},
        "held_bytes": {name: held_bytes(m, batch, bf16=bf16) for name, m in models.items()},
    }


def _timed(models: Mapping[str, torch.nn.Module], setup: TimingSetup) -> dict[str, Any]:
    """Return times and energy."""
    steps = measure_steps(models, setup)
    energy = None
    if steps.kwh is not None:
        energy = asdict(ratio_of(steps.kwh["ticket"], steps.kwh["dense"]))
    device = resolve_device(setup.where.device)
    images = torch.zeros(setup.recipe.batch_size, *SHAPE, device=device)
    placed = {name: model.to(device) for name, model in models.items()}
    forward = {
        size: inference_seconds(placed, images, batch_size=size, rounds=rounds)
        for size, rounds in ((1, 10 * setup.rounds), (len(images), setup.rounds))
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


def _peaks(name: str, ticket: Ticket, setup: TimingSetup) -> dict[str, dict[str, int]]:
    """Return the peak memory of both networks, each in a separate process."""
    found = {}
    for side, removed in (("dense", ()), ("ticket", ticket.removed)):
        request = MemoryRequest(
            model=name,
            shape=SHAPE,
            classes=CLASSES,
            removed=removed,
            recipe=setup.recipe,
            device=setup.where.device,
        )
        peak = peak_memory(request)
        found[side] = {"peak": peak.peak_bytes, "training": peak.training_bytes}
    return found


def _saved(
    counted: Mapping[str, Mapping[str, int]],
    peaks: Mapping[str, Mapping[str, int]],
    timed: Mapping[str, Any],
) -> dict[str, float | None]:
    """Return savings as shares of the dense network's figures."""
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
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python benchmarks/table4.py", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--steps", type=int, default=15, help="timed rounds per row")
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
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # for the processes that measure memory
    try:
        setup = TimingSetup(
            dataset=noise(SHAPE, classes=CLASSES, images=max(100, 2 * given.batch_size)),
            recipe=Recipe(batch_size=given.batch_size, precision=given.precision, compile="off"),
            rounds=given.steps,
            where=Where(
                device=given.device,
                metering=Metering(
                    country=given.country,
                    carbon_intensity=given.carbon_intensity,
                    cpu_tdp=given.cpu_tdp,
                    ram_power=given.ram_power,
                ),
            ),
        )
        words = " ".join(sys.argv[1:] if argv is None else argv)
        table4(setup, given.out, command=f"python benchmarks/table4.py {words}")
    except LayerticketError as err:
        sys.stderr.write(f"table4: {err}\n")
        return 2
    sys.stdout.write((given.out / "table4.md").read_text(encoding="utf-8"))
    return 0


_HEADER = (
    "network",
    "blocks removed",
    "FLOPs saved, %: here (paper)",
    "held for backward saved, %",
    "peak memory saved, %: training only / process (paper)",
    "step speed-up: here, 95 % interval (paper)",
    "theory",
    "share of gain realized",
    "waiting for data, %: dense / ticket",
    "energy and CO2e saved, %: here (paper's CO2)",
    "latency / throughput speed-up",
)


def table4_text(summary: Mapping[str, Any]) -> str:
    """Write the table as Markdown, with its conditions.

    Args:
        summary: The content of ``table4.json``.

    Returns:
        Markdown.
    """
    where = summary["environment"]
    processor = where["gpu"] or f"{where['cpu']}, {where['threads']} thread(s)"
    methods = {row["timing"]["energy_method"] for row in summary["rows"]} - {None}
    lines = [
        f"Command: `{summary['command']}`",
        "",
        f"{processor}; {where['platform']}; Python {where['python']}, torch {where['torch']}, "
        f"layerticket {where['layerticket']}; batch {summary['batch_size']}, "
        f"{summary['precision']}; n = {summary['rounds']} interleaved rounds per row, medians with "
        "95 % intervals.",
        "",
        *(f"Energy (`energy_method` in the record): {method}." for method in sorted(methods)),
        *([""] if methods else []),
        busy_text(summary["rows"]),
        "",
        f"| {' | '.join(_HEADER)} |",
        f"| {' | '.join(['---'] * len(_HEADER))} |",
        *(f"| {' | '.join(_line(row))} |" for row in summary["rows"]),
    ]
    return "\n".join(lines) + "\n"


def busy_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write how much processor time other processes used while the rows were timed."""
    shares = [row.get("others_cpu_share") for row in rows]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return "How busy other processes kept the machine was not recorded."
    low, high = (f"{100 * end:.1f}" for end in (min(known), max(known)))
    ends = low if low == high else f"{low} to {high}"
    text = f"Other processes used {ends} % of the processor time while a row was timed"
    return f"{text}: the machine was busy." if max(known) > BUSY else f"{text}."


def _line(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one row."""
    saved, paper, speedup, timing = row["saved"], row["paper"], row["speedup"], row["timing"]
    interval = "" if speedup["low"] is None else f" [{speedup['low']:.2f}, {speedup['high']:.2f}]"
    label = row["removed"]
    if paper["label"] != label:
        label = f"{label} (the paper's row {paper['label']:.0f})"
    share = row["realized_share"]
    energy = "null" if saved["energy"] is None else f"{100 * saved['energy']:.1f}"
    return [
        row["network"],
        str(label),
        f"{100 * saved['macs']:.2f} ({paper['flops']:.2f})",
        f"{100 * saved['held_bytes']:.2f}",
        f"{100 * saved['training_memory']:.1f} / {100 * saved['peak_memory']:.1f} "
        f"({paper['memory']:.2f})",
        f"{speedup['value']:.2f}{interval} ({paper['speedup']:.2f})",
        f"{1 / (1 - saved['training_macs']):.2f}",
        "null" if share is None else f"{100 * share:.0f} %",
        " / ".join(f"{100 * timing['data_wait_share'][side]:.1f}" for side in ("dense", "ticket")),
        f"{energy} ({paper['co2']:.2f})",
        f"{timing['latency_speedup']['value']:.2f} / {timing['throughput_speedup']['value']:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
