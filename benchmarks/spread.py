"""Do scores at initialization tell blocks apart? A ResNet, a ViT and a GPT-2 in small.

``python benchmarks/spread.py --out docs/results/spread``
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from layerticket.data.sources import load_data
from layerticket.lottery import draw_batch
from layerticket.models.load import build_model
from layerticket.report.tables import markdown
from layerticket.study.record import environment
from layerticket.study.stability import ranking_stability

TEXT_FILE = Path(__file__).parents[1] / "LICENSE"
LENGTH = 64


def resnet(seed):
    return build_model("resnet20", classes=10, channels=1, seed=seed)


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


def images(number):
    return draw_batch(load_data("digits"), None, seed=number, balanced=True)


def text(number):
    data = list(TEXT_FILE.read_bytes())
    drawn = torch.Generator().manual_seed(number)
    starts = torch.randint(0, len(data) - LENGTH, (16,), generator=drawn).tolist()
    ids = torch.tensor([data[start : start + LENGTH] for start in starts])
    return {"input_ids": ids, "labels": ids}


CASES = {
    "ResNet-20, digits": (resnet, images),
    "ViT (8 blocks, width 48), digits": (vit, images),
    "GPT-2 (8 blocks, width 64), English text as bytes": (gpt2, text),
}


def page(record):
    header = ("network", "criterion", "varies over blocks by", "signal to noise",
              "agreement over batches", "over initializations", "what that says")  # fmt: skip
    rows = [
        (
            row["network"],
            row["criterion"],
            f"{row['relative_spread']:.0%}",
            f"{row['signal_to_noise']:.2g}" if row["signal_to_noise"] else "0",
            f"{row['agreement']['batches']:.2f} (p = {row['p_value']['batches']:.1g})",
            f"{row['agreement']['seeds']:.2f} (p = {row['p_value']['seeds']:.1g})",
            OUTCOMES[row["outcome"]],
        )
        for row in record["rows"]
    ]
    where = record["environment"]
    parts = [
        "# Do scores at initialization tell blocks apart?",
        TEXT,
        f"```bash\n{record['command']}\n```",
        f"{record['repeats']} initializations, {record['repeats']} batches each; {where['cpu']}, "
        f"Python {where['python']}, PyTorch {where['torch']}.",
        markdown((header, rows)).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


TEXT = """\
Scores are divided by the mean of their absolute values. *Signal to noise*: variance over blocks
within an initialization over variance over batches. *Agreement*: Kendall's W of the rankings (0 as
by chance, 1 always the same), with the p-value of Friedman's test."""
OUTCOMES = {
    "any": "any block would do",
    "seed": "a ranking of this initialization only; by their place, any block would do",
    "position": "the place of a block matters",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows = []
    for name, (build, draw) in CASES.items():
        for criterion in ("snip", "grasp", "random"):
            told = ranking_stability(
                build, draw, criterion=criterion, seeds=given.repeats, batches=given.repeats
            )
            rows.append({"network": name} | told)
            print(name, criterion, told["sentence"], sep=": ", flush=True)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "repeats": given.repeats,
        "environment": environment("cpu"),
        "rows": rows,
    }
    if given.out:
        given.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        given.out.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
