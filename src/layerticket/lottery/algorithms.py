"""The paper's Algorithm 1 (train, score, cut, rewind, go on) and Algorithm 2 (at initialization).

Enters: an untrained network, images, a recipe. Leaves: a ticket and its trained network. Refuses
to know names of networks, runs and verdicts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.data import Dataset
from layerticket.lottery.rewinding import draw_batch, find_in_training, rewind, start_of
from layerticket.selection import Budget
from layerticket.ticket import Ticket, find_ticket
from layerticket.training import FitResult, Recipe, Start, epoch_at, fit, load_kept
from layerticket.view import copy_of

__all__ = ["Draw", "draw_after_training", "draw_at_initialization"]


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
