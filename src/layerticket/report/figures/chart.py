"""A chart as a value: what is drawn, not how. Enters: figures. Leaves: nothing but themselves.

Colours are names (`ink`, `blue`, ...) that whoever draws looks up, so that one chart serves light
and dark, screen and paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from layerticket.report.grid import Grid

__all__ = ["Axis", "Chart", "Guide", "HeatMap", "Series"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis."""

    title: str
    """What it measures, with the unit."""
    ticks: Sequence[tuple[float, str]] = ()
    """Places and texts instead of figures, for an axis of names."""
    downwards: bool = False
    """Whether small values are on top, as in a list."""
    span: tuple[float, float] | None = None
    """Where it begins and ends; None: where the data do, intervals included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points or a line that belong together."""

    label: str
    """Name in the legend."""
    x: Sequence[float]
    """Places to the right."""
    y: Sequence[float]
    """Places upwards."""
    colour: str
    """Name of a colour."""
    marker: str = "circle"
    """Name of a shape."""
    line: Literal["", "solid", "dash", "dot"] = ""
    """How points are joined; empty for points alone."""
    x_ends: Sequence[tuple[float, float] | None] = ()
    """Interval of each x, where there is one."""
    y_ends: Sequence[tuple[float, float] | None] = ()
    """Interval of each y, where there is one; a band around a line."""
    notes: Sequence[str] = ()
    """What a pointer at each point is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guide:
    """A straight line to read the points against."""

    at: float
    """Where it crosses its axis."""
    axis: Literal["x", "y"]
    """The axis it crosses."""
    label: str
    """What it stands for."""
    strong: bool = False
    """Whether it decides something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Points and lines over two axes."""

    name: str
    """Name of its files and of its place on the page."""
    title: str
    """What it shows."""
    caption: str
    """How to read it."""
    x: Axis
    """Axis to the right."""
    y: Axis
    """Axis upwards."""
    series: Sequence[Series]
    """What is drawn, in the order of the legend."""
    table: Grid
    """The same figures as a table."""
    guides: Sequence[Guide] = field(default_factory=tuple)
    """Lines to read against."""
    height: int = 420
    """Of the drawing, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Cells in rows and columns, shaded by value."""

    name: str
    """Name of its files and of its place on the page."""
    title: str
    """What it shows."""
    caption: str
    """How to read it."""
    columns: Sequence[str]
    """Names along the network."""
    rows: Sequence[str]
    """Names from top to bottom; all different."""
    values: Sequence[Sequence[float | None]]
    """Shade of each cell, in [0, 1]; None where there is nothing to shade."""
    marks: Sequence[Sequence[str]]
    """Text inside each cell."""
    notes: Sequence[Sequence[str]]
    """What a pointer at each cell is told."""
    scale: str
    """What the shade means, for the colour bar."""
    table: Grid
    """The same figures as a table."""
    breaks: Sequence[float] = ()
    """Places between columns where a new stage begins."""
    splits: Sequence[float] = ()
    """Places between rows where a new method begins."""
    floor: float = 0.0
    """Value of the lightest shade."""
    figures: bool = False
    """Whether the marks are figures, set small and plain."""
