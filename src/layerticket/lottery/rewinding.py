"""A ticket in the middle of a training: score theta_n or earlier, set what is kept back to theta_i.

Enters: states kept by a training. Leaves: a ticket, and where its own training begins. Refuses to
train.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from layerticket.batch import Batch
from layerticket.data import Dataset, scoring_batch
from layerticket.errors import LayerticketError
from layerticket.ticket import Origin, Ticket, find_ticket
from layerticket.training import Kept, Recipe, Start
from layerticket.view import copy_of

__all__ = ["draw_batch", "find_in_training", "rewind", "start_of"]


def draw_batch(
    dataset: Dataset, images: int | None, *, seed: int, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw the images to score on; None: ten of every class, as GraSP's authors take."""
    count = 10 * dataset.classes if images is None else images
    return scoring_batch(dataset, dataset.train, count, seed=seed, balanced=balanced)


def find_in_training(
    model: nn.Module,
    batch: Batch,
    *,
    run: str,
    scored: Kept,
    recipe: Recipe,
    within: Ticket | None = None,
    **options: Any,  # noqa: ANN401 - those of `find_ticket`
) -> Ticket:
    """Find a ticket in a network in the middle or at the end of its training.

    Args:
        model: A dense network of the architecture that was trained; not modified.
        batch: What to score on, on the model's device.
        run: Name of the training; recorded.
        scored: The weights to score, theta_n, or an earlier theta for an early ticket.
        recipe: Recipe of the training; recorded.
        within: Ticket that the trained network had been cut down to.
        **options: As in `find_ticket`.

    Returns:
        The ticket; it still holds the scored weights, so `rewind` it.

    Raises:
        LayerticketError: If the weights are another network's, or as in `find_ticket`.
    """
    network = copy_of(model) if within is None else within.apply(model)
    try:
        network.load_state_dict(dict(scored.weights))
    except RuntimeError as err:
        raise LayerticketError(
            f"the weights of run {run!r} do not fit this {type(model).__name__}. "
            "Build the network that was trained."
        ) from err
    ticket = find_ticket(network, batch, within=within, **options)
    origin = Origin(
        run=run,
        scored_epoch=scored.epoch,
        rewind_epoch=scored.epoch,
        recipe=asdict(recipe),
    )
    return replace(ticket, origin=origin)


def rewind(ticket: Ticket, to: Kept) -> Ticket:
    """Set the kept parameters, buffers and momentum of a ticket back to theta_i, bit for bit.

    Args:
        ticket: What `find_in_training` found; not modified.
        to: Theta_i of the same training.

    Returns:
        The same ticket with theta_i as its first weights.

    Raises:
        LayerticketError: If the ticket was not found in a training, theta_i lacks a tensor that
            the ticket keeps, or nothing would be left to train.
    """
    origin = ticket.origin
    if origin is None:
        raise LayerticketError(
            "this ticket was found at initialization, so there is nothing to rewind. Find it in a "
            "training: find_in_training, or layerticket find --run."
        )
    if to.epoch >= origin.recipe["epochs"]:
        raise LayerticketError(
            f"rewinding to epoch {to.epoch} of {origin.recipe['epochs']} leaves nothing to train; "
            "rewind to an earlier epoch."
        )
    lacking = [
        name
        for name, tensor in ticket.init.items()
        if name not in to.weights or to.weights[name].shape != tensor.shape
    ]
    if lacking:
        raise LayerticketError(
            f"theta at epoch {to.epoch} does not fit the ticket: {lacking[0]!r} differs or is "
            "missing. Take it from the training the ticket was found in."
        )
    return replace(
        ticket,
        init={name: to.weights[name] for name in ticket.init},
        optimizer=_of_kept(to.optimizer, set(ticket.init)),
        origin=replace(origin, rewind_epoch=to.epoch),
    )


def _of_kept(optimizer: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return the part of an optimizer's state that belongs to the kept parameters."""
    return {key: value for key, value in optimizer.items() if key.rpartition("/")[0] in names}


def start_of(ticket: Ticket) -> Start:
    """Where the training of a ticket begins: epoch i of its schedule, with its momentum."""
    return Start(epoch=ticket.rewind_epoch, optimizer=ticket.optimizer)
