"""How often is the demo decided? Ten demos with first seeds 0 to 9, from the runs of one study.

    layerticket study run demo --out first-seeds --set seeds=16
    python benchmarks/first_seeds.py first-seeds

Writes docs/results/demo.json and demo.md.
"""

import sys
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev

from layerticket.files import read_json, write_atomically, write_json
from layerticket.verdict.pairs import Row, compare_rows

SEEDS = 7  # of the demo
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def demos(study):
    """Judge the seven seeds from each first seed on; two successive demos share six of them."""
    rows = [Row.from_record(record) for record in study["runs"]]
    seeds = sorted({row.seed for row in rows})
    for first in range(len(seeds) - SEEDS + 1):
        some = set(seeds[first : first + SEEDS])
        found = compare_rows(
            [row for row in rows if row.seed in some],
            margin=study["margin"],
            confidence=study["confidence"],
            networks=study["networks"],
            test_images=study["test_images"],
        )
        (one,) = found.comparisons
        yield {
            "first_seed": min(some),
            "outcome": one.outcome,
            "mean": one.difference.mean,
            "low": one.difference.low,
            "high": one.difference.high,
        }


def main():
    study = read_json(Path(sys.argv[1]) / "study.json")
    found = list(demos(study))
    pairs = {}
    for record in study["runs"]:
        pairs.setdefault(record["seed"], {})[record["kind"]] = record["test_accuracy"]
    differences = [pair["ticket"] - pair["dense"] for pair in pairs.values()]
    record = {
        "command": f"{study['command']}; python benchmarks/first_seeds.py",
        "environment": study["environment"],
        "study": study["study"],
        "pairs": {"n": len(differences), "mean": fmean(differences), "std": stdev(differences)},
        "demos": found,
    }
    write_json(RESULTS / "demo.json", record)
    counts = Counter(one["outcome"] for one in found)
    lines = [
        "# How often is the demo decided?",
        "",
        f"Outcomes of {len(found)} demos with different first seeds ({SEEDS} pairs each; two "
        f"successive demos share {SEEDS - 1} of them): "
        + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        + f". Over all n = {len(differences)} pairs the ticket differs from dense by "
        f"{100 * fmean(differences):+.2f} ± {100 * stdev(differences):.2f} pp (mean ± standard "
        "deviation).",
        "",
        "<!-- from demo.json -->",
        "",
        "```bash",
        "layerticket study run demo --out first-seeds --set seeds=16",
        "python benchmarks/first_seeds.py first-seeds",
        "```",
        "",
        "| first seed | difference, pp | outcome at a margin of 1 pp |",
        "|---|---|---|",
        *(
            f"| {one['first_seed']} | {100 * one['mean']:+.2f} ({100 * one['low']:+.2f} to "
            f"{100 * one['high']:+.2f}) | {one['outcome']} |"
            for one in found
        ),
        "",
        "Seeds, epochs and margin of the demo were fixed by a pilot with other seeds, "
        "`studies/demo-pilot.toml`: 20 pairs, standard deviation 0.69 pp.",
        "",
        f"{study['environment']['cpu']}, {study['environment']['threads']} thread per training; "
        f"Python {study['environment']['python']}, PyTorch {study['environment']['torch']}.",
    ]
    write_atomically(RESULTS / "demo.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
