"""Find a rival of a ticket by name, at initialization, and save it.

What enters is what a person types or a study file holds. What leaves is a folder, and JSON values
as `layerticket find --json` prints them.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from layerticket.data import Dataset
from layerticket.evaluation import Metering
from layerticket.lottery import draw_batch
from layerticket.rivals import (
    FilterTicket,
    WeightTicket,
    control_match,
    control_ticket,
    find_filter_ticket,
    find_weight_ticket,
)
from layerticket.study.search.beside import dense_beside, seed_beside
from layerticket.study.search.search import priced
from layerticket.ticket import Ticket

__all__ = ["find_control", "find_filters", "find_weights", "save_priced", "told_rival"]

Found = TypeVar("Found", Ticket, FilterTicket, WeightTicket)


def find_control(
    model: str,
    dataset: Dataset,
    *,
    control: Literal["random", "first", "last", "even"],
    reference: Path,
    out: Path,
    seed: int | None = None,
    draw: int = 0,
    metering: Metering | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Remove blocks without a criterion, at the cost of a ticket, and save the result as a ticket.

    Args:
        model: See `layerticket.models.build_model`.
        dataset: Gives classes and channels.
        control: Which blocks go, see `layerticket.rivals.control_ticket`.
        reference: Folder of the ticket whose MACs are matched.
        out: Folder of the ticket.
        seed: Decides theta_0; by default that of the reference.
        draw: Number of the random draw.
        metering: What the user states about energy; not metered by default.
        device: Device whose energy is metered.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `control_ticket` does; or if the reference was found at another
            theta_0.
    """
    wanted = Ticket.load(reference)
    seed = seed_beside(wanted, seed)
    dense = dense_beside(wanted, model, dataset, seed)

    def find() -> Ticket:
        return control_ticket(dense, wanted, control, draw=draw, name=model, seed=seed)

    ticket, bill = save_priced(find, out, metering, device)
    return _told_control(ticket, wanted, out) | bill


def find_filters(
    model: str,
    dataset: Dataset,
    *,
    criterion: str,
    match: Literal["filters", "macs", "params"] = "filters",
    reference: Path,
    out: Path,
    seed: int | None = None,
    images: int | None = None,
    balanced: bool = True,
    metering: Metering | None = None,
    device: str = "auto",
    **options: Any,  # noqa: ANN401 - the criterion's own
) -> dict[str, Any]:
    """Remove filters of a network at initialization until it is as small as a ticket; save it.

    Args:
        model: As in `find_control`.
        dataset: Images to score on come from its training split.
        criterion: snip, grasp, l1 or random; the last draws by `seed` unless `draw` is given.
        match: What is made equal.
        reference: Folder of the ticket of layers that is matched.
        out: Folder of the rival.
        seed: Decides theta_0 and the scoring batch; by default that of the reference.
        images: Size of the scoring batch; None: ten of every class.
        balanced: Whether every class appears equally often.
        metering: As in `find_control`.
        device: As in `find_control`.
        **options: Those of `layerticket.rivals.find_filter_ticket`.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `find_filter_ticket` does, or as `find_control`.
    """
    wanted = Ticket.load(reference)
    seed = seed_beside(wanted, seed)
    dense = dense_beside(wanted, model, dataset, seed)
    if criterion == "random":
        options = {"draw": seed} | options
    find = functools.partial(
        find_filter_ticket,
        dense,
        draw_batch(dataset, images, seed=seed, balanced=balanced),
        criterion=criterion,
        match=match,
        reference=wanted,
        name=model,
        seed=seed,
        **options,
    )
    rival, bill = save_priced(find, out, metering, device)
    return told_rival(rival, out) | bill


def find_weights(
    model: str,
    dataset: Dataset,
    *,
    criterion: str,
    reference: Path,
    out: Path,
    seed: int | None = None,
    images: int | None = None,
    balanced: bool = True,
    metering: Metering | None = None,
    device: str = "auto",
    **options: Any,  # noqa: ANN401 - the criterion's own
) -> dict[str, Any]:
    """Mask single weights at initialization until as many parameters are left as in a ticket.

    Args:
        model: As in `find_control`.
        dataset: As in `find_filters`.
        criterion: snip, grasp, synflow or magnitude.
        reference: Folder of the ticket of layers whose number of parameters is met.
        out: As in `find_filters`.
        seed: As in `find_filters`.
        images: As in `find_filters`.
        balanced: As in `find_filters`.
        metering: As in `find_control`.
        device: As in `find_control`.
        **options: Those of `layerticket.rivals.find_weight_ticket`.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `find_weight_ticket` does, or as `find_control`.
    """
    wanted = Ticket.load(reference)
    seed = seed_beside(wanted, seed)
    find = functools.partial(
        find_weight_ticket,
        dense_beside(wanted, model, dataset, seed),
        draw_batch(dataset, images, seed=seed, balanced=balanced),
        criterion=criterion,
        reference=wanted,
        name=model,
        seed=seed,
        **options,
    )
    rival, bill = save_priced(find, out, metering, device)
    return told_rival(rival, out) | bill


def save_priced(
    find: Callable[[], Found], out: Path, metering: Metering | None, device: str
) -> tuple[Found, dict[str, Any]]:
    """Find something, save it with its bill beside it, and tell the bill."""
    found, bill, told = priced(find, metering, device)
    found.save(out)
    bill.save(out)
    return found, told


def told_rival(rival: FilterTicket | WeightTicket, out: Path) -> dict[str, Any]:
    """Return what `layerticket find --json` prints about filters or weights."""
    return {
        "ticket": str(out),
        "kind": rival.kind,
        "criterion": rival.criterion,
        "removed": {name: list(gone) for name, gone in rival.removed.items()}
        if isinstance(rival, FilterTicket)
        else dict(rival.removed),
        "kept": _kept(rival),
        "scores": dict(rival.scores) if isinstance(rival, FilterTicket) else None,
        "macs": dict(rival.macs),
        "sparse_macs": None if isinstance(rival, FilterTicket) else rival.sparse_macs,
        "params": dict(rival.params),
        "match": dict(rival.match),
        "options": dict(rival.options),
        "score_seconds": rival.score_seconds,
    }


def _told_control(ticket: Ticket, reference: Ticket, out: Path) -> dict[str, Any]:
    return {
        "ticket": str(out),
        "kind": "control",
        "criterion": ticket.criterion,
        "removed": list(ticket.removed),
        "kept": list(ticket.kept),
        "scores": None,
        "macs": dict(ticket.macs),
        "sparse_macs": None,
        "params": dict(ticket.params),
        "match": control_match(ticket, reference),
        "options": dict(ticket.options),
        "score_seconds": ticket.score_seconds,
    }


def _kept(rival: FilterTicket | WeightTicket) -> dict[str, int]:
    """How many filters, or weights, each layer with some gone has left."""
    if isinstance(rival, FilterTicket):
        return {name: len(rival.init[f"{name}.weight"]) for name in rival.removed}
    return {name: int(mask.sum()) for name, mask in rival.masks.items()}
