"""The total cost of each way to a trained ticket, and when it pays off.

Plain arithmetic on the costs of an epoch and of a scoring, in any one unit: MACs, seconds or kWh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from layerticket.errors import LayerticketError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What one way to a trained network costs, in the unit that was put in."""

    way: str
    search: float
    """All that is paid before the last training starts."""
    training: float
    """The last training."""

    @property
    def total(self) -> float:
        """Search and last training."""
        return self.search + self.training


def dense_training(epochs: int, dense_epoch: float) -> Bill:
    """Train the dense network: ``n * d``.

    Args:
        epochs: n.
        dense_epoch: d, what an epoch of the dense network costs.

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
        dense_epoch: d, what an epoch of the dense network costs.
        ticket_epoch: t, what an epoch of the ticket costs.
        scoring: s, what scoring the blocks costs.
        rewind: i, the epoch the weights are set back to.

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
        ticket_epoch: t, what an epoch of the ticket costs.
        scoring: s, what scoring the blocks costs; one gradient of B examples is about
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

    The sum runs over rounds k = 1..r. A network with single weights at zero costs as much as the
    dense one on hardware that multiplies by zero all the same, so ``c_k = d`` unless told
    otherwise.

    Args:
        epochs: n, of the first training.
        dense_epoch: d, what an epoch of the dense network costs.
        rounds: r, times pruned and trained again, from 1 up; 20 % a round leaves ``0.8 ** r``.
        rewind: i, the epoch the weights are set back to.
        round_epochs: c_1..c_r, what an epoch costs after each pruning, for hardware that gains
            from single zeros.

    Returns:
        The bill; the last round is the last training, all before it is search.

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
            f"rounds is {rounds} with {len(costs)} round costs; give 1 or more, and one cost each."
        )
    *before, last = [(epochs - rewind) * cost for cost in costs]
    return Bill(
        way="iterative magnitude pruning",
        search=epochs * dense_epoch + sum(before),
        training=last,
    )


def break_even_trainings(way: Bill, dense: Bill) -> float | None:
    """Trainings of a ticket after which its search is paid: ``search / (dense - training)``.

    At or below 1 the first training already pays for the search. More than 1 means that the same
    ticket must be trained that often (other seeds, data or recipes).

    Args:
        way: The ticket's bill.
        dense: The dense network's bill.

    Returns:
        Number of trainings; None when a training of the ticket saves nothing.

    Example:
        >>> break_even_trainings(algorithm2(200, 2.0, 1.0), dense_training(200, 3.0))
        0.005
    """
    saved = dense.total - way.training
    return way.search / saved if saved > 0 else None


def break_even_inferences(
    way: Bill, dense: Bill, *, dense_inference: float, ticket_inference: float
) -> float | None:
    """Inferences after which a dearer way to a cheaper network is paid.

    ``(total of the way - total of the dense training) / (inference of dense - of ticket)``; 0 when
    the way is not dearer to begin with.

    Args:
        way: The ticket's bill.
        dense: The dense network's bill.
        dense_inference: What one inference of the dense network costs, in the same unit.
        ticket_inference: What one of the ticket costs.

    Returns:
        Number of inferences; None when the ticket never makes up for it.
    """
    extra, saved = way.total - dense.total, dense_inference - ticket_inference
    if extra <= 0:
        return 0.0
    return extra / saved if saved > 0 else None


def _check(**costs: float) -> None:
    """Refuse negative costs and trainings of no epoch."""
    for name, value in costs.items():
        if value < 0 or (name == "epochs" and value < 1):
            raise LayerticketError(f"{name} is {value}; epochs start at 1, costs at 0.")


def _check_rewind(rewind: int, epochs: int) -> None:
    """Refuse to rewind to before the start or after the end."""
    if not 0 <= rewind < epochs:
        raise LayerticketError(f"rewind is {rewind}; it must be from 0 to {epochs - 1}.")
