"""One look for each method: a colour that colour-blind readers tell apart, and a shape.

The colours are those of Okabe and Ito (2008), without the yellow that paper swallows. Enters:
comparisons. Leaves: a colour and a shape for each label, the same in every chart of a report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COLOURS", "DENSE", "Look", "looks"]

# source: M. Okabe, K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/
COLOURS = {
    "ink": "#1b1f24",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "grey": "#7a828c",
}
_TURNS = ("blue", "vermilion", "green", "purple", "orange", "sky", "grey")
_SHAPES = {
    "ticket": "circle",
    "lottery": "diamond",
    "control": "triangle-up",
    "last blocks": "triangle-down",
    "first blocks": "triangle-left",
    "even blocks": "triangle-right",
    "shallower": "square",
    "filters": "hexagon",
    "weights": "star",
    "imp": "pentagon",
    "equal_compute": "x",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one method is drawn."""

    colour: str
    """Name of a colour."""
    marker: str
    """Name of a shape."""


DENSE = Look(colour="ink", marker="cross")


def looks(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Give every method of a study its colour and its shape, by order of appearance.

    Args:
        comparisons: Those of the study.

    Returns:
        A look for each label; "dense" among them.
    """
    kinds = {one["method"]: one["kind"] for one in comparisons}
    found = {
        label: Look(
            colour=_TURNS[index % len(_TURNS)],
            marker=_SHAPES.get(label, _SHAPES.get(kind, "circle")),
        )
        for index, (label, kind) in enumerate(kinds.items())
    }
    return {"dense": DENSE} | found
