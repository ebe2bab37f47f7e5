"""Which blocks do criteria remove at initialization? Every criterion, many seeds, no training.

``python benchmarks/what_is_removed.py --data-dir DIR --out docs/results/what-is-removed``

The same command skips cases that are in the record. The worth of single blocks comes from
docs/results/resnet20.json. Letters: S seeds, each with its own batch, B removable blocks, p removed
blocks.
"""

import argparse
import itertools
import json
import sys
import time
from dataclasses import replace
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
from layerticket.report.tables import Study, markdown
from layerticket.scoring import score
from layerticket.study.record import environment
from layerticket.surgery.remove import remove_blocks
from layerticket.verdict.statistics import kendall_w
from layerticket.verdict.worth import block_worth, rank_agreement

TEXT_FILE = Path(__file__).parents[1] / "LICENSE"
WORTH = Path(__file__).parents[1] / "docs" / "results" / "resnet20.json"
LENGTH = 64
REMOVED = (1, 3, 5)  # p
LISTED = 0.2  # share of seeds from which a block is listed
READINGS = (("grasp", "sum", 200.0), ("grasp", "mean", 200.0), ("snip", "sum", 1.0),
            ("snip", "mean", 1.0))  # fmt: skip
FITS = 2.0  # points of memory within which a reading fits the paper
TRANSFORMERS = ("ViT", "GPT-2")
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


def saved_by_one(model, batch, stages, *, bf16):
    """Return the memory saved, in percent, by removing one block of each stage."""
    whole = held_bytes(model, batch, bf16=bf16)
    return [
        100 * (1 - held_bytes(remove_blocks(model, stage[:1]), batch, bf16=bf16) / whole)
        for stage in stages
    ]


def memory(batch_size=128):
    """Measure the memory that one block of each stage saves, for each row of the paper."""
    found = []
    for name in ("resnet32", "resnet56"):
        model = cifar_network(f"{name}-projection")(0)
        batch = torch.randn(batch_size, 3, 32, 32), torch.arange(batch_size) % 10
        blocks = list(find_blocks(model, batch[0][:2]))
        stages = [[b for b in blocks if b.stage == stage] for stage in range(3)]
        shares, in_bf16 = (saved_by_one(model, batch, stages, bf16=bf16) for bf16 in (False, True))
        for other, p, paper in PAPER_MEMORY:
            if other == name:
                found.append(
                    {"network": name, "p": p, "paper": paper, "share_of_one_block": shares}
                    | {"share_of_one_block_bf16": in_bf16}
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
    shown = [f"{name} {100 * shares[name]:.0f}" for name in order if shares[name] >= LISTED][
        : int(p) + 2
    ]
    return ", ".join(shown)


def page(record, study):
    """Return the page of a record as Markdown; the study measured the worth of blocks."""
    where = record["environment"]
    parts = [
        TEXT.format(seeds=record["seeds"]),
        f"```bash\n{record['command']}\n```",
        f"{record['seeds']} seeds, each with its own batch (100 images, ten per class; 16 texts of "
        f"{LENGTH} bytes); {where['cpu']}, Python {where['python']}, PyTorch {where['torch']}.",
        "## In short",
    ]
    for title, group in groups(record).items():
        parts += [paragraph(title, group, record["seeds"]), by_criterion(group)]
    parts += [
        "## Do criteria rank blocks by what they are worth?",
        WORTH_TEXT.format(seeds=record["seeds"]),
        by_worth(record, study),
        "## The memory column of the paper's Table 4",
        MEMORY.format(
            one=record["memory"][0],
            in_bf16=record["memory"][0]["share_of_one_block_bf16"][0],
            here=record["memory"][0]["share_of_one_block"][0],
        ),
        *memory_parts(record),
    ]
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


def groups(record):
    """Return title -> cases: networks with batch normalization, and transformers."""
    found = {"Networks with batch normalization": [], "Transformers": []}
    titles = list(found)
    for name, case in record["cases"].items():
        found[titles[name.startswith(TRANSFORMERS)]].append((name, case))
    return {title: group for title, group in found.items() if group}


def of_criteria(group):
    """Return (criterion, reduction) -> rows of all networks and temperatures, with chance."""
    found = {}
    for _, case in group:
        for row in case["rows"]:
            found.setdefault((row["criterion"], row["reduction"] or ""), []).append(row)
    return dict(sorted(found.items()))


def span(values, show="{:.0f}"):
    """Write the median of values and their range."""
    low, middle, high = (show.format(of(values)) for of in (min, np.median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def figures(rows):
    """Return W, and the shares in percent for p = 3 of rows, each with its median and range."""
    three = [row["goes"]["3"] for row in rows]
    return {
        "w": span([row["kendall_w"] for row in rows], "{:.2f}"),
        "same": span([100 * one["identical"] for one in three]),
        "rule": span([100 * one["rule"] for one in three]),
        "fixed": span([best(one["fixed"])[1] for one in three]),
        "chance": span([100 * one["chance"] for one in three]),
    }


def paragraph(title, group, seeds):
    """Return how stable the choice is in a group, and how far a rule of place predicts it."""
    rows = of_criteria(group)
    chance = figures([row for of in rows.values() for row in of])["chance"]
    names = "; ".join(name.rpartition(", ")[0] for name, _ in group)
    parts = [
        f"**{title}** ({names}), p = 3; medians, with ranges over networks and temperatures. "
        f"Independent rankings have W = {1 / seeds:.2f}; by chance a rule predicts {chance} % of "
        "the blocks."
    ]
    for key in (*(reading[:2] for reading in READINGS), ("random", "")):
        if key in rows:
            f = figures(rows[key])
            name = f"`{key[0]}` with `{key[1]}`" if key[1] else f"`{key[0]}`, for comparison"
            parts.append(
                f"- {name}: W {f['w']}; the same set in {f['same']} % of the "
                f"seeds; a rule of place predicts {f['rule']} % of the blocks, the best fixed rule "
                f"{f['fixed']} %."
            )
    return parts[0] + "\n\n" + "\n".join(parts[1:])


def by_criterion(group):
    """Return the table of a group by criterion."""
    rows = [
        (f"{criterion} {reduction}".strip(), str(len(of)), *figures(of).values())
        for (criterion, reduction), of in of_criteria(group).items()
    ]
    header = ("criterion", "networks and temperatures", "Kendall's W", "same set, %",
              "rule of place, %", "best fixed rule, %", "chance, %")  # fmt: skip
    return markdown((header, rows)).rstrip()


def by_worth(record, study):
    """Return the table of Kendall's tau between rankings and the measured worth of blocks."""
    dense = [row for row in study.rows if row.kind == "dense"]
    case = record["cases"][f"{dense[0].model}, CIFAR-10 (JPEG)"]
    rows = []
    for row in case["rows"]:
        scores = np.array(row["scores"])
        higher = np.sign(scores[:, :, None] - scores[:, None]).sum(axis=(0, 2))  # as mean ranks
        ranking = dict(zip(case["blocks"], higher.tolist(), strict=True))
        of = {"method": named(row), "role": "criterion", "scores": ranking}
        rows += [replace(one, **of) for one in dense]
    worth = block_worth(study.rows, test_images=study.test_images)
    found = []
    for one in rank_agreement(rows, worth):
        low, high = one.tau.low, one.tau.high
        ends = "" if low is None else f" ({max(low, -1):+.2f} to {min(high, 1):+.2f})"
        found.append((one.method, str(one.tau.n), f"{one.tau.mean:+.2f}{ends}"))
    return markdown((("criterion", "seeds of the worth", "tau (95 % interval)"), found)).rstrip()


def is_neighbour(name, blocks):
    """Whether a block is directly before or after a down-sampling, in a CIFAR ResNet."""
    stage, number = name.split(".")
    own = [int(block.split(".")[1]) for block in blocks if block.startswith(f"{stage}.")]
    last = max(int(block.rpartition(".")[2]) for block in blocks)
    return (stage != "layer3" and int(number) == last) or (
        stage != "layer1" and int(number) == min(own)
    )


def saved_by(row, blocks, one):
    """Return the memory saved, in percent, per seed, by removing the p lowest blocks of a row.

    As in the paper, blocks directly before and after a down-sampling stay.
    """
    allowed = [at for at, name in enumerate(blocks) if not is_neighbour(name, blocks)]
    shares = [one["share_of_one_block"][int(name[len("layer")]) - 1] for name in blocks]
    return [
        sum(shares[at] for at in sorted(allowed, key=scores.__getitem__)[: one["p"]])
        for scores in row["scores"]
    ]


def mixtures(one, blocks):
    """Return memory saved, in percent with two decimals -> all numbers of blocks per stage.

    The mixture of stages nearest to the paper comes first. Mixtures that the paper cannot have
    removed, as blocks directly before and after a down-sampling stay, are marked with *.
    """

    def per_stage(names):
        return [sum(name[len("layer")] == stage for name in names) for stage in "123"]

    allowed = per_stage([name for name in blocks if not is_neighbour(name, blocks)])
    found = {}
    for counts in itertools.product(*(range(count + 1) for count in per_stage(blocks))):
        if sum(counts) == one["p"]:
            saved = round(float(np.dot(counts, one["share_of_one_block"])), 2)
            mark = "" if all(c <= most for c, most in zip(counts, allowed, strict=True)) else "*"
            found.setdefault(saved, []).append(" + ".join(map(str, counts)) + mark)
    return dict(sorted(found.items(), key=lambda of: abs(of[0] - one["paper"])))


def case_of(record, one):
    """Return the case with the network of a row of the paper's Table 4."""
    return record["cases"][f"{one['network']}-projection, CIFAR-10 (JPEG)"]


def memory_by_reading(record):
    """Return what each reading saves, in percent by seed, for each row of the paper's Table 4."""
    found = []
    for one in record["memory"]:
        case = case_of(record, one)
        by = {(row["criterion"], row["reduction"], row["temperature"]): row for row in case["rows"]}
        found.append({key: saved_by(by[key], case["blocks"], one) for key in READINGS})
    return found


def conclusion(record, saved):
    """Return what the memory column says about `sum` or `mean`."""
    papers = [one["paper"] for one in record["memory"]]
    away = {
        key: [float(np.mean(row[key])) - paper for row, paper in zip(saved, papers, strict=True)]
        for key in READINGS
    }
    told = ", ".join(
        f"`{c}` with `{r}` {sum(abs(d) <= FITS for d in away[c, r, t])} (mean distance "
        f"{np.mean(np.abs(away[c, r, t])):.1f} points, above the paper in "
        f"{sum(d > 0 for d in away[c, r, t])})"
        for c, r, t in READINGS
    )
    fits = {key: sum(abs(d) <= FITS for d in of) for key, of in away.items()}
    most = max(fits.values())
    winners = {reduction for (_, reduction, _), count in fits.items() if count == most}
    ending = (
        "so the column does not tell `sum` from `mean`, and none of the four readings explains it"
        if len(winners) > 1 and most < len(papers)
        else f"so the column is nearest to `{winners.pop()}`"
        if len(winners) == 1
        else "so all of it is explained, and the column does not tell `sum` from `mean`"
    )
    return f"Of {len(papers)} rows, a reading comes within {FITS:g} points in: {told}; {ending}."


def memory_parts(record):
    """Return tables and sentences on the memory column of the paper."""
    saved = memory_by_reading(record)
    possible = [
        (
            one["network"], str(one["p"]), f"{one['paper']:.2f}",
            f"{min(found):.2f} to {max(found):.2f}",
            "; ".join(
                f"{saved:.2f} ({saved - one['paper']:+.2f}): {', '.join(found[saved])}"
                for saved in list(found)[:3]
            ),
        )
        for one in record["memory"]
        for found in [mixtures(one, case_of(record, one)["blocks"])]
    ]  # fmt: skip
    readings = [
        (
            *(one["network"], str(one["p"]), f"{one['paper']:.2f}"),
            *(f"{np.mean(row[key]):.1f} ± {np.std(row[key], ddof=1):.1f}" for key in READINGS),
        )
        for one, row in zip(record["memory"], saved, strict=True)
    ]
    header = ("network", "p", "paper, %", "possible, %",
              "nearest values, % (minus the paper's): blocks of stages 1 + 2 + 3")  # fmt: skip
    names = [f"{c} {r}, T = {t:g}, %" for c, r, t in READINGS]
    return [
        conclusion(record, saved),
        "All mixtures of stages with the three values nearest to the paper's, equal to two "
        "decimals. Mixtures with * remove a block directly before or after a down-sampling, which "
        "the paper keeps:",
        markdown((header, possible)).rstrip(),
        f"What the four readings would save, mean ± SD over {record['seeds']} seeds; blocks "
        "directly before and after a down-sampling stay, as in the paper:",
        markdown((("network", "p", "paper, %", *names), readings)).rstrip(),
    ]


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
  stage in turn. The best of them is shown.

The tables are for p = 3 removed blocks. "Removed most often" lists at most five blocks, and only
those that at least 20 % of the seeds remove. The record has all blocks, p = 1 and 5, and all
scores."""
WORTH_TEXT = """\
Kendall's tau between the mean rank of a block over the {seeds} seeds above and its worth in
[ResNet-20](resnet20.md) (projection shortcuts, 8 epochs): the accuracy lost without this block
alone, in each seed of that study. 1 is the same order, 0 as by chance, -1 the reverse. The scores
come from other initial weights and batches than those of the study, so its own scores of GraSP and
SNIP give slightly other figures there. The interval is over the seeds of the worth ([how often it
is right](../reference/statistics.md#the-other-intervals)); the rankings are taken as they are, and
the intervals are not corrected for their number. Two references use no scores: the order of the
blocks, and the worth in the other seeds, which shows about how much is possible."""
MEMORY = """\
Memory that autograd keeps between the forward and the backward pass (batch 128, float32, exact
count). A block of the first stage keeps twice as much as one of the second, and four times as much
as one of the third. If the paper measured the same, the memory saved shows from which stages its
blocks were removed. Our [Table 4](table4.md) counts in bf16, where not all tensors become smaller
by the same factor: one block of the first stage of {one[network]} saves {in_bf16:.2f} % there and
{here:.2f} % here."""


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
    here = environment("cpu")
    if record["cases"] and record["environment"] != here and given.only:
        sys.exit(f"{path} was made with {record['environment']}, here is {here}. Delete it.")
    record = {
        "command": " ".join(["python benchmarks/what_is_removed.py", *words]),
        "seeds": given.seeds,
        "environment": here,
        "memory": record.get("memory") or memory(),
        "cases": record["cases"],
    }
    known = cases(given.data_dir)
    for name, (build, draw) in known.items():
        if given.only in name and name not in record["cases"]:
            begun = time.perf_counter()
            record["cases"][name] = score_case(build, draw, given.seeds)
            write_json(path, record)
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    record["cases"] = {name: record["cases"][name] for name in known if name in record["cases"]}
    write_json(path, record)
    study = Study.from_record(json.loads(WORTH.read_text(encoding="utf-8")))
    given.out.with_suffix(".md").write_text(page(record, study), encoding="utf-8")


if __name__ == "__main__":
    main()
