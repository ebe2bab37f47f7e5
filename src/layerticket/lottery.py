"""The paper's Algorithm 1 (train, score, cut, rewind, go on) and Algorithm 2 (at initialization).

Enters: an untrained network, images, a recipe. Leaves: a ticket and its trained network. Refuses
to know names of networks, runs and verdicts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerticket.batch import Batch
from layerticket.data.batches import scoring_batch
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.modules import copy_of
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Origin, Ticket
from layerticket.training.checkpoint import Kept, Start, epoch_at, load_kept
from layerticket.training.fit import FitResult, fit
from layerticket.training.recipe import Recipe


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draw:
    """What the lottery gave: a ticket, its network after training, and what training took."""

    ticket: Ticket
    network: nn.Module
    training: FitResult


def draw_after_training(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    criterion: str,
    budget: Budget,
    to: str | int = 0,
    rounds: int = 1,
    seed: int,
    folder: Path,
    images: int | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,  # noqa: ANN401 - rules of selection and options of the criterion
) -> Draw:
    """Play Algorithm 1: train for n epochs, score theta_n, cut, rewind to theta_i, go on from i.

    With several rounds, each trains the network of the one before from theta_i to theta_n, and
    removes an equal part of the budget. The same call resumes what was interrupted.

    Args:
        model: Untrained network; not modified.
        dataset: Images to train on; those to score on come from its training split.
        recipe: How to train; n is its epochs.
        criterion: A registered name, see `criterion_names`.
        budget: How much is to go in all.
        to: Epoch i to rewind to, less than n, or a share such as "25%".
        rounds: Rounds of training, scoring and removing; each costs a training.
        seed: Decides the scoring images, and order and augmentation of the training images.
        folder: Keeps the trainings, in a folder for each.
        images: Size of the scoring batch; None: ten of every class.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether progress bars are drawn on stderr.
        **options: As in `find_ticket`.

    Returns:
        The ticket and its network, trained for n - i epochs.

    Raises:
        LayerticketError: If i is not below n, the budget cannot be met, or anything does not fit.

    References:
        Jordao et al., "When Layers Play the Lottery, all Tickets Win at Initialization",
        Algorithm 1. arXiv:2301.10835. Learning-rate rewinding: Renda et al., "Comparing Rewinding
        and Fine-tuning in Neural Network Pruning", ICLR 2020. arXiv:2003.02389.
        Differs from the paper: its text leaves open what becomes of the momentum; here it is
        rewound with the weights.
    """
    batch = draw_batch(dataset, images, seed=seed)
    i, n = epoch_at(to, recipe.epochs), recipe.epochs
    network, start, ticket = copy_of(model), Start(), None
    how: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
    for number, part in enumerate(budget.parts(rounds), start=1):
        run = folder / f"round-{number}"
        fit(network, dataset, recipe, start=start, folder=run, keep_epochs={i, n}, **how)
        if ticket is None:
            theta_i = load_kept(run, i)
        ticket = find_in_training(
            model,
            batch,
            run=run.name,
            scored=load_kept(run, n),
            recipe=recipe,
            criterion=criterion,
            budget=part,
            within=ticket,
            seed=seed,
            **options,
        )
        ticket = rewind(ticket, theta_i)
        network, start = ticket.apply(model), start_of(ticket)
    assert ticket is not None
    trained = fit(network, dataset, recipe, start=start, folder=folder / "ticket", **how)
    return Draw(ticket=ticket, network=network, training=trained)


def draw_at_initialization(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    criterion: str,
    budget: Budget,
    rounds: int = 1,
    seed: int,
    folder: Path,
    images: int | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,  # noqa: ANN401 - rules of selection and options of the criterion
) -> Draw:
    """Play Algorithm 2: score theta_0, cut, train what is left for n epochs. No dense training.

    Args:
        model: Untrained network; not modified.
        dataset: Images to train on; those to score on come from its training split.
        recipe: How to train; n is its epochs.
        criterion: A registered name, see `criterion_names`.
        budget: How much is to go in all.
        rounds: Rounds of scoring and removing; nothing is trained in between.
        seed: Decides the scoring images, and order and augmentation of the training images.
        folder: Keeps the training.
        images: Size of the scoring batch; None: ten of every class.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether a progress bar is drawn on stderr.
        **options: As in `find_ticket`.

    Returns:
        The ticket and its network, trained for n epochs.

    Raises:
        LayerticketError: If the budget cannot be met, or anything does not fit.

    References:
        Jordao et al., Algorithm 2. arXiv:2301.10835.
    """
    batch = draw_batch(dataset, images, seed=seed)
    ticket = find_ticket(
        model, batch, criterion=criterion, budget=budget, rounds=rounds, seed=seed, **options
    )
    network = ticket.apply(model)
    how: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
    trained = fit(network, dataset, recipe, folder=folder / "ticket", **how)
    return Draw(ticket=ticket, network=network, training=trained)
