"""Find a ticket of a network: find blocks, score, select and remove them, in rounds."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layerticket.batch import Batch, classes_of, head, inputs_of, map_tensors, size_of
from layerticket.blocks.block import Block, Blocks, Granularity
from layerticket.blocks.find import find_blocks
from layerticket.blocks.probe import runs
from layerticket.counting import count_params
from layerticket.criteria.registry import get_criterion
from layerticket.errors import LayerticketError
from layerticket.modules import in_eval_mode, network_of, preserved_random_state, view_of
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
    """Find a ticket: score the blocks of a network and remove those with the lowest scores.

    With several rounds, the smaller network is scored again after each, and each removes an equal
    part of the budget: the cumulative target after round r of k is r / k of it, in whole blocks
    rounded up. Cost: k scorings. At initialization this is Algorithm 2 of the paper.

    Args:
        model: Network, untrained or trained; not modified.
        batch: Scoring batch: ``(inputs, targets)`` or a dict, on the model's device.
        criterion: A registered name, see `criterion_names`.
        budget: How much to remove.
        protect: Patterns of blocks that must stay, see `select`.
        min_per_stage: Minimum number of blocks that stay in every stage.
        keep_neighbours: Whether the neighbours of down-samplings stay, as in the paper's code.
        name: Name that the network is built by; recorded. By default its class name.
        seed: Seed that drew theta_0; recorded. Criterion `random` uses it unless `draw` is
            given.
        rounds: Rounds of scoring and removing, without training in between; 1: all at once.
        within: Ticket that was already applied to `model`; more blocks are removed, and `budget`
            counts from the dense network. So a network can be trained between rounds.
        costs: Measures the blocks of the dense network, for a budget of measured costs.
        granularity: `branch`: single branches of a block can be removed, see `find_blocks`; with
            `within`, the granularity of that ticket.
        noise: Whether to compare the score gap at the cut with its noise, see `cut_of`. The result
            is in `cuts`, with a warning if the gap is below its noise. Each round is scored two
            more times, on half the batch each: about twice the cost of scoring. A criterion
            that reads no batch has no such noise and no extra cost.
        **options: Options of `score`: `normalization`, `reduction`, `temperature`, ...

    Returns:
        The ticket; ``ticket.apply(model)`` is the smaller network.

    Raises:
        LayerticketError: If there is no removable block, the scores are degenerate, the budget
            cannot be met, there are fewer blocks to remove than rounds, or `within` belongs to
            another network.
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
        # Removed branches do not renumber layers.
        whole = [block.name for block in blocks.named(gone) if block.branch is None]
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
                warnings.warn(f"the noise at the cut cannot be measured: {err}", stacklevel=2)
        small = remove_blocks(small, _renamed(small, blocks.named(chosen.order), whole))
        gone = chosen.removed
        found.append((scores, chosen))
    if within is not None and gone == within.removed:
        raise LayerticketError(
            f"the given ticket removes {len(gone)} blocks, which meets the budget already. Give a "
            "larger budget: it counts from the dense network."
        )
    with preserved_random_state(0):
        failure = runs(in_eval_mode(view_of(small)), head(inputs_of(batch), 1))
    if failure:
        raise LayerticketError(
            f"the model's own code fails without the blocks {', '.join(gone)} ({failure}), though "
            "it runs without each one alone. Protect one of them, or remove fewer blocks."
        )
    ticket = _ticket(model, blocks, small, found, within)
    return replace(ticket, model=name or ticket.model, seed=seed, cuts=tuple(cuts))


def halves_of(batch: Batch) -> tuple[Batch, Batch]:
    """Split the examples of a batch into two halves, balanced over classes if there are labels.

    Raises:
        LayerticketError: If there are fewer than two examples, or a class has only one.
    """
    examples = size_of(batch)
    if examples < 2:
        raise LayerticketError(
            f"the noise of scores needs two halves of the batch, but it has {examples} example. "
            "Give more examples, or leave noise out."
        )
    targets = classes_of(batch)
    if targets is None:
        order = torch.arange(examples)
    else:
        order = targets.argsort(stable=True)
        classes, counts = torch.unique(targets, return_counts=True)
        if counts.min() < 2:
            raise LayerticketError(
                "the noise of scores needs two examples of every class in the batch; class "
                f"{classes[counts.argmin()].item()} has one. Give more examples, or leave noise "
                "out."
            )

    def every_other(first: int) -> Batch:
        found: Batch = map_tensors(batch, lambda t: t[order[first::2].to(t.device)])
        return found

    return every_other(0), every_other(1)


def cut_of(chosen: Selection, scores: BlockScores, halves: Sequence[BlockScores]) -> Cut:
    """Compare the gap between the last removed and the first kept block with its noise.

    The scores s1, s2 of all blocks on two halves of the batch are each divided by the mean of their
    absolute values (a common factor does not change a ranking). Their relative noise is
    ``r = sqrt(mean_b ((s1_b - s2_b) / (|s1_b| + |s2_b|))^2)``, and the noise of the gap is
    ``r sqrt(s_last^2 + s_first^2)``, one standard error. A warning is given for a smaller gap.

    Args:
        chosen: The selection, with its last block and the next one.
        scores: Scores on the whole batch.
        halves: Scores on its two halves.
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
            f"the scores of {last} (removed) and {first} (kept) differ by {gap:.3g}, less than the "
            f"noise of {noise:.3g} between two halves of the batch of {scores.examples}. Another "
            "batch may give another choice; score on more examples.",
            stacklevel=3,
        )
    return Cut(
        removed=last,
        kept=first,
        gap=gap,
        noise=noise,
        seconds=sum(half.seconds for half in halves),
    )


def _renamed(small: nn.Module, blocks: Iterable[Block], gone: Sequence[str]) -> tuple[Block, ...]:
    """Return blocks with the names that they have after `gone` was removed."""
    now = name_after_removal(small, gone)

    def renamed(block: Block) -> Block:
        if block.branch is None:
            return replace(block, name=now(block.name))
        parts = tuple(replace(part, name=now(part.name)) for part in block.branch.replacements)
        branch = replace(block.branch, of=now(block.branch.of), replacements=parts)
        return replace(block, name=now(block.name), branch=branch)

    return tuple(renamed(block) for block in blocks)


def _scores(
    small: nn.Module,
    blocks: Blocks,
    gone: Sequence[str],
    batch: Batch,
    criterion: str,
    **options: Any,  # noqa: ANN401 - see `score`
) -> BlockScores:
    """Score the remaining blocks; return scores under the names of the dense network."""
    current = _renamed(small, blocks, gone)
    scores = score(small, replace(blocks, removable=current), batch, criterion, **options)
    pairs = zip(blocks, current, strict=True)
    return replace(scores, values={old.name: scores.values[new.name] for old, new in pairs})


def _dense_blocks(
    model: nn.Module, batch: Batch, within: Ticket | None, granularity: Granularity
) -> Blocks:
    """Return the removable blocks of the dense network, found now or taken from a ticket."""
    if within is None:
        return find_blocks(model, head(inputs_of(batch), 1), granularity=granularity)
    if within.kind != "blocks":
        raise LayerticketError(
            f"the given ticket removes {within.kind}; more blocks can be removed only from a "
            "ticket of blocks."
        )
    if within.init.keys() != model.state_dict().keys():
        raise LayerticketError(
            f"the given ticket was not applied to this {type(model).__name__}: its parameters have "
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
    """Return the ticket of all rounds, including those of the ticket they started from."""
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
        params={"dense": blocks.params, "ticket": count_params(small)},
        seed=None,
        score_seconds=sum(scores.seconds for scores, _ in found),
        versions={"torch": torch.__version__},
        init=first_weights(small),
    )
