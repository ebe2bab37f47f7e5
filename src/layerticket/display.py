"""Print records as a few lines of text, or as a table in a notebook."""

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

Table = tuple[Sequence[str], Sequence[Sequence[object]]]
"""Header and rows; a header without names is left out."""
WIDTH = 100  # of a line on a screen, in characters
ROWS = 60  # of a table in a notebook

_NUMBER = 'style="text-align:right"'
_LEFT = 'style="text-align:left"'


class Shown(ABC):
    """A record that prints a few lines, and a table in a notebook."""

    __slots__ = ()

    @abstractmethod
    def _headline(self) -> str:
        """Return a title of one line."""

    def _facts(self) -> Mapping[str, object]:
        """Return the values to print below the title."""
        return {}

    def _table(self) -> Table:
        """Return header and rows for a notebook; by default the facts."""
        return (), list(self._facts().items())

    def __repr__(self) -> str:
        facts = [f"  {name}: {text}" for name, text in self._facts().items()]
        return "\n".join(shortened(line) for line in [self._headline(), *facts])

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self._headline())}</b>{table_html(*self._table())}"


def shortened(text: object, width: int = WIDTH) -> str:
    """Shorten a text to one line of a given width.

    Example:
        >>> shortened("layer1.0, layer1.1, layer1.2", 20)
        'layer1.0, layer1 ...'
    """
    line = str(text).replace("\n", " ")
    return line if len(line) <= width else f"{line[: width - 4].rstrip(' ,')} ..."


def few(names: Sequence[object], most: int = 8) -> str:
    """List the first names, and how many more there are.

    Example:
        >>> few(["a", "b", "c"], 2)
        'a, b and 1 more'
        >>> few([])
        'none'
    """
    listed = ", ".join(str(name) for name in names[:most])
    return f"{listed} and {len(names) - most} more" if len(names) > most else listed or "none"


def saved(dense: float, small: float) -> str:
    """Write by how much one count is smaller than another.

    Example:
        >>> saved(200, 150), saved(0, 0)
        ('25.0 % less', 'as many')
    """
    return "as many" if dense == small else f"{100 * (1 - small / dense):.1f} % less"


def table_html(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as HTML; of a long table, only the first rows."""
    head = "".join(f"<th {_LEFT}>{html.escape(str(name))}</th>" for name in header)
    lines = [f"<tr>{head}</tr>"] if header else []
    for row in rows[:ROWS]:
        cells = "".join(
            f"<td {_NUMBER if isinstance(cell, (int, float)) else _LEFT}>{_cell(cell)}</td>"
            for cell in row
        )
        lines.append(f"<tr>{cells}</tr>")
    if len(rows) > ROWS:
        span = max(1, len(header))
        lines.append(f'<tr><td colspan="{span}">and {len(rows) - ROWS} more</td></tr>')
    return f"<table>{''.join(lines)}</table>" if lines else ""


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def _cell(value: object) -> str:
    return str(value) if isinstance(value, Markup) else html.escape(str(value))


def strip(
    mean: float, low: float | None, high: float | None, worst: float, within: tuple[float, float]
) -> Markup:
    """Draw an interval with marks for no difference and the margin, as SVG.

    Args:
        mean: Mean difference.
        low: Lower end of its interval; None without an interval.
        high: Upper end.
        worst: The margin, as a difference.
        within: Smallest and largest difference shown; ends beyond are clipped.
    """
    least, most = within
    width = most - least or 1.0

    def at(value: float) -> float:
        return round(4 + 192 * (min(max(value, least), most) - least) / width, 1)

    parts = [
        f'<line x1="{at(worst)}" x2="{at(worst)}" y1="1" y2="19" stroke="#b3261e" '
        'stroke-dasharray="3 2"/>',
        f'<line x1="{at(0.0)}" x2="{at(0.0)}" y1="1" y2="19" stroke="#7a828c"/>',
    ]
    if low is not None and high is not None:
        parts.append(
            f'<line x1="{at(low)}" x2="{at(high)}" y1="10" y2="10" stroke="#0072b2" '
            'stroke-width="3"/>'
        )
    parts.append(f'<circle cx="{at(mean)}" cy="10" r="4" fill="#0072b2"/>')
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="20" role="img" '
        f'aria-label="interval">{"".join(parts)}</svg>'
    )
