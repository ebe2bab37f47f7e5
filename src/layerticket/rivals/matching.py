"""How close a rival comes to the ticket it is matched to."""

from collections.abc import Mapping
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.ticket import Ticket

__all__ = ["match_record", "require_same_network"]


def match_record(
    by: str, reference: Ticket, figures: Mapping[Any, Mapping[str, int]]
) -> dict[str, Any]:
    """Tell how close a rival came, in every figure and in the one that was matched.

    Args:
        by: Figure that was matched, a key of `figures`.
        reference: The ticket of layers.
        figures: For each figure, ``dense``, ``reference`` and ``rival``.

    Returns:
        JSON values: what was matched, the digest of the ticket, the figures, and for the matched
        one the difference (rival - reference) and its share of what the reference leaves.
    """
    rival, wanted = figures[by]["rival"], figures[by]["reference"]
    return {
        "by": by,
        "reference": reference.digest,
        "difference": rival - wanted,
        "relative_difference": (rival - wanted) / wanted,
        **{name: dict(values) for name, values in figures.items()},
    }


def require_same_network(architecture: str, reference: Ticket, given: str) -> None:
    """Refuse a reference that was found in another network.

    Raises:
        LayerticketError: If it was.
    """
    if architecture != reference.architecture:
        raise LayerticketError(
            f"the reference is a ticket of {reference.model!r} ({reference.params['dense']:,} "
            f"parameters), and {given!r} is another network. Give a ticket of the same one, "
            "classes and channels included."
        )
