"""How does the cost of finding and scoring blocks grow with depth, in CPU seconds and memory?

    python benchmarks/scale.py --out docs/results/scale

``--billion`` adds a Llama with a billion parameters (about 9 GB of memory, minutes on one core).
Every network is measured in a separate process, on one thread. Networks that are in the JSON file
are not measured again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import layerticket as lt
from layerticket.batch import head, inputs_of, model_loss
from layerticket.files import write_json
from layerticket.models.load import build_model
from layerticket.report.tables import markdown
from layerticket.study.record import environment
from load import neighbours
from table4 import busy_text

IMAGES, CLASSES = 8, 10
SMALL = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4}
BILLION = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
           "num_key_value_heads": 4, "vocab_size": 32000, "num_hidden_layers": 22}  # fmt: skip
RESNETS = [(f"resnet{depth}", "grasp", {}) for depth in (20, 32, 44, 56, 110, 1202)]
WIDE = [
    ("resnet1202, 40 images", "grasp", {}),
]
LLAMAS = [(f"llama {layers} layers", "snip", {}) for layers in (4, 8, 16, 32, 64)]
LARGE = [
    ("llama 1.1 billion, float32", "snip", {"micro_batches": 4}),
    ("llama 1.1 billion, bfloat16", "snip", {"micro_batches": 4}),
]


def network(name: str):
    """Build a network and a batch."""
    if name.startswith("resnet"):
        depth, _, images = name.partition(", ")
        count = int(images.split()[0]) if images else IMAGES
        model = build_model(depth, classes=CLASSES, channels=3, seed=0)
        return model, (torch.randn(count, 3, 32, 32), torch.arange(count) % CLASSES)
    from transformers import LlamaConfig, LlamaForCausalLM

    billion = "billion" in name
    settings = BILLION if billion else SMALL | {"vocab_size": 1000}
    if not billion:
        settings = settings | {"num_hidden_layers": int(name.split()[1])}
    torch.set_default_dtype(torch.bfloat16 if name.endswith("bfloat16") else torch.float32)
    model = LlamaForCausalLM(LlamaConfig(**settings, max_position_embeddings=128, use_cache=False))
    torch.set_default_dtype(torch.float32)
    length = 64 if billion else 32
    ids = torch.randint(settings["vocab_size"], (4, length))
    return model, {"input_ids": ids, "labels": ids}


def peak() -> int:
    """Return the peak memory of this process in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, criterion: str, options: dict) -> dict:
    """Measure one network in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started, before = time.process_time(), peak()
    model, batch = network(name)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    built, built_peak = time.process_time(), peak()
    blocks = lt.find_blocks(model, head(inputs_of(batch), 1))
    found, found_peak = time.process_time(), peak()
    loss = {"loss_fn": model_loss} if isinstance(batch, dict) else {}
    scores = lt.score(model, blocks, batch, criterion, **options, **loss)
    scored, scored_peak = time.process_time(), peak()
    return {
        "network": name,
        "criterion": criterion,
        "options": options,
        "examples": scores.examples,
        "blocks": len(blocks),
        "params": sum(p.numel() for p in model.parameters()),
        "weight_bytes": weights,
        "build_cpu_seconds": built - started,
        "find_cpu_seconds": found - built,
        "score_cpu_seconds": scored - found,
        "build_peak_bytes": built_peak - before,
        "find_peak_bytes": found_peak - before,
        "peak_bytes": scored_peak - before,
        "process_peak_bytes": scored_peak,
    }


def apart(case: tuple[str, str, dict]) -> dict:
    """Measure one network in a separate process."""
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    one = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "1"}
    with neighbours() as others:
        ran = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | one, check=False
        )
    if ran.returncode:
        raise SystemExit(f"{case[0]}: {ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1]) | {"others_cpu_share": others["share"]}


def base_of(row: dict, rows: list[dict]) -> dict:
    """Return the row that costs are divided by: the same network, or the smallest of its family."""
    name, _, variant = row["network"].partition(", ")
    start = name if variant else name.split()[0].rstrip("0123456789")
    return next(one for one in rows if one["network"].startswith(start))


def fit(rows: list[dict], key: str) -> float:
    """Return R2 of a linear fit of a cost to the number of blocks."""
    points = [(row["blocks"], row[key]) for row in rows]
    return float(np.corrcoef(*zip(*points, strict=True))[0, 1] ** 2)


def bend(rows: list[dict], key: str) -> float:
    """Return the cost of a further block in the deepest network, divided by that in the others."""
    first, last, deepest = rows[0], rows[-2], rows[-1]

    def slope(a: dict, b: dict) -> float:
        return (b[key] - a[key]) / (b["blocks"] - a["blocks"])

    return slope(last, deepest) / slope(first, last)


def page(record: dict) -> str:
    """Return the page as Markdown."""
    rows, families = record["rows"], {}
    for row in rows:
        if ", " not in row["network"]:  # a variant is not on the line of its family
            families.setdefault(base_of(row, rows)["network"], []).append(row)
    lines = [
        (
            row["network"],
            row["criterion"] + "".join(f", {k}={v}" for k, v in row["options"].items()),
            str(row["blocks"]),
            f"{row['params'] / 1e6:,.1f} M",
            base["network"],
            *(f"{row[key] / base[key]:.2f}" for key in COSTS[:2]),
            f"{row['weight_bytes'] / 1e9:.2f}",
            f"{row['find_peak_bytes'] / 1e9:.2f}",
            f"{row['peak_bytes'] / 1e9:.2f}{more(row, base)}",
        )
        for row in rows
        for base in [base_of(row, rows)]
    ]
    header = (
        "network",
        "criterion",
        "blocks",
        "parameters",
        "ratios to",
        "find, ratio",
        "score, ratio",
        "weights, GB",
        "peak after find, GB",
        "peak after score, GB (MB per further block)",
    )
    fits = [
        (
            f"{of[0]['network']} to {of[-1]['network']}",
            f"{of[0]['blocks']} to {of[-1]['blocks']}",
            str(len(of)),
            *(f"{fit(of, key):.4f}" for key in COSTS),
            *(f"{bend(of, key):.2f}" for key in COSTS),
        )
        for of in families.values()
    ]
    where = record["environment"]
    parts = [
        "# Scale",
        TEXT,
        f"```bash\n{record['command']}\n```",
        f"{where['cpu']}, one thread, no GPU; Python {where['python']}, PyTorch {where['torch']}, "
        f"transformers {where['transformers']}. n = 1: each network was measured once. "
        + busy_text(rows),
        FITS,
        markdown((("networks", "blocks", "networks measured", "find, R2", "score, R2",
                   "peak memory, R2", "find, further block", "score, further block",
                   "memory, further block"), fits)).rstrip(),
        "## All networks",
        markdown((header, lines)).rstrip(),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


COSTS = ("find_cpu_seconds", "score_cpu_seconds", "peak_bytes")
TEXT = """\
Cost of finding and scoring blocks at random initialization. Every network is measured in a separate
process. Find and score are ratios of CPU seconds to those of the network in the column before;
the first call in a process also loads libraries (about 1.3 s of the search in ResNet-20), so ratios
to a small network are too low. Seconds are not shown, because other programs share the machine.
Memory is the peak of the process minus that of Python and PyTorch; it includes the weights, and
what is loaded later."""
FITS = """\
## Does the cost grow linearly with depth?

R2 of a linear fit to the number of blocks. The networks of a line differ only in their depth. The
Llama of 1.1 billion parameters has wider layers, so it is on no line. ResNet-1202 alone decides R2
of the ResNets, which would be 0.996 for a quadratic cost too (Llamas: 0.95). So the cost of a
further block above the second largest network is compared with the cost of one below it: 1 if the
cost is linear. [Speed](speed.md) compares the cost per block without other programs (row
depth-per-block)."""


def more(row: dict, base: dict) -> str:
    """Return the peak memory per further block than the base has, in MB."""
    further = row["blocks"] - base["blocks"]
    return f" ({(row['peak_bytes'] - base['peak_bytes']) / further / 1e6:.1f})" if further else ""


def main() -> None:
    """Measure the networks that are missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--billion", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    import transformers

    file = given.out.with_suffix(".json") if given.out else None
    old = json.loads(file.read_text())["rows"] if file and file.exists() else []
    known = {(row["network"], row["criterion"]): row for row in old}
    cases = [*RESNETS, *WIDE, *LLAMAS, *LARGE]
    here = environment("cpu") | {"transformers": transformers.__version__}
    if old and (before := json.loads(file.read_text())["environment"]) != here:
        sys.exit(f"{file} was measured with {before}, here is {here}. Give another --out.")
    for case in cases if given.billion else cases[: -len(LARGE)]:
        if case[:2] not in known:
            known[case[:2]] = apart(case)
        print(json.dumps(known[case[:2]]), flush=True)
        rows = [known[one[:2]] for one in cases if one[:2] in known]
        record = {"command": " ".join(["python", *sys.argv]), "environment": here, "rows": rows}
        if file:
            write_json(file, record)
            given.out.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
