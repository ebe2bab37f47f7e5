"""How many seeds and test images does a claim need? Computed from the rows of finished studies.

``python benchmarks/seeds_and_images.py docs/results/resnet20.json --out OUT``

For every method against dense, for every criterion against its controls and its filters, and for
SNIP against GraSP: the correlation of the two accuracies over seeds, the share of images on which
the two networks disagree, both intervals, the minimum detectable difference, and the number of
seeds that would show a difference of 1 pp, and of 0.3 pp, with 80 % power.
"""

import argparse
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
from scipy import special

from layerticket.files import write_json
from layerticket.report.tables import markdown
from layerticket.verdict.pairs import Row, unpack_correct
from layerticket.verdict.statistics import estimate, images_for, minimum_detectable, seeds_for

GAPS = (0.01, 0.003)
IMAGES = (2_000, 10_000, 50_000)
LEAST = 5  # seeds from which a correlation and a number of seeds are shown


def label_of(row):
    """Return the name of a row's method; None for further draws of one seed."""
    if row.kind == "control" and row.role == "baseline":
        return f"without {row.removed[0]}"
    # Further draws of one seed are not independent.
    return None if row.draw else row.method


def pairs_of(rows):
    """Return (network, method, other) -> pairs (row of the other, row of the method) by seed.

    Every method is paired with the dense network, every criterion with the controls of its budget
    and the filters matched to it, and SNIP with GraSP of the same reading. A seed in which both are
    the same training makes no pair.
    """
    methods = {}
    for row in rows:
        if row.is_tested and row.correct is not None and (label := label_of(row)) is not None:
            methods.setdefault((row.model, row.budget, label), {})[row.seed] = row
    found = {}
    for (model, budget, label), own in methods.items():
        first = next(iter(own.values()))
        for (other_model, other_budget, other), beside in methods.items():
            against = next(iter(beside.values()))
            dense = against.kind == "dense" and first.kind != "dense"
            matched = against.reference == first.method
            beside_it = first.role == "criterion" and (
                (against.role == "control" and (against.kind != "ticket" or matched))
                or (against.kind == "filters" and matched)
                or (label.split()[0] == "snip" and other == label.replace("snip", "grasp", 1))
            )
            if other_model != model or not (dense or (beside_it and other_budget == budget)):
                continue
            pairs = [
                (beside[seed], row)
                for seed, row in sorted(own.items())
                if seed in beside and row.training != beside[seed].training
            ]
            if len(pairs) > 1:
                found[model, label, other] = pairs
    return found


def disagreement(one, two, images):
    """Return the share of images that exactly one of two networks classifies correctly."""
    bits = [unpack_correct(row.correct, images) for row in (one, two)]
    return float(np.mean(bits[0] != bits[1]))


def removed_sets(rows):
    """Return how many different sets of blocks rows remove; None if they do not remove blocks."""
    sets = {frozenset(row.removed or ()) for row in rows}
    return None if frozenset() in sets else len(sets)


def mean_std(values):
    """Return mean and standard deviation as a record."""
    return {"mean": fmean(values), "std": stdev(values)}


def facts(pairs, images, confidence=0.95):
    """Return what the pairs of two methods show about seeds and images.

    `correlation` is Pearson's, over seeds, between the accuracies of a pair; None below five seeds.
    `disagree` is the share of images that exactly one of the two networks classifies correctly.
    `seeds` has, by gap and number of test images, the seeds of a new study that would show with
    80 % power that an equally good network loses less than the gap; None if no number of seeds is
    enough. It is None as a whole below five seeds. `images` has, by gap, the smallest number of
    test images with which some number of seeds is enough; 0 if no error from images was found.
    """
    one, two = (np.array([row.test_accuracy for row in side]) for side in zip(*pairs, strict=True))
    bits = [[unpack_correct(row.correct, images) for row in pair] for pair in pairs]
    table = np.stack([b.astype(float) - a for a, b in bits])
    found = estimate([round(d, 12) for d in two - one], resolution=1 / images, table=table)
    decides = found.difference(confidence)
    enough = len(pairs) >= LEAST
    varied = min(one.std(), two.std()) > 0
    record = {
        "n": len(pairs),
        "sets": removed_sets([row for _, row in pairs]),
        "other_accuracy": mean_std(one.tolist()),
        "accuracy": mean_std(two.tolist()),
        "correlation": float(np.corrcoef(one, two)[0, 1]) if enough and varied else None,
        "disagree": mean_std([disagreement(*pair, images) for pair in pairs]),
        "mean": found.mean,
        "std": found.std,
        "image_error": found.image_error,
        "over_seeds": (decides.seeds_high - decides.seeds_low) / 2,
        "over_seeds_and_images": (decides.high - decides.low) / 2,
        "minimum_detectable": minimum_detectable(found, confidence),
        "seeds": {} if enough else None,
        "images": {},
    }
    for gap in GAPS:
        # One image with its error: the number that images_for returns is then that of the gap.
        alone = replace(found, mean=0.0, images=1, image_error=found.image_error * images**0.5)
        record["images"][f"{gap}"] = images_for(alone, gap, confidence) or 0
        for count in IMAGES if enough else ():
            equal = replace(on_images(found, count), mean=0.0, n=1)
            record["seeds"][f"{gap} {count}"] = seeds_for(equal, gap, confidence)
    return record


def on_images(found, count):
    """Return what is expected of an estimate with another number of test images.

    The variance over seeds has a part from single images, `chance` squared, which falls with their
    number, and the rest, which does not.
    """
    chance, error = (
        value * (found.images / count) ** 0.5 for value in (found.chance, found.image_error)
    )
    rest = max(0.0, found.spread**2 - found.chance**2)
    spread = (rest + chance**2) ** 0.5
    return replace(found, images=count, spread=spread, chance=chance, image_error=error)


def dense_disagreement(rows, images):
    """Return the mean share of images on which dense networks of different seeds disagree."""
    dense = [row for row in rows if row.kind == "dense" and row.is_tested and row.correct]
    shares = [
        disagreement(one, two, images)
        for one, two in itertools.combinations(dense, 2)
        if one.model == two.model
    ]
    return fmean(shares) if shares else None


def span(values, show, noun=""):
    """Write the median of values and their range."""
    low, middle, high = (show(one(values)) for one in (min, median, max))
    return f"{middle}{noun}" if low == high else f"{middle}{noun} (median; {low} to {high})"


def extent(values, show, noun=""):
    """Write the least and the largest of values."""
    low, high = show(min(values)), show(max(values))
    return f"{low}{noun}" if low == high else f"{low} to {high}{noun}"


def needed_seeds(rows, gap, images):
    """Write how many seeds comparisons need."""
    seeds = [one["seeds"][f"{gap} {images}"] for one in rows]
    enough = [n for n in seeds if n is not None]
    if not enough:
        return "more images (no number of seeds is enough)"
    never = len(seeds) - len(enough)
    lacking = f", for {never} of {len(seeds)} no number is enough," if never else ""
    return extent(enough, "{:.0f}".format, " seeds") + lacking


def summary(record):
    """Return the sentences of "In short"."""
    known = [one for one in record["rows"] if one["other"] == "dense" and one["n"] >= LEAST]
    if not known:
        return f"No method has {LEAST} paired seeds, so nothing is said about seeds."
    images = record["images"]
    parts = [
        f"These sentences are about the {len(known)} comparisons with dense that have at least "
        f"{LEAST} paired seeds."
    ]
    for gap in GAPS:
        least = span([one["images"][f"{gap}"] for one in known], "{:,.0f}".format, " test images")
        parts.append(
            f"**A claim of {100 * gap:g} pp** needs {needed_seeds(known, gap, images)} with "
            f"{images:,} test images. At least {least} are needed, however many seeds there are "
            "(0: no error from the choice of images was found)."
        )
    fixed, varied = (
        [one for one in known if one["sets"] and (one["sets"] == 1) == same]
        for same in (True, False)
    )
    for start, group in (
        ("**The same blocks removed in every seed**", fixed),
        ("**Blocks that vary from seed to seed**", varied),
    ):
        if group:
            names = ", ".join(one["method"] for one in group)
            stds = span([100 * one["std"] for one in group], "{:.2f}".format, " pp")
            needs = " and ".join(
                f"{needed_seeds(group, gap, images)} for {100 * gap:g} pp" for gap in GAPS
            )
            parts.append(f"{start} ({names}): SD of paired differences {stds}; {needs}.")
    paired = fmean(one["std"] ** 2 for one in known)
    apart = fmean(one["accuracy"]["std"] ** 2 + one["other_accuracy"]["std"] ** 2 for one in known)
    correlations = [one["correlation"] for one in known if one["correlation"] is not None]
    share = paired / apart
    word = "helps" if share < 0.8 else "does harm" if share > 1.25 else "changes little"
    parts.append(
        f"**Pairing by seed {word}**: the variance of paired differences is {100 * share:.0f} % of "
        "that of two independent groups (mean over comparisons); the correlation over seeds is "
        f"{span(correlations, '{:+.2f}'.format)}."
    )
    shares = span([100 * one["disagree"]["mean"] for one in known], "{:.1f}".format, " %")
    other = record["dense_disagree"]
    beside = (
        "" if other is None else f"; two dense networks of different seeds: {100 * other:.1f} %"
    )
    parts.append(f"**Share of test images on which two networks disagree**: {shares}{beside}.")
    few = min(one["n"] for one in known)
    low, high = (((few - 1) / special.chdtri(few - 1, p)) ** 0.5 for p in (0.025, 0.975))
    parts.append(
        f"These numbers are rough: with {few} seeds the true SD may be {low:.1f} to {high:.1f} "
        "times the one measured (95 %), and the number of seeds grows with its square."
    )
    return "\n".join(f"- {part}" for part in parts)


def page(record):
    """Return the page of a record as Markdown."""
    counts = " / ".join(f"{n:,}" for n in IMAGES)
    header = ["network", "method", "against", "n", "method, %", "against, %",
              "correlation over seeds", "disagree, %", "difference, pp", "over seeds, pp",
              "over seeds and images, pp", "minimum detectable, pp"]  # fmt: skip
    header += [f"seeds for {100 * gap:g} pp ({counts} images)" for gap in GAPS]

    def percent(of):
        return f"{100 * of['mean']:.2f} ± {100 * of['std']:.2f}"

    def needed(one, gap):
        if one["seeds"] is None:
            return "-"
        found = (one["seeds"][f"{gap} {count}"] for count in IMAGES)
        return " / ".join("none" if n is None else f"{n:,}" for n in found)

    rows = [
        (
            one["model"],
            one["method"],
            one["other"],
            str(one["n"]),
            percent(one["accuracy"]),
            percent(one["other_accuracy"]),
            "-" if one["correlation"] is None else f"{one['correlation']:+.2f}",
            f"{100 * one['disagree']['mean']:.1f} ± {100 * one['disagree']['std']:.1f}",
            f"{100 * one['mean']:+.2f} ± {100 * one['std']:.2f}",
            f"{100 * one['over_seeds']:.2f}",
            f"{100 * one['over_seeds_and_images']:.2f}",
            f"{100 * one['minimum_detectable']:.2f}",
            *(needed(one, gap) for gap in GAPS),
        )
        for one in record["rows"]
    ]
    sources = ", ".join(f"[{name}]({Path(name).stem}.md)" for name in record["from"])
    parts = [
        TITLE,
        "## In short",
        summary(record),
        "## All pairs",
        TEXT.format(least=LEAST),
        f"```bash\n{record['command']}\n```",
        f"Made from {sources}, which gives hardware and versions; {record['images']:,} test "
        "images.",
        markdown((header, rows)).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


TITLE = """\
# Seeds and images: how many does a claim need?

Each comparison is one method against the dense network of the same seeds, or one criterion against
a control, its filters or another criterion of the same seeds."""
TEXT = """\
- **n**: seeds in which the two are different networks. Figures with ± are mean and standard
  deviation (SD) over these seeds.
- **Correlation over seeds**: near 1, pairing by seed helps much; at 0, pairs are no better than two
  independent groups. Not shown below {least} seeds.
- **Disagree**: share of the test images that exactly one of the two networks classifies correctly.
- **Over seeds**, **over seeds and images**: half the width of the 95 % interval of the mean
  difference, for new seeds on these images, and for new seeds and new images. The second one
  decides.
- **Minimum detectable**: the true difference, counted from the margin against dense and from 0
  otherwise, that these seeds find with 80 % power.
- **Seeds for 1 pp, 0.3 pp**: seeds of a new study, fixed in advance, with 80 % power, if pairs
  differ as they do here. Against dense: to show that a network as good as dense loses less than
  that. Otherwise: to show that a method which is better by that is better. Not shown below
  {least} seeds. *None*: no number of seeds is enough, because the error from the choice of test
  images alone is too large. With other numbers of images the part of the SD that comes from single
  images is scaled; the rest stays.

Minimum detectable difference and seeds are for one comparison; the page of a study corrects its
comparisons with dense for their number. And seeds are for two equally good networks here; there
they are for the difference that was measured, which matters most."""


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
    runs = [[Row.from_record(row) for row in study["runs"]] for study in studies]
    count = images.pop()
    record = {
        "command": " ".join(["python benchmarks/seeds_and_images.py", *sys.argv[1:]]),
        "from": [path.name for path in given.records],
        "images": count,
        "dense_disagree": dense_disagreement([row for rows in runs for row in rows], count),
        "rows": [
            {"model": model, "method": method, "other": other} | facts(pairs, count)
            for rows in runs
            for (model, method, other), pairs in pairs_of(rows).items()
        ],
    }
    write_json(given.out.with_suffix(".json"), record)
    given.out.with_suffix(".md").write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
