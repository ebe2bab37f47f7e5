"""Which blocks do criteria remove at initialization? Every criterion, many seeds, no training.

``python benchmarks/what_is_removed.py --data-dir DIR --out docs/results/what-is-removed``

The same command skips cases that are in the record. Letters: S seeds, each with its own batch, B
removable blocks, p removed blocks.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from layerticket.batch import head, inputs_of
from layerticket.blocks.find import find_blocks
from layerticket.counting import held_bytes
from layerticket.criteria.registry import criterion_names, get_criterion
from layerticket.criteria.saliency import block_weights
from layerticket.data.sources import load_data
from layerticket.files import write_json
from layerticket.lottery import draw_batch
from layerticket.models.load import build_model
from layerticket.report.tables import markdown
from layerticket.scoring import score
from layerticket.study.record import environment
from layerticket.surgery.remove import remove_blocks
from layerticket.verdict.statistics import kendall_w

TEXT_FILE = Path(__file__).parents[1] / "LICENSE"
LENGTH = 64
REMOVED = (1, 3, 5)  # p
# Table 4 of the paper: network, blocks removed, memory saved in %
PAPER_MEMORY = (
    ("resnet32", 1, 10.13), ("resnet32", 3, 25.29), ("resnet32", 5, 30.11),
    ("resnet56", 3, 15.15), ("resnet56", 4, 19.42), ("resnet56", 5, 23.69), ("resnet56", 12, 45.82),
)  # fmt: skip


def cifar_network(name):
    return lambda seed: build_model(name, classes=10, channels=3, seed=seed)


def vit(seed):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    return VisionTransformer(8, 2, 1, 10, embed_dim=48, depth=8, num_heads=3)


def gpt2(seed):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    size = {"vocab_size": 256, "n_embd": 64, "n_layer": 8, "n_head": 4, "n_positions": LENGTH}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**size, **ends, use_cache=False))


def text(number):
    data = list(TEXT_FILE.read_bytes())
    drawn = torch.Generator().manual_seed(number)
    starts = torch.randint(0, len(data) - LENGTH, (16,), generator=drawn).tolist()
    ids = torch.tensor([data[start : start + LENGTH] for start in starts])
    return {"input_ids": ids, "labels": ids}


def next_token_loss(temperature):
    def loss(model, batch):
        logits = model(batch["input_ids"]).logits[:, :-1] / temperature
        return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    return loss


def cases(data_dir):
    """Name -> (network of a seed, batch of a seed)."""
    cifar, digits = load_data("cifar10", data_dir=data_dir), load_data("digits")
    photographs = lambda seed: draw_batch(cifar, None, seed=seed)  # noqa: E731 - of a case
    found = {
        f"{name}, CIFAR-10 (JPEG)": (cifar_network(name), photographs)
        for depth in (20, 32, 56)
        for name in (f"resnet{depth}", f"resnet{depth}-projection")
    }
    found["timm:resnet34, zero_init_last=False, CIFAR-10 (JPEG)"] = (
        cifar_network("timm:resnet34,zero_init_last=False"),
        photographs,
    )
    found["ViT (8 blocks, width 48), digits"] = (
        vit,
        lambda seed: draw_batch(digits, None, seed=seed),
    )
    found["GPT-2 (8 blocks, width 64), English text as bytes"] = (gpt2, text)
    return found


def ways():
    """Yield criterion and options, with the batch's statistics if the criterion allows them."""
    for name in criterion_names():
        known = get_criterion(name)
        mode = "batch" if "batch" in known.normalization else known.normalization[0]
        temperatures = (1.0, 200.0) if "loss_fn" in known.option_names() else (None,)
        for temperature in temperatures:
            options = {} if temperature is None else {"temperature": temperature}
            yield name, {"normalization": mode, **options}, known.values == "weights"


def score_case(build, draw, seeds):
    """Score every block with all criteria and options: tables of scores (S, B)."""
    tables, names, refused, seconds = {}, [], {}, {}
    for seed in range(seeds):
        model, batch = build(seed), draw(seed)
        blocks = find_blocks(model, head(inputs_of(batch), 2))
        names = [block.name for block in blocks]
        sizes = {
            name: sum(model.get_parameter(weight).numel() for weight in own)
            for name, own in block_weights(model, blocks).items()
        }
        for name, options, of_weights in ways():
            key = (name, options.get("temperature"), options["normalization"])
            if key in refused:
                continue
            own = {"draw": seed} if name == "random" else {}
            if isinstance(batch, dict) and "temperature" in options:
                own = {"loss_fn": next_token_loss(options["temperature"])}
                options = {"normalization": options["normalization"]}
            begun = time.perf_counter()
            try:
                values = score(model, blocks, batch, name, **(options | own)).values
            except Exception as err:
                refused[key] = " ".join(str(err).split())
                continue
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - begun
            for reduction in ("sum", "mean") if of_weights else (None,):
                row = [values[b] / (sizes[b] if reduction == "mean" else 1) for b in names]
                tables.setdefault((*key, reduction), []).append(row)
    rows = [
        {"criterion": key[0], "temperature": key[1], "normalization": key[2], "reduction": key[3]}
        | {"seconds_a_score": seconds[key[:3]] / seeds, "scores": table}
        | removed(np.array(table), names)
        for key, table in tables.items()
        if len(table) == seeds
    ]
    said = [{"criterion": k[0], "temperature": k[1], "because": v} for k, v in refused.items()]
    return {"blocks": names, "seeds": seeds, "rows": rows, "refused": said}


def removed(scores, names):
    """Return what a table of scores (S, B) removes, and how far the position predicts it.

    `rule` is the overlap of the p removed blocks with the p blocks that have the lowest mean rank
    in all other seeds. `chance` is p / B. `fixed` is the same for the rules "first", "last" and
    "first" or "last of each stage in turn", which use no scores.
    """
    seeds, count = scores.shape
    ranks = scores.argsort(axis=1).argsort(axis=1)  # 0: removed first
    w, p_value = kendall_w(scores)
    found = {"kendall_w": w, "p_value": p_value, "goes": {}}
    by_stage = {}
    for place, name in enumerate(names):
        by_stage.setdefault(name.rpartition(".")[0], []).append(place)
    turns = [p for turn in itertools.zip_longest(*by_stage.values()) for p in turn if p is not None]
    late = [
        p
        for turn in itertools.zip_longest(*(reversed(own) for own in by_stage.values()))
        for p in turn
        if p is not None
    ]
    fixed = {"first": range(count), "last": range(count - 1, -1, -1)}
    if len(by_stage) > 1:
        fixed |= {"first of each stage in turn": turns, "last of each stage in turn": late}
    for p in (p for p in REMOVED if p < count):
        gone = [frozenset(np.flatnonzero(row < p).tolist()) for row in ranks]
        total = ranks.sum(axis=0)
        rule = [
            len(gone[seed] & set((total - ranks[seed]).argsort(kind="stable")[:p].tolist())) / p
            for seed in range(seeds)
        ]
        known = {
            name: float(np.mean([len(one & set(list(order)[:p])) / p for one in gone]))
            for name, order in fixed.items()
        }
        sets = [sum(other == one for other in gone) for one in gone]
        found["goes"][str(p)] = {
            "share_of_seeds": {
                name: sum(place in one for one in gone) / seeds for place, name in enumerate(names)
            },
            "identical": max(sets) / seeds,
            "rule": float(np.mean(rule)),
            "chance": p / count,
            "fixed": known,
        }
    return found


def memory(batch_size=128):
    """Find the numbers of blocks per stage that save most nearly the memory of the paper."""
    found = []
    for name in ("resnet32", "resnet56"):
        model = cifar_network(f"{name}-projection")(0)
        batch = torch.randn(batch_size, 3, 32, 32), torch.arange(batch_size) % 10
        blocks = list(find_blocks(model, batch[0][:2]))
        whole = held_bytes(model, batch)
        stages = [[b for b in blocks if b.stage == stage] for stage in range(3)]
        shares = [
            100 * (1 - held_bytes(remove_blocks(model, stage[:1]), batch) / whole)
            for stage in stages
        ]
        for other, p, paper in PAPER_MEMORY:
            if other == name:
                mixtures = [
                    {"of_each_stage": counts, "saved": float(np.dot(counts, shares))}
                    for counts in itertools.product(*(range(len(s) + 1) for s in stages))
                    if sum(counts) == p
                ]
                mixtures.sort(key=lambda one: abs(one["saved"] - paper))
                found.append(
                    {"network": name, "p": p, "paper": paper, "share_of_one_block": shares}
                    | {"least": min(m["saved"] for m in mixtures)}
                    | {"most": max(m["saved"] for m in mixtures), "nearest": mixtures[:3]}
                )
    return found


def named(row):
    """Return the name of a row: criterion and options."""
    options = [f"T = {row['temperature']:g}"] if row["temperature"] else []
    return ", ".join(
        [row["criterion"], *([row["reduction"]] if row["reduction"] else []), *options]
    )


def most_often(row, p):
    """Return the blocks that are removed most often, with their share of seeds."""
    shares = row["goes"][p]["share_of_seeds"]
    order = sorted(shares, key=lambda name: -shares[name])
    shown = [f"{name} {100 * shares[name]:.0f}" for name in order if shares[name] >= 0.2][
        : int(p) + 2
    ]
    return ", ".join(shown)


def page(record):
    """Return the page of a record as Markdown."""
    where = record["environment"]
    parts = [
        TEXT.format(seeds=record["seeds"]),
        f"```bash\n{record['command']}\n```",
        f"{record['seeds']} seeds, each with its own batch (100 images, ten per class; 16 texts of "
        f"{LENGTH} bytes); {where['cpu']}, Python {where['python']}, PyTorch {where['torch']}.",
        "## In short",
        summary(record),
        "## The memory column of the paper's Table 4",
        MEMORY,
        markdown(
            (
                ("network", "p", "paper, %", "possible, %", "nearest mixtures of stages 1 + 2 + 3"),
                [
                    (
                        one["network"], str(one["p"]), f"{one['paper']:.2f}",
                        f"{one['least']:.2f} to {one['most']:.2f}",
                        "; ".join(
                            " + ".join(map(str, m["of_each_stage"])) + f" ({m['saved']:.2f})"
                            for m in one["nearest"]
                        ),
                    )
                    for one in record["memory"]
                ],
            )
        ).rstrip(),
    ]  # fmt: skip
    for name, case in record["cases"].items():
        p = "3"
        rows = [
            (
                named(row),
                f"{row['kendall_w']:.2f}",
                most_often(row, p),
                f"{100 * row['goes'][p]['identical']:.0f}",
                f"{100 * row['goes'][p]['rule']:.0f}",
                "{}: {:.0f}".format(*best(row["goes"][p]["fixed"])),
            )
            for row in case["rows"]
        ]
        header = ("criterion", "Kendall's W", "removed most often, % of seeds",
                  "same set, % of seeds", "rule of place, %", "best fixed rule, %")  # fmt: skip
        chance = 100 * 3 / len(case["blocks"])
        parts += [
            f"## {name}",
            f"{len(case['blocks'])} removable blocks, three are removed; chance: {chance:.0f} %.",
            markdown((header, rows)).rstrip(),
        ]
        parts += [f"- {one['criterion']}: refused ({one['because']})" for one in case["refused"]]
    return "\n\n".join(parts) + "\n"


def best(fixed):
    """Return the fixed rule that predicts best, and its overlap in percent."""
    name = max(fixed, key=lambda one: fixed[one])
    return name, 100 * fixed[name]


def summary(record):
    """Return the table of means over networks, by criterion."""
    groups = {}
    for case in record["cases"].values():
        for row in case["rows"]:
            key = (row["criterion"], row["reduction"] or "")
            groups.setdefault(key, []).append((row, case))
    rows = []
    for (criterion, reduction), found in sorted(groups.items()):
        three = [row["goes"]["3"] for row, _ in found]
        rows.append(
            (
                f"{criterion} {reduction}".strip(),
                str(len(found)),
                f"{np.mean([row['kendall_w'] for row, _ in found]):.2f}",
                f"{min(row['kendall_w'] for row, _ in found):.2f}",
                f"{100 * np.mean([one['identical'] for one in three]):.0f}",
                f"{100 * np.mean([one['rule'] for one in three]):.0f}",
                f"{100 * np.mean([one['chance'] for one in three]):.0f}",
            )
        )
    header = ("criterion", "networks and temperatures", "mean W", "least W", "same set, %",
              "rule of place, %", "chance, %")  # fmt: skip
    return markdown((header, rows)).rstrip()


TEXT = """\
# What is removed at initialization

Which blocks do criteria choose, and does the choice depend on the weights, or only on the position
of a block? Networks are scored at initialization, with the batch's statistics in batch
normalization if the criterion allows it (`synflow` does not), over {seeds} seeds, each with its own
weights and images. Nothing is trained.

- **Kendall's W**: agreement of the rankings of all seeds: 1 always the same; about 1 / {seeds} for
  independent rankings.
- **Same set**: share of the seeds that remove the most frequent set of three blocks.
- **Rule of place**: share of the three blocks that have the lowest mean rank in all *other* seeds.
  Such a rule uses neither weights nor images, only the position of a block.
- **Fixed rule**: the same for rules that use no scores: first, last, and first or last of each
  stage in turn. The best of them is shown."""
MEMORY = """\
Memory that autograd keeps between the forward and the backward pass (batch 128, float32, exact
count). A block of the first stage keeps twice as much as one of the second, and four times as much
as one of the third. If the paper measured the same, the memory saved shows from which stages its
blocks were removed."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the CIFAR files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    given = parser.parse_args()
    path = given.out.with_suffix(".json")
    words = [w if w != str(given.data_dir) else "DIR" for w in sys.argv[1:]]
    record = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    if record.get("seeds", given.seeds) != given.seeds:
        sys.exit(f"{path} has {record['seeds']} seeds: delete it, or give that number of --seeds.")
    record = {
        "command": " ".join(["python benchmarks/what_is_removed.py", *words]),
        "seeds": given.seeds,
        "environment": environment("cpu"),
        "memory": record.get("memory") or memory(),
        "cases": record["cases"],
    }
    for name, (build, draw) in cases(given.data_dir).items():
        if given.only in name and name not in record["cases"]:
            begun = time.perf_counter()
            record["cases"][name] = score_case(build, draw, given.seeds)
            write_json(path, record)
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    given.out.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
