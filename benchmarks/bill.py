"""The total cost of each way to train a network or a ticket, and when a search pays off.

Costs of an epoch and of scoring are given in any one unit: MACs, seconds or kWh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from layerticket.errors import LayerticketError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Cost of one way to train a network, in the unit of its inputs."""

    way: str
    search: float
    """Cost of everything before the last training."""
    training: float
    """Cost of the last training."""

    @property
    def total(self) -> float:
        """Search and last training."""
        return self.search + self.training


def dense_training(epochs: int, dense_epoch: float) -> Bill:
    """Train the dense network: ``n * d``.

    Args:
        epochs: n.
        dense_epoch: d, cost of an epoch of the dense network.

    Returns:
        The bill.

    Example:
        >>> dense_training(200, 3.0).total
        600.0
    """
    _check(epochs=epochs, dense_epoch=dense_epoch)
    return Bill(way="dense", search=0.0, training=epochs * dense_epoch)


def algorithm1(
    epochs: int, dense_epoch: float, ticket_epoch: float, scoring: float, rewind: int = 0
) -> Bill:
    """Train dense, score, cut, rewind to epoch i, train: ``n * d + s + (n - i) * t``.

    Args:
        epochs: n, of the dense training.
        dense_epoch: d, cost of an epoch of the dense network.
        ticket_epoch: t, cost of an epoch of the ticket.
        scoring: s, cost of scoring the blocks.
        rewind: i, epoch that the weights are rewound to.

    Returns:
        The bill.

    Raises:
        LayerticketError: If a cost is negative, or `rewind` lies outside the training.

    Example:
        >>> algorithm1(200, 3.0, 2.0, 1.0, rewind=50).total
        901.0
    """
    _check(epochs=epochs, dense_epoch=dense_epoch, ticket_epoch=ticket_epoch, scoring=scoring)
    _check_rewind(rewind, epochs)
    return Bill(
        way="algorithm 1",
        search=epochs * dense_epoch + scoring,
        training=(epochs - rewind) * ticket_epoch,
    )


def algorithm2(epochs: int, ticket_epoch: float, scoring: float) -> Bill:
    """Score at initialization, cut, train: ``s + n * t``.

    Args:
        epochs: n.
        ticket_epoch: t, cost of an epoch of the ticket.
        scoring: s, cost of scoring the blocks; one gradient of B examples is about
            ``3 * B`` forward passes.

    Returns:
        The bill.

    Example:
        >>> algorithm2(200, 2.0, 1.0).total
        401.0
    """
    _check(epochs=epochs, ticket_epoch=ticket_epoch, scoring=scoring)
    return Bill(way="algorithm 2", search=scoring, training=epochs * ticket_epoch)


def iterative_magnitude_pruning(
    epochs: int,
    dense_epoch: float,
    rounds: int,
    rewind: int = 0,
    round_epochs: Sequence[float] | None = None,
) -> Bill:
    """Train, prune weights, rewind, train again, r times: ``n * d + sum_k (n - i) * c_k``.

    The sum runs over rounds k = 1..r. Ordinary hardware multiplies by zero too, so a network with
    masked weights costs as much as the dense one: ``c_k = d`` by default.

    Args:
        epochs: n, of the first training.
        dense_epoch: d, cost of an epoch of the dense network.
        rounds: r, number of prunings, at least 1; with 20 % each, ``0.8 ** r`` of the weights stay.
        rewind: i, epoch that the weights are rewound to.
        round_epochs: c_1..c_r, cost of an epoch after each pruning, for hardware that skips zeros.

    Returns:
        The bill; all before the last round is search.

    Raises:
        LayerticketError: If a number is out of range or there are not r round costs.

    Example:
        >>> iterative_magnitude_pruning(200, 3.0, rounds=5).total
        3600.0
    """
    _check(epochs=epochs, dense_epoch=dense_epoch)
    _check_rewind(rewind, epochs)
    costs = [dense_epoch] * rounds if round_epochs is None else list(round_epochs)
    if rounds < 1 or len(costs) != rounds:
        raise LayerticketError(
            f"rounds is {rounds}, with {len(costs)} round costs. Give at least one round, and one "
            "cost for each."
        )
    *before, last = [(epochs - rewind) * cost for cost in costs]
    return Bill(
        way="iterative magnitude pruning",
        search=epochs * dense_epoch + sum(before),
        training=last,
    )


def break_even_trainings(way: Bill, dense: Bill) -> float | None:
    """Return the trainings of a ticket that pay off its search: ``search / (dense - training)``.

    At most 1: the first training pays off the search. More than 1: the same ticket must be trained
    that often (with other seeds, data or recipes).

    Args:
        way: The ticket's bill.
        dense: The dense network's bill.

    Returns:
        Number of trainings; None if a training of the ticket saves nothing.

    Example:
        >>> break_even_trainings(algorithm2(200, 2.0, 1.0), dense_training(200, 3.0))
        0.005
    """
    saved = dense.total - way.training
    return way.search / saved if saved > 0 else None


def break_even_inferences(
    way: Bill, dense: Bill, *, dense_inference: float, ticket_inference: float
) -> float | None:
    """Return the inferences that pay off a more expensive way to a cheaper network.

    ``(total of the way - total of the dense training) / (inference of dense - of ticket)``; 0 if
    the way is not more expensive.

    Args:
        way: The ticket's bill.
        dense: The dense network's bill.
        dense_inference: Cost of one inference of the dense network, in the same unit.
        ticket_inference: Cost of one inference of the ticket.

    Returns:
        Number of inferences; None if the ticket never pays off.
    """
    extra, saved = way.total - dense.total, dense_inference - ticket_inference
    if extra <= 0:
        return 0.0
    return extra / saved if saved > 0 else None


def _check(**costs: float) -> None:
    """Raise for negative costs, and for trainings without an epoch."""
    for name, value in costs.items():
        least = 1 if name == "epochs" else 0
        if value < least:
            raise LayerticketError(f"{name} is {value}; it must be at least {least}.")


def _check_rewind(rewind: int, epochs: int) -> None:
    """Raise unless an epoch is in the training and leaves something to train."""
    if not 0 <= rewind < epochs:
        raise LayerticketError(f"rewind is {rewind}; it must be from 0 to {epochs - 1}.")
