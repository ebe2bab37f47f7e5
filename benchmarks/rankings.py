"""What decides a ranking of blocks? Rank correlations for the cards of docs/reference/criteria.md.

    OMP_NUM_THREADS=1 python benchmarks/rankings.py --data cifar10 --data-dir FOLDER

Everything is measured at initialization, except PLS: networks are trained for `--epochs` first (0:
PLS is skipped). Correlations are Spearman's over the removable blocks: the mean over `--seeds`
networks, and the range in brackets.
"""

import argparse
import dataclasses
import itertools
import tempfile
from pathlib import Path
from statistics import fmean, pstdev

import torch
from scipy.stats import spearmanr

from layerticket.blocks.find import find_blocks
from layerticket.data.sources import load_data
from layerticket.lottery import draw_batch
from layerticket.models.load import build_model
from layerticket.scoring import score
from layerticket.selection import Budget, select
from layerticket.ticket.find import cut_of, halves_of
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe

NETWORK, IMAGES = "resnet32", 100


def built(data, seed):
    return build_model(NETWORK, classes=data.classes, channels=data.shape[0], seed=seed)


class Case:
    """One network of one seed, and the scores of its blocks."""

    def __init__(self, data, seed, model=None):
        self.data, self.seed = data, seed
        self.model = model or built(data, seed)
        self.blocks = find_blocks(self.model, data.train.fetch(slice(1)).float())

    def scores(self, criterion, images=IMAGES, draw=0, blocks=None, **options):
        """Return the scores of the blocks, in the order of execution."""
        batch = draw_batch(self.data, images, seed=1000 * self.seed + draw, balanced=True)
        found = score(self.model, blocks or self.blocks, batch, criterion, **options)
        return list(found.values.values())

    def published_grasp(self, redraw):
        """Return GraSP as in the authors' code."""
        return self.scores("grasp", halves=True, redraw=redraw)

    def pls_one_by_one(self):
        """Return PLS with a separate projection for every block."""
        alone = [dataclasses.replace(self.blocks, removable=(b,)) for b in self.blocks]
        return [self.scores("pls", blocks=one)[0] for one in alone]

    def stages(self, values):
        """Return the scores by stage, for stages with several blocks."""
        pairs = zip((b.stage for b in self.blocks), values, strict=True)
        grouped = itertools.groupby(pairs, key=lambda pair: pair[0])
        return [part for _, group in grouped if len(part := [v for _, v in group]) > 1]


def correlation(one, other):
    return float(spearmanr(one, other).statistic)


def line(what, values):
    low, high = min(values), max(values)
    print(f"{what:66} {fmean(values):7.4f}  ({low:.4f} to {high:.4f})")


def spread(case, criterion):
    """Return the deviation over the blocks of a stage, divided by their mean; mean over stages."""
    return fmean(pstdev(s) / abs(fmean(s)) for s in case.stages(case.scores(criterion)))


def agreement(case, criterion, draws=4):
    """Compare how other batches order neighbours in the ranking, with and without a warning.

    For every possible cut of every batch: whether each other batch ranks the two blocks in the same
    order, by whether the gap is smaller than its noise.
    """
    batches = [
        draw_batch(case.data, IMAGES, seed=1000 * case.seed + draw, balanced=True)
        for draw in range(draws)
    ]
    scored = [score(case.model, case.blocks, batch, criterion) for batch in batches]
    found = {True: [], False: []}
    for batch, own in zip(batches, scored, strict=True):
        parts = [score(case.model, case.blocks, half, criterion) for half in halves_of(batch)]
        for number in range(1, len(case.blocks)):
            chosen = select(own.values, case.blocks, Budget(remove=number))
            cut = cut_of(chosen, own, parts)
            alike = [o.values[cut.kept] > o.values[cut.removed] for o in scored if o is not own]
            found[cut.gap < cut.noise] += alike
    return found


def trained(data, seed, epochs):
    model = built(data, seed)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, data, Recipe(epochs=epochs), seed=seed, folder=Path(folder))
    return Case(data, seed, model.to("cpu", memory_format=torch.contiguous_format))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    data = load_data(given.data, data_dir=given.data_dir)
    cases = [Case(data, seed) for seed in range(given.seeds)]
    print(f"{NETWORK}, {data.title}, {IMAGES} images, {given.seeds} seeds")

    def compare(what, one, other):
        line(what, [correlation(one(case), other(case)) for case in cases])

    grasp = lambda c: c.scores("grasp")  # noqa: E731
    compare("grasp: ours, halves and redraw", grasp, lambda c: c.published_grasp(0))
    compare("grasp: ours, halves alone", grasp, lambda c: c.scores("grasp", halves=True))
    compare("grasp: two redraws", lambda c: c.published_grasp(0), lambda c: c.published_grasp(1))
    compare("grasp: 100 images, 400 images", grasp, lambda c: c.scores("grasp", images=400))
    compare("grasp: two batches of 100", grasp, lambda c: c.scores("grasp", draw=1))
    compare("grasp: batch, running", grasp, lambda c: c.scores("grasp", normalization="running"))
    snip = lambda c: c.scores("snip")  # noqa: E731
    running = {"normalization": "running"}
    compare("snip: batch, running", snip, lambda c: c.scores("snip", **running))
    compare("snip: ours, running and redraw", snip, lambda c: c.scores("snip", redraw=0, **running))
    compare("snip: two batches of 100", snip, lambda c: c.scores("snip", draw=1))
    for name in ("grasp", "snip", "synflow", "magnitude"):
        line(f"{name}: spread within a stage", [spread(case, name) for case in cases])
    for name in ("grasp", "snip"):
        together = {True: [], False: []}
        for case in cases:
            for warned, alike in agreement(case, name).items():
                together[warned] += alike
        for warned, alike in together.items():
            what = f"{name}: another batch agrees, {'warned' if warned else 'not warned'}"
            print(f"{what:66} {fmean(alike):5.2f}  (of {len(alike)})" if alike else what)
    if given.epochs:
        after = [trained(data, seed, given.epochs) for seed in range(given.seeds)]
        line(
            f"pls: one for all, one a block (after {given.epochs} epochs)",
            [correlation(case.scores("pls"), case.pls_one_by_one()) for case in after],
        )


if __name__ == "__main__":
    main()
