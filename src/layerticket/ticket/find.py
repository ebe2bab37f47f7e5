"""From a network and a budget to a ticket: find the blocks, score, select, cut, in rounds."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layerticket.batch import Batch, class_order, head, inputs_of, map_tensors, size_of
from layerticket.blocks.block import Block, Blocks, Granularity
from layerticket.blocks.find import find_blocks
from layerticket.blocks.probe import runs
from layerticket.criteria.registry import get_criterion
from layerticket.errors import LayerticketError
from layerticket.modules import network_of, preserved_random_state, view_of
from layerticket.scoring import BlockScores, score
from layerticket.selection import Budget, Costs, Selection, check_budget, select
from layerticket.surgery.hugging_face import name_after_removal
from layerticket.surgery.remove import remove_blocks
from layerticket.ticket.ticket import (
    Cut,
    Ticket,
    architecture_digest,
    first_weights,
    weights_digest,
)


def find_ticket(
    model: nn.Module,
    batch: Batch,
    *,
    criterion: str = "grasp",
    budget: Budget,
    protect: Iterable[str] = (),
    min_per_stage: int = 0,
    keep_neighbours: bool = False,
    name: str = "",
    seed: int | None = None,
    rounds: int = 1,
    within: Ticket | None = None,
    costs: Callable[[Blocks], Costs] | None = None,
    granularity: Granularity = "block",
    noise: bool = False,
    **options: Any,  # noqa: ANN401 - the criterion's own, see `score`
) -> Ticket:
    """Find a ticket: score the blocks of a network, remove the lowest.

    With several rounds the smaller network is scored anew after each, and each removes an equal
    part of the budget: the cumulative target of round r of k is the r-th k-th of it, in whole
    blocks rounded up. Cost: k scorings. At initialization this is Algorithm 2 of the paper.

    Args:
        model: Network, untrained or trained; not modified.
        batch: ``(inputs, targets)`` or a dict, on the model's device, to score the blocks on.
        criterion: A registered name, see `criterion_names`.
        budget: How much is to go.
        protect: Patterns of blocks that must stay, see `select`.
        min_per_stage: Blocks that must remain in every stage.
        keep_neighbours: Whether the neighbours of down-samplings stay, as in the paper.
        name: What the network is built by; recorded. Its class name by default.
        seed: Seed theta_0 was drawn with; recorded. Criterion `random` draws by it, unless `draw`
            is given.
        rounds: Rounds of scoring and removing, without training in between; 1: all at once.
        within: Ticket that `model` has already been cut down to, to go on from; `budget` counts
            from the dense network. So a network can be trained between rounds.
        costs: Measures the blocks of the dense network, for a budget of measured costs.
        granularity: `branch`: the branches of a block may go one by one, see `find_blocks`; with
            `within`, that ticket's own.
        noise: Whether the gap at the cut is set against its noise, see `cut_of`: the ticket then
            says so in `cuts`, and a gap below its noise is warned of. Each round is scored twice
            more, on half the batch each: about double the cost of scoring. A criterion that reads
            no batch has no such noise, and costs nothing more.
        **options: Options of `score`: `normalization`, `reduction`, `temperature`, ...

    Returns:
        The ticket; ``ticket.apply(model)`` is the smaller network.

    Raises:
        LayerticketError: If there is no removable block, the scores are degenerate or the budget
            cannot be met, there are fewer blocks to remove than rounds, or `within` is of another
            network.
    """
    check_budget(budget)
    model = network_of(model)
    if criterion == "random" and seed is not None:
        options = {"draw": seed} | options
    blocks = _dense_blocks(model, batch, within, granularity)
    measured = None if costs is None else costs(blocks)
    small, gone = model, () if within is None else within.removed
    found: list[tuple[BlockScores, Selection]] = []
    cuts: list[Cut] = []
    for part in budget.parts(rounds):
        whole = _whole(blocks, gone)
        scores = _scores(small, blocks.without(gone), whole, batch, criterion, **options)
        chosen = select(
            scores.values,
            blocks,
            part,
            protect=protect,
            min_per_stage=min_per_stage,
            keep_neighbours=keep_neighbours,
            gone=gone,
            costs=measured,
        )
        if noise and chosen.order and chosen.following and get_criterion(criterion).uses:
            try:
                halves = [
                    _scores(small, blocks.without(gone), whole, half, criterion, **options)
                    for half in halves_of(batch)
                ]
                cuts.append(cut_of(chosen, scores, halves))
            except LayerticketError as err:
                warnings.warn(f"how sure the cut is cannot be told: {err}", stacklevel=2)
        small, gone = _without(small, blocks.named(chosen.order), whole), chosen.removed
        found.append((scores, chosen))
    if within is not None and gone == within.removed:
        raise LayerticketError(
            f"the ticket given already removes {len(gone)} blocks, which meets the budget. "
            "A budget counts from the dense network: ask for more."
        )
    with preserved_random_state(0):
        failure = runs(view_of(small).eval(), head(inputs_of(batch), 1))
    if failure:
        raise LayerticketError(
            f"without {', '.join(gone)} together the model's own code fails ({failure}), though it "
            "runs without each alone. Protect one of them, or remove fewer blocks."
        )
    ticket = _ticket(model, blocks, small, found, within)
    return replace(ticket, model=name or ticket.model, seed=seed, cuts=tuple(cuts))


def halves_of(batch: Batch) -> tuple[Batch, Batch]:
    """Deal the examples of a batch into two halves, of each class equally many where it has one.

    Raises:
        LayerticketError: If there are fewer than two examples.
    """
    examples = size_of(batch)
    if examples < 2:
        raise LayerticketError(
            f"the noise of scores is measured on two halves of the batch, which has {examples} "
            "example. Give more, or leave noise out."
        )
    order = class_order(batch)
    order = torch.arange(examples) if order is None else order

    def every_other(first: int) -> Batch:
        found: Batch = map_tensors(batch, lambda t: t[order[first::2].to(t.device)])
        return found

    return every_other(0), every_other(1)


def cut_of(chosen: Selection, scores: BlockScores, halves: Sequence[BlockScores]) -> Cut:
    """Set the gap between the last block removed and the first one kept against its noise.

    The scores s1, s2 of all blocks on two halves of the batch, each divided by the mean of their
    absolute values (a factor common to all blocks ranks nothing), differ by the relative noise
    ``r = sqrt(mean_b ((s1_b - s2_b) / (|s1_b| + |s2_b|))^2)``; the noise of the gap is
    ``r sqrt(s_last^2 + s_first^2)``, one standard error. A gap below it is warned of.

    Args:
        chosen: What was chosen; its last block and the one that would have gone next.
        scores: On the whole batch.
        halves: On its two halves.
    """
    assert chosen.following is not None
    last, first = chosen.order[-1], chosen.following
    gap = scores.values[first] - scores.values[last]
    sizes = [sum(map(abs, half.values.values())) or 1.0 for half in halves]
    rows = [[v / size for v in h.values.values()] for h, size in zip(halves, sizes, strict=True)]
    apart = [(a - b) / ((abs(a) + abs(b)) or 1.0) for a, b in zip(*rows, strict=True)]
    relative = math.sqrt(sum(part**2 for part in apart) / len(apart))
    noise = relative * math.hypot(scores.values[last], scores.values[first])
    if gap < noise:
        warnings.warn(
            f"the scores hardly tell {last} (removed) from {first} (kept): they differ by "
            f"{gap:.3g}, and two halves of the batch of {scores.examples} put the noise of that at "
            f"{noise:.3g}. Another batch may choose otherwise; score on more examples.",
            stacklevel=3,
        )
    return Cut(
        removed=last,
        kept=first,
        gap=gap,
        noise=noise,
        seconds=sum(half.seconds for half in halves),
    )


def _whole(blocks: Blocks, gone: Sequence[str]) -> list[str]:
    """Return the names of blocks that went as a whole; branches leave numbers as they are."""
    return [block.name for block in blocks.named(gone) if block.branch is None]


def _renamed(small: nn.Module, blocks: Iterable[Block], gone: Sequence[str]) -> tuple[Block, ...]:
    """Return blocks under the names they have in the network that `gone` was removed from."""
    now = name_after_removal(small, gone)
    return tuple(_under(block, now) for block in blocks)


def _under(block: Block, now: Callable[[str], str]) -> Block:
    """Rename a block and what it is made of."""
    if block.branch is None:
        return replace(block, name=now(block.name))
    parts = tuple(replace(part, name=now(part.name)) for part in block.branch.replacements)
    return replace(
        block,
        name=now(block.name),
        branch=replace(block.branch, of=now(block.branch.of), replacements=parts),
    )


def _scores(
    small: nn.Module,
    blocks: Blocks,
    gone: Sequence[str],
    batch: Batch,
    criterion: str,
    **options: Any,  # noqa: ANN401 - see `score`
) -> BlockScores:
    """Score what is left; the values carry the names of the dense network."""
    current = _renamed(small, blocks, gone)
    scores = score(small, replace(blocks, removable=current), batch, criterion, **options)
    pairs = zip(blocks, current, strict=True)
    return replace(scores, values={old.name: scores.values[new.name] for old, new in pairs})


def _without(small: nn.Module, blocks: Iterable[Block], gone: Sequence[str]) -> nn.Module:
    """Remove further blocks, named as in the dense network, from what is left of it."""
    return remove_blocks(small, _renamed(small, blocks, gone))


def _dense_blocks(
    model: nn.Module, batch: Batch, within: Ticket | None, granularity: Granularity
) -> Blocks:
    """Find the removable blocks of the dense network, or take over those of a ticket of it."""
    if within is None:
        return find_blocks(model, head(inputs_of(batch), 1), granularity=granularity)
    if within.kind != "blocks":
        raise LayerticketError(
            f"the ticket given removes {within.kind}; only from a ticket of blocks can more blocks "
            "go."
        )
    if within.init.keys() != model.state_dict().keys():
        raise LayerticketError(
            f"this {type(model).__name__} is not cut down to the ticket given; its parameters have "
            "other names. Pass ticket.apply(model), trained or not."
        )
    return Blocks(
        removable=within.blocks,
        rejected=(),
        params=within.params["dense"],
        macs=within.macs["dense"],
    )


def _ticket(
    model: nn.Module,
    blocks: Blocks,
    small: nn.Module,
    found: list[tuple[BlockScores, Selection]],
    within: Ticket | None,
) -> Ticket:
    """Write down what the rounds found, behind what the ticket they went on from says."""
    first, last = found[0][0], found[-1][1]
    rounds = [scores.values for scores, _ in found]
    left = blocks.without(last.removed).macs
    return Ticket(
        model=within.model if within else type(model).__name__,
        architecture=within.architecture if within else architecture_digest(model),
        weights=weights_digest(model),
        criterion=first.criterion,
        options=first.options,
        batch=first.batch_digest,
        examples=first.examples,
        scores=within.scores if within else rounds.pop(0),
        removed=last.removed,
        kept=last.kept,
        order=(*(within.order if within else ()), *(chosen.order for _, chosen in found)),
        later_scores=(*(within.later_scores if within else ()), *rounds),
        blocks=blocks.removable,
        macs={"dense": blocks.macs, "ticket": left},
        params={"dense": blocks.params, "ticket": sum(p.numel() for p in small.parameters())},
        seed=None,
        score_seconds=sum(scores.seconds for scores, _ in found),
        versions={"torch": torch.__version__},
        init=first_weights(small),
    )
