"""The paper's Algorithm 1 (train, score, remove, rewind, train) and 2 (at initialization)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerticket.batch import Batch
from layerticket.data.batches import scoring_batch
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.modules import copy_of
from layerticket.selection import Budget
from layerticket.settings import to_table
from layerticket.surgery.hugging_face import name_after_removal
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Origin, Ticket
from layerticket.training.checkpoint import ResumePoint, Snapshot, epoch_at, load_snapshot
from layerticket.training.device import Where
from layerticket.training.fit import FitResult, fit
from layerticket.training.recipe import Recipe

Train = Callable[[nn.Module, ResumePoint], Mapping[int, Snapshot]]
"""Trains a network from a start point, and returns its snapshots by epoch."""


def draw_batch(
    dataset: Dataset, images: int | None, *, seed: int, balanced: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw the scoring batch; if `images` is None, ten images per class, as in GraSP."""
    count = 10 * dataset.classes if images is None else images
    return scoring_batch(dataset, dataset.train, count, seed=seed, balanced=balanced)


def find_in_training(
    dense: nn.Module,
    batch: Batch,
    *,
    scored: Snapshot,
    rewind_to: Snapshot,
    run: str,
    recipe: Recipe,
    within: Ticket | None = None,
    **options: Any,  # noqa: ANN401 - those of `find_ticket`
) -> Ticket:
    """Run one round of Algorithm 1: score one snapshot of a training, rewind to another.

    Parameters, buffers, momentum and running average of the kept blocks are reset to theta_i, bit
    for bit.

    Args:
        dense: A dense network with the architecture that was trained; not modified.
        batch: Scoring batch, on the model's device.
        scored: The weights to score, theta_n, or an earlier theta for an early ticket; where it has
            a running average, that is scored.
        rewind_to: Theta_i, of the same training or of the dense one before it.
        run: Name of the training; recorded.
        recipe: Recipe of the training; recorded.
        within: Ticket that was trained; None: the dense network was trained.
        **options: Options of `find_ticket`.

    Returns:
        The ticket; its initial weights are theta_i.

    Raises:
        LayerticketError: If the weights belong to another network, no epoch would be left to
            train, or `find_ticket` fails.
    """
    origin = origin_of(run, recipe, scored=scored, rewind_to=rewind_to)
    network = copy_of(dense) if within is None else within.apply(dense)
    try:
        network.load_state_dict(dict(scored.tested))
    except RuntimeError as err:
        raise LayerticketError(
            f"the weights of run {run!r} do not fit this {type(dense).__name__}. "
            "Build the network that was trained."
        ) from err
    ticket = find_ticket(network, batch, within=within, **options)
    names = _names_in(dense, ticket)
    if within is not None and rewind_to.weights.keys() != dense.state_dict().keys():
        earlier = _names_in(dense, within)  # theta_i has the names of the network of `within`
        names = {earlier[name]: now for name, now in names.items()}
    for name, now in names.items():
        if name not in rewind_to.weights or rewind_to.weights[name].shape != ticket.init[now].shape:
            raise LayerticketError(
                f"theta at epoch {rewind_to.epoch} does not fit the ticket: {name!r} differs or is "
                "missing. Use a snapshot of the training that the ticket was found in."
            )
    state = {tuple(key.rpartition("/")[::2]): value for key, value in rewind_to.optimizer.items()}
    return replace(
        ticket,
        init={now: rewind_to.weights[name] for name, now in names.items()},
        optimizer={f"{names[n]}/{key}": value for (n, key), value in state.items() if n in names},
        average={names[n]: value for n, value in rewind_to.average.items() if n in names},
        origin=origin,
    )


def origin_of(run: str, recipe: Recipe, *, scored: Snapshot, rewind_to: Snapshot) -> Origin:
    """Return the record of the training of a ticket; raise if no training can start there."""
    if rewind_to.epoch >= recipe.epochs:
        raise LayerticketError(
            f"rewinding to epoch {rewind_to.epoch} of {recipe.epochs} leaves nothing to train; "
            "rewind to an earlier epoch."
        )
    if recipe.ema_decay and rewind_to.epoch and not rewind_to.average:
        raise LayerticketError(
            f"the recipe of {run} has an ema_decay, but its snapshot of epoch {rewind_to.epoch} "
            "has no running average to continue. Give Snapshot(average=...), or a recipe without "
            "ema_decay."
        )
    return Origin(
        run=run,
        scored_epoch=scored.epoch,
        rewind_epoch=rewind_to.epoch,
        recipe=to_table(recipe),
    )


def _names_in(dense: nn.Module, ticket: Ticket) -> dict[str, str]:
    """Return the names that kept modules have in the smaller network, by dense name."""
    gone = [block for block in ticket.blocks if block.name in ticket.removed]
    now = name_after_removal(dense, [block.name for block in gone if block.branch is None])
    modules = tuple(f"{module}." for block in gone for module in block.modules)
    return {name: now(name) for name in dense.state_dict() if not name.startswith(modules)}


def find_in_rounds(
    dense: nn.Module,
    batch: Batch,
    train: Train,
    *,
    recipe: Recipe,
    budget: Budget,
    rewind_to: int = 0,
    rounds: int = 1,
    **options: Any,  # noqa: ANN401 - those of `find_ticket`
) -> Ticket:
    """Run Algorithm 1 without the final training: in each round, train and remove blocks.

    Args:
        dense: Untrained network; not modified.
        batch: Scoring batch.
        train: Trains a network and returns its snapshots, including those of `rewind_to` and of
            the last epoch; with `fit`, or with your own trainer.
        recipe: How to train, for n epochs.
        budget: How much to remove in total; each round removes an equal part.
        rewind_to: Epoch i, less than n.
        rounds: Number of rounds; each costs a training.
        **options: Options of `find_ticket`.

    Returns:
        The ticket at theta_i; `start_of` gives the start of its training.

    Raises:
        LayerticketError: If the weights do not fit, or the budget cannot be met.
    """
    network, start = copy_of(dense), ResumePoint()
    ticket: Ticket | None = None
    theta_i: Snapshot | None = None
    for number, part in enumerate(budget.parts(rounds), start=1):
        snapshots = train(network, start)
        theta_i = theta_i or snapshots[rewind_to]
        ticket = find_in_training(
            dense,
            batch,
            scored=snapshots[recipe.epochs],
            rewind_to=theta_i,
            run=f"round-{number}",
            recipe=recipe,
            within=ticket,
            budget=part,
            **options,
        )
        network, start = ticket.apply(dense), start_of(ticket)
    assert ticket is not None  # there is at least one round
    return ticket


def start_of(ticket: Ticket) -> ResumePoint:
    """Return where the training of a ticket starts: epoch i, with momentum and running average.

    Raises:
        LayerticketError: If the training had a running average, but the ticket has none.
    """
    origin = ticket.origin
    if origin and origin.rewind_epoch and not ticket.average and Recipe(**origin.recipe).ema_decay:
        raise LayerticketError(
            f"the recipe of {origin.run} has an ema_decay, but the ticket has no running average "
            f"of epoch {origin.rewind_epoch} to continue. Find the ticket again."
        )
    return ResumePoint(
        epoch=ticket.rewind_epoch, optimizer=ticket.optimizer, average=ticket.average
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draw:
    """Result of the lottery: a ticket, its trained network, and the training's result."""

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
    where: Where = Where(),  # noqa: B008 - frozen
    **options: Any,  # noqa: ANN401 - rules of selection and options of the criterion
) -> Draw:
    """Run Algorithm 1: train n epochs, score theta_n, remove blocks, rewind to theta_i, train.

    With several rounds, each trains the previous network from theta_i to theta_n and removes an
    equal part of the budget. The same call resumes an interrupted run.

    Args:
        model: Untrained network; not modified.
        dataset: Images to train on; the scoring batch comes from its training split.
        recipe: How to train, for n epochs.
        criterion: A registered name, see `criterion_names`.
        budget: How much to remove in total.
        to: Epoch i to rewind to, less than n, or a share such as "25%".
        rounds: Rounds of training, scoring and removing; each costs a training.
        seed: Seed of the scoring batch, and of order and augmentation of the training images.
        folder: Folder for the trainings; each gets its own folder inside.
        images: Size of the scoring batch; None: ten images per class.
        where: Device and progress bars; energy is not metered here.
        **options: Options of `find_ticket`.

    Returns:
        The ticket and its network, trained for n - i epochs.

    Raises:
        LayerticketError: If i is not below n, the budget cannot be met, or an argument is invalid.

    References:
        Jordao et al., "When Layers Play the Lottery, all Tickets Win at Initialization",
        Algorithm 1. arXiv:2301.10835. Learning-rate rewinding: Renda et al., "Comparing Rewinding
        and Fine-tuning in Neural Network Pruning", ICLR 2020. arXiv:2003.02389.
        Differs from the paper: its text does not say what happens to the momentum; here it is
        rewound with the weights, and so is a running average (`ema_decay`).
    """
    i, n = epoch_at(to, recipe.epochs), recipe.epochs
    how: dict[str, Any] = {"seed": seed, "where": where}
    runs: list[Path] = []

    def train(network: nn.Module, start: ResumePoint) -> dict[int, Snapshot]:
        run = folder / f"round-{len(runs) + 1}"
        runs.append(run)
        fit(network, dataset, recipe, start=start, folder=run, snapshot_epochs={i, n}, **how)
        return {epoch: load_snapshot(run, epoch) for epoch in (i, n)}

    ticket = find_in_rounds(
        model,
        draw_batch(dataset, images, seed=seed),
        train,
        recipe=recipe,
        budget=budget,
        rewind_to=i,
        rounds=rounds,
        criterion=criterion,
        seed=seed,
        **options,
    )
    network = ticket.apply(model)
    start = start_of(ticket)
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
    where: Where = Where(),  # noqa: B008 - frozen
    **options: Any,  # noqa: ANN401 - rules of selection and options of the criterion
) -> Draw:
    """Run Algorithm 2: score theta_0, remove blocks, train the rest for n epochs.

    Args:
        model: Untrained network; not modified.
        dataset: Images to train on; the scoring batch comes from its training split.
        recipe: How to train, for n epochs.
        criterion: A registered name, see `criterion_names`.
        budget: How much to remove in total.
        rounds: Rounds of scoring and removing, without training in between.
        seed: Seed of the scoring batch, and of order and augmentation of the training images.
        folder: Folder for the training.
        images: Size of the scoring batch; None: ten images per class.
        where: Device and progress bar; energy is not metered here.
        **options: Options of `find_ticket`.

    Returns:
        The ticket and its network, trained for n epochs.

    Raises:
        LayerticketError: If the budget cannot be met, or an argument is invalid.

    References:
        Jordao et al., Algorithm 2. arXiv:2301.10835.
    """
    batch = draw_batch(dataset, images, seed=seed)
    ticket = find_ticket(
        model, batch, criterion=criterion, budget=budget, rounds=rounds, seed=seed, **options
    )
    network = ticket.apply(model)
    trained = fit(network, dataset, recipe, seed=seed, folder=folder / "ticket", where=where)
    return Draw(ticket=ticket, network=network, training=trained)
