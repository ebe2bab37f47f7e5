"""How many seeds and test images does a claim need? Computed from the rows of finished studies.

``python benchmarks/seeds_and_images.py docs/results/resnet20.json --out OUT``

For every method: the correlation of its accuracy with that of the dense network over seeds, the
share of images on which the two networks disagree, both intervals, and the number of seeds that
would show with 80 % power that an equally good network loses less than 1 pp, and less than 0.3 pp.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from layerticket.files import write_json
from layerticket.report.tables import markdown
from layerticket.verdict.pairs import Row, unpack_correct
from layerticket.verdict.statistics import estimate, half_width, seeds_for

GAPS = (0.01, 0.003)
IMAGES = (2_000, 10_000, 50_000)


def pairs_of(rows):
    """Return method -> pairs (dense row, its row), one per seed; of several draws the first."""
    dense = {(row.model, row.seed): row for row in rows if row.kind == "dense" and row.is_tested}
    found = {}
    for row in rows:
        beside = dense.get((row.model, row.seed))
        if row.kind == "dense" or not row.is_tested or beside is None or row.correct is None:
            continue
        label = row.method
        if row.kind == "control" and row.role == "baseline":
            label = f"without {row.removed[0]}"
        elif row.draw:  # further draws of one seed are not independent
            continue
        if row.training != beside.training:
            found.setdefault((row.model, label), []).append((beside, row))
    return found


def facts(pairs, images, confidence=0.95):
    """Return what the pairs of one method show about seeds and images.

    `correlation` is Pearson's, over seeds, between the accuracies of a pair; `disagree` is the
    share of images that exactly one of the two networks classifies correctly. `seeds` has, by gap
    and number of test images, the seeds of a new study that would show with 80 % power that an
    equally good network loses less than the gap; None if no number of seeds is enough.
    """
    one, two = (np.array([row.test_accuracy for row in side]) for side in zip(*pairs, strict=True))
    bits = [[unpack_correct(row.correct, images) for row in pair] for pair in pairs]
    table = np.stack([b.astype(float) - a for a, b in bits])
    found = estimate([round(d, 12) for d in two - one], resolution=1 / images, table=table)
    apart = float(np.mean([np.mean(a != b) for a, b in bits]))
    record = {
        "n": len(pairs),
        "dense": {"mean": fmean(one), "std": stdev(one)},
        "accuracy": {"mean": fmean(two), "std": stdev(two)},
        "correlation": float(np.corrcoef(one, two)[0, 1]) if min(one.std(), two.std()) else None,
        "disagree": apart,
        "mean": found.mean,
        "std": found.std,
        "image_error": found.image_error,
        "over_seeds": half_width(found.seed_error, 0.0, found.n, (1 - confidence) / 2),
        "over_seeds_and_images": half_width(
            found.seed_error, found.image_error, found.n, (1 - confidence) / 2
        ),
        "seeds": {},
    }
    for gap in GAPS:
        for count in IMAGES:
            error = found.image_error * (images / count) ** 0.5
            equal = replace(found, mean=0.0, n=1, image_error=error)
            record["seeds"][f"{gap} {count}"] = seeds_for(equal, gap, confidence)
    return record


def page(record):
    """Return the page of a record as Markdown."""
    header = ["network", "method", "n", "correlation over seeds", "disagree, %", "difference, pp",
              "SD, pp", "over seeds, pp", "over seeds and images, pp"]  # fmt: skip
    header += [f"seeds for {100 * gap:g} pp, {n:,} images" for gap in GAPS for n in IMAGES]
    rows = [
        (
            one["model"],
            one["method"],
            str(one["n"]),
            "none" if one["correlation"] is None else f"{one['correlation']:+.2f}",
            f"{100 * one['disagree']:.1f}",
            f"{100 * one['mean']:+.2f}",
            f"{100 * one['std']:.2f}",
            f"{100 * one['over_seeds']:.2f}",
            f"{100 * one['over_seeds_and_images']:.2f}",
            *("no number" if n is None else f"{n:,}" for n in one["seeds"].values()),
        )
        for one in record["rows"]
    ]
    parts = [
        TEXT,
        f"```bash\n{record['command']}\n```",
        f"Made from {', '.join(record['from'])}, which gives hardware and versions; "
        f"{record['images']:,} test images.",
        markdown((header, rows)).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


TEXT = """\
# Seeds and images: how many does a claim need?

Each row is one method against the dense network of the same seeds.

- **Correlation over seeds**: near 1, pairing helps much; at 0, pairs are no better than two
  independent groups.
- **Disagree**: share of the test images that exactly one of the two networks classifies correctly.
- **Over seeds**, **over seeds and images**: half the width of the 95 % interval of the mean
  difference, for new seeds on these images, and for new seeds and new images. The second one
  decides.
- **Seeds for 1 pp, 0.3 pp**: seeds of a new study, fixed in advance, that would show with 80 %
  power that a network as good as dense loses less than that, if pairs differ as they do here.
  *No number*: the error from the choice of test images alone is too large."""


def main() -> None:
    """Read the records and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, help="study.json files")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    studies = [json.loads(path.read_text(encoding="utf-8")) for path in given.records]
    images = {study["test_images"] for study in studies}
    if len(images) != 1 or None in images:
        sys.exit(f"the records have {sorted(map(str, images))} test images. Give one test set.")
    rows = [
        {"model": model, "method": method} | facts(pairs, *images)
        for study in studies
        for (model, method), pairs in pairs_of(
            [Row.from_record(row) for row in study["runs"]]
        ).items()
        if len(pairs) > 1
    ]
    record = {
        "command": " ".join(["python benchmarks/seeds_and_images.py", *sys.argv[1:]]),
        "from": [path.name for path in given.records],
        "images": images.pop(),
        "rows": rows,
    }
    write_json(given.out.with_suffix(".json"), record)
    given.out.with_suffix(".md").write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
