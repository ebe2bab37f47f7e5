"""Iterative magnitude pruning with rewinding: one round. Refuses to train."""

import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.errors import LayerticketError
from layerticket.rivals.weights.finding import weights_to_keep, write_down
from layerticket.rivals.weights.masks import masked_optimizer, plain_state
from layerticket.rivals.weights.ranking import keep_highest, kept_shares, prunable_weights
from layerticket.rivals.weights.record import WeightTicket
from layerticket.ticket import Origin, Ticket
from layerticket.training import Kept, Recipe

__all__ = ["kept_shares", "next_weight_ticket"]


def next_weight_ticket(
    model: nn.Module,
    example: Any,  # noqa: ANN401 - whatever the model takes
    *,
    trained: Kept,
    rewind_to: Kept,
    within: WeightTicket | None,
    share: float,
    reference: Ticket,
    run: str,
    recipe: Recipe,
    name: str = "",
    seed: int | None = None,
) -> WeightTicket:
    """Mask the weights that ended smallest, and set those that are left back to theta_i.

    Args:
        model: Dense network of the architecture that was trained; not modified.
        example: Inputs to count MACs on.
        trained: Weights at the end of the training, of the dense or of a masked network.
        rewind_to: Theta_i of the dense training, with its optimizer.
        within: Ticket of the round before; None: the dense network was trained.
        share: Share of the way: 1 leaves as many parameters as the reference has, less leaves more;
            see `kept_shares`, whose shares are of all weights.
        reference: Ticket of layers whose number of parameters is aimed at.
        run: Name of the training that was scored; recorded.
        recipe: Recipe of the training; recorded.
        name: What the network is built by; recorded.
        seed: Seed theta_0 was drawn with; recorded.

    Returns:
        The rival, at theta_i.

    Raises:
        LayerticketError: If the weights do not fit, or nothing would be left to train.

    References:
        Frankle & Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv:1803.03635; rewinding:
        Frankle et al., ICML 2020, arXiv:1912.05671. Weights are ranked over the whole network.
    """
    if rewind_to.epoch >= recipe.epochs:
        raise LayerticketError(
            f"rewinding to epoch {rewind_to.epoch} of {recipe.epochs} leaves nothing to train."
        )
    started = time.perf_counter()
    state, names = plain_state(trained.weights), list(prunable_weights(model))
    if state.keys() != model.state_dict().keys():
        raise LayerticketError(
            f"the weights of run {run!r} do not fit this {type(model).__name__}."
        )
    saliency = {n: state[n].abs().double() for n in names}
    before = {n: torch.ones_like(state[n], dtype=torch.bool) for n in names}
    masks = keep_highest(
        saliency, within.masks if within else before, count_at(model, share, reference)
    )
    init = {n: _times(t, masks.get(n)) for n, t in rewind_to.weights.items()}
    origin = Origin(
        run=run, scored_epoch=trained.epoch, rewind_epoch=rewind_to.epoch, recipe=asdict(recipe)
    )
    return write_down(
        model,
        example,
        masks,
        reference,
        model=name or type(model).__name__,
        criterion="imp",
        options={"share": share, "round": 1 if within is None else within.options["round"] + 1},
        batch="",
        examples=0,
        seed=seed,
        score_seconds=time.perf_counter() - started,
        init=init,
        origin=origin,
        optimizer=masked_optimizer(rewind_to.optimizer, masks),
    )


def count_at(model: nn.Module, share: float, reference: Ticket) -> int:
    """Number of weights that stay when `share` of all do, but never fewer than in the end."""
    total = sum(weight.numel() for weight in prunable_weights(model).values())
    return max(weights_to_keep(model, reference), round(share * total))


def _times(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor * mask


def shares_of(model: nn.Module, reference: Ticket, rounds: int | None) -> tuple[float, ...]:
    """Shares of all weights that are left after each round, the last as in the reference."""
    total = sum(weight.numel() for weight in prunable_weights(model).values())
    return kept_shares(weights_to_keep(model, reference) / total, rounds)
