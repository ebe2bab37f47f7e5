"""A study read from study.json, and its tables of raw values."""

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from layerticket import display
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.verdict import words
from layerticket.verdict.pairs import SCHEMA, Comparison, Control, Row
from layerticket.verdict.statistics import Difference
from layerticket.verdict.worth import BlockWorth, block_worth, rank_agreement


@dataclass(frozen=True, kw_only=True, repr=False)
class Study(display.Shown):
    """The content of study.json, or its part for one network and one budget."""

    title: str
    verdict: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    networks: Mapping[str, Any]
    margin: float
    confidence: float
    data: str | None
    classes: int | None
    test_images: int | None
    environment: Mapping[str, Any]
    """Software and hardware of the first training, threads and workers."""
    environments: Sequence[Mapping[str, Any]]
    """Every environment, with its task, seeds and number of runs."""
    command: str
    study: Mapping[str, Any]
    """The study file, with all settings."""
    methods: Mapping[str, str]
    """Kind of each method by label, dense first; a part keeps those of the whole study."""
    cost: Mapping[str, Any] | None = None
    """Cost of the whole study, each training and search once."""
    columns: tuple[str, ...] = ()
    """Further columns of the table of runs; their values are in the `config` of each row."""

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """Read the study.json of a folder."""
        path = Path(folder) / "study.json"
        if not path.exists():
            raise LayerticketError(
                f"{folder} has no study (study.json is missing). Run one: layerticket study run "
                f"quick --out {folder}"
            )
        return cls.from_record(read_json(path))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Study":
        """Return the study of a study.json; characters that are invalid in a page are replaced."""
        made = ("rows", "methods", "cost", "columns")
        lacking = [
            name
            for name in ("schema", "runs", *(f.name for f in fields(cls) if f.name not in made))
            if name not in record
        ]
        if lacking:
            raise LayerticketError(
                f"the study has no key {lacking[0]!r}. Give a study.json written by `layerticket "
                "study run`."
            )
        if record["schema"] != SCHEMA:
            raise LayerticketError(
                f"the study has schema {record['schema']}, but this version of layerticket reads "
                f"schema {SCHEMA}. Run the study again with this version."
            )
        known = clean(record)
        try:
            rows = tuple(Row.from_record(row) for row in known["runs"])
            comparisons = tuple(Comparison.from_record(one) for one in known["comparisons"])
        except (AttributeError, KeyError, TypeError) as error:
            raise LayerticketError(
                f"the study was written by another version of layerticket ({error}). Run the study "
                "again with this version."
            ) from error
        dense = [row for row in rows if row.kind == "dense"]
        return cls(
            **{f.name: known[f.name] for f in fields(cls) if f.name in known}
            | {
                "rows": rows,
                "comparisons": comparisons,
                "columns": tuple(known.get("columns", ())),
                "verdict": known["verdict"] or words.UNJUDGED,
                "methods": {row.method: row.kind for row in (*dense, *rows)},
            }
        )

    def _headline(self) -> str:
        return f"{self.title}: {self.verdict}"

    def _facts(self) -> dict[str, object]:
        return {
            "networks": display.few(list(dict.fromkeys(row.model for row in self.rows))),
            "methods": display.few(list(self.methods)),
            "runs": f"{len(self.done)} of {len(self.rows)} done",
            "data": self.data or "not named",
        }

    def _table(self) -> display.Table:
        return verdict_table(self)

    @property
    def judged(self) -> list[Comparison]:
        """Comparisons with at least one pair of finished rows."""
        return [one for one in self.comparisons if one.n]

    @property
    def done(self) -> list[Row]:
        """Rows that are finished."""
        return [row for row in self.rows if row.status == "done"]

    @property
    def models(self) -> list["Study"]:
        """The part of each network."""
        return [self._part(model) for model in dict.fromkeys(row.model for row in self.rows)]

    @property
    def budgets(self) -> list["Study"]:
        """The part of each network and budget, with the dense network.

        Networks without one single block (control `each`) are left out: they are not one method.
        """
        whole = replace(self, rows=tuple(row for row in self.rows if not row.is_single_block))
        rows = [row for row in whole.rows if row.kind != "dense"]
        named = {row.model for row in rows if row.budget}  # rows without a budget are in each part
        pairs = dict.fromkeys(
            (row.model, row.budget) for row in rows if row.budget or row.model not in named
        )
        return [whole._part(model, budget) for model, budget in pairs]

    def _part(self, model: str, budget: str | None = None) -> "Study":
        def belongs(one: Row | Comparison) -> bool:
            return one.model == model and (not budget or one.budget in (None, budget))

        return replace(
            self,
            rows=tuple(row for row in self.rows if belongs(row)),
            comparisons=tuple(one for one in self.comparisons if belongs(one)),
        )

    def by_method(self, rows: Iterable[Row]) -> dict[str, list[Row]]:
        """Return the rows of each method, with all draws, in the order of the study."""
        found: dict[str, list[Row]] = {method: [] for method in self.methods}
        for row in rows:
            found[row.method].append(row)
        return {method: of for method, of in found.items() if of}

    def label(self, one: Comparison) -> str:
        """Return the name of a comparison; with network and budget if the study has several."""
        several = [
            str(value)
            for name in ("budget", "model")
            if len({getattr(other, name) for other in self.comparisons}) > 1
            and (value := getattr(one, name))
        ]
        return ", ".join([one.method, *several])


def row_name(row: Row) -> str:
    """Return the method of a row, with the number of its draw."""
    return row.method if row.draw is None else f"{row.method} {row.draw}"


def clean(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    r"""Replace control characters, lone surrogates, and numbers that are not finite.

    The first two are invalid in XML and HTML, the last in JSON; it becomes None (not known).

    Example:
        >>> clean({"error": "a\x00b"})
        {'error': 'a\ufffdb'}
        >>> clean([0.5, float("nan")])
        [0.5, None]
    """
    if isinstance(value, str):
        return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", value)
    if isinstance(value, Mapping):
        return {clean(key): clean(part) for key, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [clean(part) for part in value] if isinstance(value, list | tuple) else value


# Tables.


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Title and format of a column."""

    title: str
    key: str = ""
    """Name of its value in a chart, by default the title; with several parts, their prefix."""
    show: Callable[[Any], str] = str
    """Formats a value that is not None."""
    parts: tuple[str, ...] = ()
    """Names of the values in a cell with several; each gets a column in CSV."""
    absent: str = words.ABSENT
    """Text for None."""
    words: bool = False
    """Whether cells are texts (aligned left), not numbers."""
    context: bool = False
    """Whether it is shown only if it varies between rows; CSV always has it."""
    rare: bool = False
    """Whether it is shown only if a row has a value; CSV always has it."""
    link: bool = False
    """Whether cells are paths in the study's folder, shown as links."""
    tone: Callable[[Any], str] = str
    """For text cells, the outcome or status that decides the colour, if any."""


TONES = ("wins", "loses", "undecided", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a page."""

    text: str
    column: Column
    sort: str = ""
    """The raw number to sort by; empty for texts, which are sorted as shown."""
    tone: str = ""


Text = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and rows of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns and rows of raw values; a cell that was not measured is None."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]

    @property
    def shown(self) -> list[tuple[int, Column]]:
        """The columns to show, each with its position in a row."""
        return [
            (at, column)
            for at, column in enumerate(self.columns)
            if not (column.context and len({str(row[at]) for row in self.rows}) < 2)
            and not (column.rare and all(row[at] is None for row in self.rows))
        ]

    @property
    def text(self) -> Text:
        """All cells as text."""
        shown = self.shown
        return [column.title for _, column in shown], [
            [column.absent if row[at] is None else column.show(row[at]) for at, column in shown]
            for row in self.rows
        ]

    @property
    def cells(self) -> list[list[Cell]]:
        """All cells for a page."""
        shown = self.shown
        return [[_cell(row[at], column) for at, column in shown] for row in self.rows]

    @property
    def points(self) -> list[dict[str, Any]]:
        """One point of a chart per row: its values by key, and the text for the pointer."""
        found, shown = [], self.shown
        for row in self.rows:
            point: dict[str, Any] = {}
            for column, value in zip(self.columns, row, strict=True):
                if column.parts:
                    keys = [f"{column.key}_{p}" if column.key else p for p in column.parts]
                    cells = [None] * len(keys) if value is None else value
                    point |= dict(zip(keys, cells, strict=True))
                else:
                    point[column.key or column.title] = value
            told = [
                f"{column.title}: {column.absent if row[at] is None else column.show(row[at])}"
                for at, column in shown
                if row[at] is not None or column.absent == words.ABSENT
            ]
            found.append(point | {"hover": "\n".join(told[:12])})
        return found

    @property
    def csv(self) -> str:
        """The table as CSV with raw values: fractions, seconds, kWh; None is empty.

        A text that a spreadsheet would read as a formula gets an apostrophe in front.
        """
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(
            f"{column.title} {part}".strip()
            for column in self.columns
            for part in column.parts or ("",)
        )
        for row in self.rows:
            cells: list[Any] = []
            for column, value in zip(self.columns, row, strict=True):
                several = (None,) * len(column.parts) if value is None else value
                cells += several if column.parts else [value]
            writer.writerow(_no_formula(cell) for cell in cells)
        return target.getvalue()


def _cell(value: Any, column: Column) -> Cell:  # noqa: ANN401 - whatever a column shows
    if value is None:
        return Cell(text=column.absent, column=column)
    first = value[0] if column.parts else value
    number = isinstance(first, int | float) and not column.words
    tone = column.tone(value) if column.words else ""
    return Cell(
        text=column.show(value),
        column=column,
        sort=f"{first:.6g}" if number and column.show is not str else "",
        tone=tone if tone in TONES else "",
    )


def _no_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell


def markdown(text: Text) -> str:
    """Return a table as Markdown, with a final line break."""
    header, rows = text
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table_text(text: Text, width: int | None = None) -> str:
    """Return a table for a terminal; `width` in characters, by default that of the terminal."""
    header, rows = text
    drawn = RichTable(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(header):
        drawn.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    target = io.StringIO()
    Console(file=target, width=width).print(drawn)
    return target.getvalue()


# The tables of a study; a table without rows is not shown.

NETWORK = Column(title="network", words=True, context=True)
BUDGET = Column(title="budget", words=True, absent="", context=True)
METHOD = Column(title="method", words=True)
DRAW = Column(title="draw", absent="", rare=True)
ENDS = ("mean", "low", "high")
SPREAD = ("mean", "std")
SPEED = (*ENDS, "data_wait_share")
DEVIATION = Column(title="SD of differences", show=words.size, absent="—")


def _interval(value: Sequence[float | None]) -> str:
    mean, low, high = value
    return words.interval(Difference(mean=mean, low=low, high=high))


def _range(value: Sequence[float]) -> str:
    return words.span(*value)


def _speedup(value: Sequence[float | None]) -> str:
    *ends, waiting = value
    return words.speedup(dict(zip(ENDS, ends, strict=True)), waiting)


def _ends(found: Difference | None) -> tuple[Any, ...] | None:
    return None if found is None or found.mean is None else (found.mean, found.low, found.high)


def _over_seeds(found: Difference) -> tuple[float, float] | None:
    """Return the interval over seeds only, if another one decides."""
    low, high = found.seeds_low, found.seeds_high
    return None if found.images is None or low is None or high is None else (low, high)


def _accuracy(value: Sequence[float | None]) -> str:
    return words.mean_sd(dict(zip(SPREAD, value, strict=True)))


ACCURACY = Column(title="accuracy", key="accuracy", show=_accuracy, parts=SPREAD)
"""Mean and standard deviation over seeds."""


def _mean_std(figure: Mapping[str, float | None]) -> tuple[Any, ...] | None:
    """Return mean and standard deviation over seeds; None without a mean."""
    mean, std = figure.get("mean"), figure.get("std")
    return None if mean is None else (mean, std)


def _over(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Return mean and standard deviation of values, one per seed."""
    if not values:
        return None
    return fmean(values), stdev(values) if len(values) > 1 else None


def _mean(rows: Iterable[Row], key: str) -> float | None:
    """Return the mean of a value over the rows that have it."""
    values = [value for row in rows if (value := getattr(row, key)) is not None]
    return fmean(values) if values else None


def verdict_table(study: Study) -> Text:
    """Return a short table for a terminal: one line for dense and for each method."""
    header = ("", "accuracy", "difference to dense", "MACs", "speed", "verdict")
    rows = [
        (row.model, words.accuracy(_mean(of, "test_accuracy")), "", "", "", "")
        for part in study.models
        for of in [[row for row in part.done if row.kind == "dense"]]
        for row in of[:1]
    ]
    rows += [
        (
            study.label(one),
            words.accuracy(one.accuracy["mean"]),
            words.interval(one.difference),
            words.saving(one.macs_saving),
            words.speedup({"mean": one.speedup.get("mean"), "low": None}, one.data_wait_share),
            one.outcome_adjusted,
        )
        for one in study.judged
    ]
    return header, rows


def _seeds(numbers: str) -> str:
    """Write the numbers of seeds, clearly not a count."""
    return f"seed{'s' if ' ' in numbers else ''} {numbers}"


def differences_table(study: Study) -> Table:
    """List the rows of `comparisons_table` that have a difference."""
    table = comparisons_table(study)
    known = zip(study.comparisons, table.rows, strict=True)
    return replace(table, rows=[r for one, r in known if one.n and one.difference.mean is not None])


def comparisons_table(study: Study) -> Table:
    """List every method against dense: difference, verdict, savings."""
    two_seeds = "needs 2 seeds"
    columns = [
        NETWORK,
        BUDGET,
        METHOD,
        Column(title="seeds"),
        ACCURACY,
        Column(title="difference to dense", show=_interval, parts=ENDS),
        DEVIATION,
        Column(
            title="over seeds alone",
            key="seeds",
            show=_range,
            parts=("low", "high"),
            absent="—",
            rare=True,
        ),
        Column(title="outcome", words=True),
        Column(title="after correction", words=True),
        Column(title="p", show=words.p_value, absent=two_seeds),
        Column(title="p, corrected", show=words.p_value, absent=two_seeds),
        Column(title="minimum detectable", show=words.size, absent=two_seeds),
        Column(title="seeds for 80 % power", absent="—"),
        Column(title="test images at least", show=words.count, absent="—", rare=True),
        Column(title="failed seeds", show=_seeds, absent="none"),
        Column(title="seeds with dense itself", show=_seeds, absent="none", rare=True),
        Column(title="average effect", show=words.difference, absent="—", rare=True),
        Column(title="MACs", show=words.saving),
        Column(title="parameters", show=words.saving),
        Column(title="speed, search and training", key="speed", show=_speedup, parts=SPEED),
        Column(title="peak memory", show=words.saving),
        Column(title="energy", show=words.saving),
        Column(title="carbon", show=words.saving),
        Column(title="above random tickets", show=words.share, absent="—"),
    ]
    rows = [
        (
            one.model,
            one.budget,
            one.method,
            one.n,
            _mean_std(one.accuracy),
            _ends(one.difference),
            one.difference.std,
            _over_seeds(one.difference),
            one.outcome,
            one.outcome_adjusted,
            one.p_value,
            one.p_adjusted,
            one.minimum_detectable,
            one.seeds_needed,
            one.images_needed,
            " ".join(map(str, one.failed_seeds)) or None,
            " ".join(map(str, one.same_seeds)) or None,
            one.average_effect if one.same_seeds else None,
            one.macs_saving,
            one.params_saving,
            None
            if one.speedup.get("mean") is None
            else (*(one.speedup[end] for end in ENDS), one.data_wait_share),
            one.memory_saving,
            one.energy_saving,
            one.co2_saving,
            one.percentile,
        )
        for one in study.comparisons
    ]
    return Table(title="Every method against dense", columns=columns, rows=rows)


def overview_table(study: Study) -> Table:
    """List every method for every network and budget: accuracy, difference and outcome."""
    places = list(dict.fromkeys((one.model, one.budget) for one in study.comparisons))
    several = len({budget for _, budget in places}) > 1
    columns = [
        METHOD,
        *(
            Column(
                title=f"{model}, {budget}" if several and budget else model,
                show=_overview,
                parts=("accuracy", "std", "difference", "outcome"),
                absent="—",
                words=True,
                tone=lambda value: str(value[3]),
            )
            for model, budget in places
        ),
    ]
    if len(places) < 2:
        return Table(title="Every method, every network", columns=columns, rows=())
    dense = {
        model: _over(
            [
                row.test_accuracy
                for row in study.rows
                if row.kind == "dense" and row.model == model and row.test_accuracy is not None
            ]
        )
        for model, _ in places
    }
    found = {(one.method, one.model, one.budget): one for one in study.judged}
    rows: list[Sequence[Any]] = [
        ("dense", *((one := dense[model]) and (*one, None, None) for model, _ in places))
    ]
    rows += [
        (
            method,
            *(
                one
                and (
                    *(one.accuracy[part] for part in SPREAD),
                    one.difference.mean,
                    one.outcome_adjusted,
                )
                for place in places
                for one in [found.get((method, *place))]
            ),
        )
        for method in dict.fromkeys(one.method for one in study.comparisons)
    ]
    return Table(title="Every method, every network", columns=columns, rows=rows)


def _overview(value: Sequence[Any]) -> str:
    *accuracy, difference, outcome = value
    if outcome is None:
        return _accuracy(accuracy)
    return f"{_accuracy(accuracy)} ({words.difference(difference)}, {outcome})"


def seeds_table(study: Study) -> Table:
    """List the difference of each method to dense, seed by seed; draws are averaged."""
    columns = [
        METHOD,
        Column(title="seed"),
        Column(title="accuracy", show=words.accuracy),
        Column(title="dense", show=words.accuracy),
        Column(title="difference", show=words.difference),
    ]
    dense = {row.seed: row.test_accuracy for row in study.rows if row.kind == "dense"}
    rows = []
    for method, of in study.by_method(row for row in study.rows if row.kind != "dense").items():
        for seed in sorted({row.seed for row in of}):
            own = _mean([row for row in of if row.seed == seed], "test_accuracy")
            reference = dense.get(seed)
            if own is not None and reference is not None:
                rows.append((method, seed, own, reference, own - reference))
    return Table(title="Seed by seed", columns=columns, rows=rows)


def networks_table(study: Study) -> Table:
    """List the rows of `accuracy_table` for all networks."""
    parts = [(part.rows[0].model, accuracy_table(part)) for part in study.models]
    rows = [(model, *row) for model, table in parts for row in table.rows]
    several = len({row[0] for row in rows}) > 1
    columns = [replace(NETWORK, context=False), *accuracy_table(study).columns]
    return Table(title="Accuracy against cost", columns=columns, rows=rows if several else ())


def accuracy_table(study: Study) -> Table:
    """List cost and accuracy of each method, dense first."""
    columns = [
        METHOD,
        BUDGET,
        Column(title="MACs", key="macs", show=words.millions),
        Column(title="accuracy", show=words.accuracy),
        Column(title="from, to", show=_share_range, parts=("low", "high"), absent="one seed"),
        Column(title="seeds"),
    ]
    rows: list[Sequence[Any]] = []
    dense = [row for row in study.rows if row.kind == "dense" and row.is_tested]
    shown = [one for one in study.judged if one.macs_saving is not None]
    macs = _mean(dense, "macs") or next(
        (study.networks.get(row.model, {}).get("macs") for row in dense), None
    )
    if not shown or not macs:
        return Table(title="Accuracy against cost", columns=columns, rows=())
    values = [row.test_accuracy for row in dense if row.test_accuracy is not None]
    mean = fmean(values)
    ends = (mean - stdev(values), mean + stdev(values)) if len(values) > 1 else None
    rows.append((dense[0].method, None, macs, mean, ends, len(values)))
    for one in shown:
        own, offset, found = one.accuracy["mean"], one.dense_accuracy["mean"], one.difference
        if own is None or offset is None or one.macs_saving is None:
            continue
        low_high = None
        if found.low is not None and found.high is not None:
            low_high = (offset + found.low, offset + found.high)
        need = macs * (1 - one.macs_saving)
        rows.append((one.method, one.budget, need, own, low_high, one.n))
    return Table(title="Accuracy against cost", columns=columns, rows=rows)


def _share_range(value: Sequence[float]) -> str:
    return f"{words.accuracy(value[0])} to {words.accuracy(value[1])}"


CURVES = {"validation_accuracy": "Validation accuracy", "train_loss": "Training loss"}
"""Figures by epoch, and their titles."""


def curves_table(study: Study, figure: str) -> Table:
    """List a figure of each method by epoch."""
    number = Column(title="mean", show=words.figure)
    columns = [
        METHOD,
        Column(title="epoch"),
        *(replace(number, title=end) for end in ENDS),
        Column(title="runs"),
    ]
    rows = []
    for method, of in study.by_method(study.done).items():
        values: dict[int, list[float]] = defaultdict(list)
        for row in of:
            for point in row.curve:
                if point.get(figure) is not None:
                    values[point["epoch"]].append(point[figure])
        rows += [
            (method, epoch, fmean(many), min(many), max(many), len(many))
            for epoch, many in sorted(values.items())
        ]
    if all(study.methods[row[0]] == "dense" for row in rows):
        rows = []
    return Table(title=CURVES[figure], columns=columns, rows=rows)


def by_epoch(study: Study, figure: str, show: Callable[[float], str]) -> Table:
    """List a figure by epoch, with one column per method."""
    table = curves_table(study, figure)
    found = {(row[0], row[1]): row[2:5] for row in table.rows}
    methods = list(dict.fromkeys(method for method, _ in found))
    columns = [
        Column(title="epoch"),
        *(
            Column(
                title=method, parts=ENDS, absent="—", show=lambda value: _curve_cell(value, show)
            )
            for method in methods
        ),
    ]
    rows = [
        (epoch, *(found.get((method, epoch)) for method in methods))
        for epoch in sorted({epoch for _, epoch in found})
    ]
    return Table(title=table.title, columns=columns, rows=rows)


def _curve_cell(value: Sequence[float], show: Callable[[float], str]) -> str:
    mean, low, high = (show(one) for one in value)
    return mean if low == high else f"{mean} ({low.removesuffix(' %')} to {high})"


def tickets_table(study: Study) -> Table:
    """List the blocks of each ticket: one row per ticket, one column per block, with its score."""
    points = removed_table(study).rows
    blocks = list(dict.fromkeys(row[3] for row in points))
    tickets: dict[tuple[Any, ...], dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for method, draw, seed, block, removed, score, _ in points:
        tickets[method, draw, seed][block] = (score, removed)
    columns = [
        METHOD,
        DRAW,
        Column(title="seed"),
        *(
            Column(title=block, show=_block_cell, parts=("score", "removed"), absent="")
            for block in blocks
        ),
    ]
    rows = [(*ticket, *(of.get(block) for block in blocks)) for ticket, of in tickets.items()]
    return Table(title="Blocks removed", columns=columns, rows=rows)


def _block_cell(value: Sequence[Any]) -> str:
    score, removed = value
    parts = ["×" if removed == "removed" else "", "" if score is None else words.figure(score)]
    return " ".join(part for part in parts if part) or "·"


def removed_table(study: Study) -> Table:
    """List the blocks that each ticket removed, with scores and how often they are removed."""
    columns = [
        METHOD,
        DRAW,
        Column(title="seed"),
        Column(title="block", words=True),
        Column(title="removed", words=True),
        Column(title="score", show=words.figure, absent="not scored"),
        Column(title="how often", show=lambda v: f"{v[0]} of {v[1]}", parts=("times", "tickets")),
    ]
    rows = []
    depth = block_order(study)
    for method, of in study.by_method(row for row in study.rows if row.removed).items():
        times = Counter(block for row in of for block in row.removed)
        for row in sorted(of, key=lambda row: (row.seed, row.draw or 0)):
            rows += [
                (
                    method,
                    row.draw,
                    row.seed,
                    block,
                    "removed" if block in row.removed else "kept",
                    (row.scores or {}).get(block),
                    (times[block], len(of)),
                )
                for block in depth
                if block in row.removed or block in row.kept
            ]
    return Table(title="Blocks removed", columns=columns, rows=rows)


def worth_table(study: Study) -> Table:
    """List the accuracy lost without each single block, and the criteria that score it lowest."""
    columns = [
        Column(title="block", words=True),
        Column(title="seeds"),
        Column(title="accuracy lost without it", show=_interval, parts=ENDS),
        DEVIATION,
        Column(title="lowest score of (removed at p = 1)", words=True, absent="—"),
    ]
    depth = {block: at for at, block in enumerate(block_order(study))}
    rows = [
        (
            one.block,
            one.worth.n,
            (one.worth.mean, one.worth.low, one.worth.high),
            one.worth.std,
            _lowest(study, one.block),
        )
        for one in sorted(_worth(study), key=lambda one: depth[one.block])
    ]
    return Table(title="What each block is worth", columns=columns, rows=rows)


def _lowest(study: Study, block: str) -> str | None:
    """Name the criteria that give a block the lowest score, and in how many of their seeds."""
    scored = (row for row in study.rows if row.role == "criterion" and row.scores)
    told = []
    for method, of in study.by_method(scored).items():
        times = [
            row for row in of if row.scores and block == min(row.scores, key=row.scores.__getitem__)
        ]
        if times:
            told.append(f"{method} ({len(times)} of {words.counted(len(of), 'seed')})")
    return ", ".join(told) or None


def _worth(study: Study) -> tuple[BlockWorth, ...]:
    return block_worth(study.rows, confidence=study.confidence, test_images=study.test_images)


def rank_table(study: Study) -> Table:
    """List the mean rank that each criterion gives to each block: 1 is removed first."""
    columns = [METHOD, Column(title="block", words=True), Column(title="mean rank", key="place")]
    columns += [Column(title="blocks", context=True)]
    rows = []
    scored = (row for row in study.rows if row.role == "criterion" and row.scores)
    for method, of in study.by_method(scored).items():
        ranks = [sorted(row.scores or {}, key=(row.scores or {}).__getitem__) for row in of]
        rows += [
            (method, block, fmean(1 + order.index(block) for order in ranks), len(ranks[0]))
            for block in block_order(study)
            if all(block in order for order in ranks)
        ]
    return Table(title="Ranks of the blocks", columns=columns, rows=rows)


def agreement_table(study: Study) -> Table:
    """List the agreement of each criterion's ranking with the worth of blocks."""
    columns = [
        Column(title="network", words=True, context=True),
        METHOD,
        Column(title="seeds"),
        Column(
            title="Kendall's tau with the measured worth",
            show=lambda v: (
                f"{v[0]:+.2f}" + (f" ({v[1]:+.2f} to {v[2]:+.2f})" if v[1] is not None else "")
            ),
            parts=("mean", "low", "high"),
        ),
    ]
    rows = [
        (part.rows[0].model, one.method, one.tau.n, (one.tau.mean, *_clipped(one.tau)))
        for part in study.models
        for one in rank_agreement(part.rows, _worth(part), confidence=study.confidence)
    ]
    return Table(title="Do criteria rank blocks by their worth?", columns=columns, rows=rows)


def _clipped(tau: Difference) -> tuple[float | None, float | None]:
    """Return the ends of an interval of tau, clipped to [-1, 1]."""
    if tau.low is None or tau.high is None:
        return None, None
    return max(tau.low, -1.0), min(tau.high, 1.0)


def block_order(study: Study) -> list[str]:
    """Return the blocks in order of depth, then others that a row names."""
    known = [
        block["name"]
        for model in dict.fromkeys(row.model for row in study.rows)
        for block in sorted(
            study.networks.get(model, {}).get("blocks", ()), key=lambda block: block["position"]
        )
    ]
    named = (name for row in study.rows if row.removed for name in (*row.kept, *row.removed))
    return list(dict.fromkeys((*known, *named)))


def cost_table(study: Study) -> Table:
    """List the cost of one row of each method, as the mean over its finished rows."""
    figures = (
        ("macs", Column(title="MACs", show=words.millions)),
        ("params", Column(title="parameters", show=words.count)),
        ("train_seconds", Column(title="training", show=words.duration)),
        ("search_seconds", Column(title="search", show=words.duration)),
        ("images_per_second", Column(title="images/s", show=words.count)),
        ("data_wait_share", Column(title="waiting for data", show=words.share)),
        ("peak_memory_bytes", Column(title="peak memory", show=words.memory)),
        ("energy_kwh", Column(title="energy", show=words.energy)),
        ("co2_kg", Column(title="CO2e", show=words.carbon)),
    )
    columns = [METHOD, Column(title="runs"), *(column for _, column in figures)]
    rows = []
    if any(one.macs_saving is not None or one.speedup.get("mean") for one in study.judged):
        rows = [
            (method, len(of), *(_mean_bill(of, key) for key, _ in figures))
            for method, of in study.by_method(study.done).items()
        ]
    return Table(title="Cost of one run", columns=columns, rows=rows)


def _mean_bill(rows: Sequence[Row], key: str) -> float | None:
    """Return the mean full cost of a row; of its own value if there is no full cost."""
    values = [(row.cost or {}).get(key, getattr(row, key)) for row in rows]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


SAVINGS = {
    "macs_saving": "MACs",
    "params_saving": "parameters",
    "speedup": "time, search and training",
    "memory_saving": "peak memory",
    "energy_saving": "energy",
    "co2_saving": "carbon",
}


def need_table(study: Study) -> Table:
    """List the cost of each method relative to the dense network, one quantity per row."""
    columns = [
        METHOD,
        Column(title="figure", words=True),
        Column(title="of dense", key="need", show=words.of_dense),
        Column(title="from, to", show=_of_dense_range, parts=("low", "high"), absent="—"),
    ]
    rows: list[Sequence[Any]] = []
    for one in study.judged:
        for key, figure in SAVINGS.items():
            if key != "speedup":
                if (saving := getattr(one, key)) is not None:
                    rows.append((one.method, figure, 1 - saving, None))
                continue
            mean, low, high = (one.speedup.get(end) for end in ENDS)
            if mean:
                ends = (1 / high, 1 / low) if low and high else None
                rows.append((one.method, figure, 1 / mean, ends))
    return Table(title="Cost relative to dense", columns=columns, rows=rows)


def _of_dense_range(value: Sequence[float]) -> str:
    return f"{words.of_dense(value[0])} to {words.of_dense(value[1])}"


def robustness_table(study: Study) -> Table:
    """List differences to dense on shifted, corrupted and attacked images."""
    columns = [
        METHOD,
        Column(title="images", words=True),
        Column(title="seeds"),
        Column(title="difference to dense", show=_interval, parts=ENDS),
        Column(
            title="at equal clean accuracy",
            key="equal",
            show=_interval,
            parts=ENDS,
            absent="—",
            rare=True,
        ),
    ]
    titles = _evaluations(study)
    rows = [
        (
            one.method,
            titles.get(name, name),
            found.n,
            _ends(found),
            _ends(found.at_equal_clean),
        )
        for one in study.judged
        for name, found in one.evaluations.items()
        if found.mean is not None
    ]
    return Table(title="Accuracy on other images", columns=columns, rows=rows)


def other_images_table(study: Study) -> Table:
    """List the accuracy of dense and every method on other images, with differences to dense."""
    columns = [
        Column(title="images", words=True),
        METHOD,
        Column(title="seeds"),
        ACCURACY,
        Column(title="paired seeds", absent="—"),
        Column(title="difference to dense", show=_interval, parts=ENDS, absent="—"),
        DEVIATION,
        Column(title="at equal clean accuracy", key="equal", show=_interval, parts=ENDS,
               absent="—", rare=True),
        Column(title="SD at equal clean accuracy", show=words.size, absent="—", rare=True),
    ]  # fmt: skip
    shifts = {one.method: one.evaluations for one in study.judged}
    rows: list[Sequence[Any]] = []
    for name, title in _evaluations(study).items():
        measured = [
            row
            for row in study.rows
            if (row.evaluations.get(name) or {}).get("accuracy") is not None
        ]
        for method, of in study.by_method(measured).items():
            by_seed: dict[int, list[float]] = defaultdict(list)
            for row in of:
                by_seed[row.seed].append(row.evaluations[name]["accuracy"])
            found = shifts.get(method, {}).get(name)
            equal = None if found is None else found.at_equal_clean
            rows.append(
                (
                    title,
                    method,
                    len(by_seed),
                    _over([fmean(values) for values in by_seed.values()]),
                    found and found.n,
                    _ends(found),
                    found and found.std,
                    _ends(equal),
                    equal and equal.std,
                )
            )
    return Table(title="Accuracy on other images", columns=columns, rows=rows)


def _evaluations(study: Study) -> dict[str, str]:
    """Return the title of every evaluation by its name."""
    return {
        name: found.get("title") or name
        for row in study.rows
        for name, found in row.evaluations.items()
    }


def evaluations_table(study: Study) -> Table:
    """List what every evaluation showed the networks; a condition that varies lists its values."""
    columns = [
        Column(title="images", words=True),
        Column(title="set", words=True, absent="—"),
        Column(title="test images", words=True, absent="not recorded"),
        Column(title="corruptions", words=True, absent="—", rare=True),
        Column(title="frost", words=True, absent="—", rare=True),
        Column(title="epsilon", words=True, absent="—", rare=True),
        Column(title="steps", words=True, absent="—", rare=True),
        Column(title="restarts", words=True, absent="—", rare=True),
        Column(title="precision", words=True, absent="not recorded"),
        Column(title="precision of training", words=True, absent="not recorded"),
    ]
    rows = []
    for name, title in _evaluations(study).items():
        found = [row.evaluations[name] for row in study.rows if name in row.evaluations]
        used = [one.get("settings") or {} for one in found]
        frost = {True: "photographs", False: "frost_like (drawn, no photographs)"}
        rows.append(
            (
                title,
                _values(one.get("title") for one in used),
                _values(words.count(one["images"]) for one in found if one.get("images")),
                _values(len(one["corruptions"]) for one in used if one.get("corruptions")),
                _values(frost[one["frost_photographs"]] for one in used
                        if one.get("frost_photographs") in frost),
                _values(f"{one['epsilon_255']:g}/255" for one in found if one.get("epsilon_255")),
                _values(one.get("steps") for one in used),
                _values(one.get("restarts") for one in used),
                _values(one.get("precision") for one in found),
                _values(one.get("run_precision") for one in used),
            )
        )  # fmt: skip
    return Table(title="Conditions of the evaluations", columns=columns, rows=rows)


def _values(values: Iterable[object]) -> str | None:
    """Join different values; None if there are none."""
    known = dict.fromkeys(str(value) for value in values if value is not None)
    return ", ".join(known) or None


def similarity_table(study: Study) -> Table:
    """List the similarity of each method's layers to those of dense, as the mean over its rows."""
    columns = [
        METHOD,
        Column(title="layer", words=True),
        Column(title="similarity", show=lambda value: f"{value:.3f}"),
    ]
    measured = [row for row in study.rows if row.similarity and row.kind != "dense"]
    rows = []
    for method, of in study.by_method(measured).items():
        found: dict[str, list[float]] = defaultdict(list)
        for row in of:
            for layer, value in (row.similarity or {})["layers"].items():
                if value is not None:
                    found[layer].append(value)
        rows += [(method, layer, fmean(values)) for layer, values in found.items()]
    return Table(title="Similarity to dense", columns=columns, rows=rows)


def baselines_table(study: Study) -> Table:
    """List the baselines of the tickets, and how closely their cost was matched."""
    columns = [
        NETWORK,
        BUDGET,
        Column(title="baseline", words=True),
        Column(title="kind", words=True),
        Column(title="role", words=True),
        Column(title="seeds"),
        ACCURACY,
        Column(title="difference to dense", show=_interval, parts=ENDS),
        DEVIATION,
        Column(title="outcome", words=True),
        Column(title="MACs", show=words.millions),
        Column(title="parameters", show=words.count),
        Column(title="MACs without masked weights", show=words.millions, absent="—"),
        Column(title="match", words=True, absent="—"),
    ]
    rows = []
    for one in study.comparisons:
        if one.role == "criterion":
            continue
        of = [
            row
            for row in study.done
            if (row.model, row.budget or "", row.method) == (one.model, one.budget, one.method)
        ]
        matches = [row.match for row in of if row.match]
        rows.append(
            (
                one.model,
                one.budget,
                one.method,
                one.kind.replace("_", " "),
                one.role,
                one.n,
                _mean_std(one.accuracy),
                _ends(one.difference),
                one.difference.std,
                one.outcome,
                _mean(of, "macs"),
                _mean(of, "params"),
                _mean(of, "sparse_macs"),
                words.closeness(matches) if matches else None,
            )
        )
    return Table(title="What the tickets had to beat", columns=columns, rows=rows)


def controls_table(study: Study) -> Table:
    """List every ticket against every control of its cost."""
    columns = [
        NETWORK,
        BUDGET,
        Column(title="ticket", words=True),
        Column(title="control", words=True),
        Column(title="seeds"),
        Column(title="seeds with the same network", show=_seeds, absent="none", rare=True),
        Column(title="ticket minus control", show=_interval, parts=ENDS),
        DEVIATION,
        Column(title="answer", words=True),
        Column(title="minimum detectable", show=words.size, absent="—"),
    ]
    rows = [
        (
            one.model,
            one.budget,
            one.method,
            control.method,
            control.n,
            " ".join(map(str, control.same_seeds)) or None,
            _ends(control.difference),
            control.difference.std,
            _answer(control),
            control.minimum_detectable,
        )
        for one in study.judged
        for control in one.controls
    ]
    return Table(title="Tickets against controls", columns=columns, rows=rows)


def _answer(control: Control) -> str:
    if not control.difference.n:
        return "the same network"
    return f"{control.outcome} (two seeds)" if words.on_two_seeds(control) else control.outcome


def runs_table(study: Study) -> Table:
    """List every row with its values."""
    figures = {
        "seed": Column(title="seed"),
        "status": Column(title="status", words=True),
        "test_accuracy": Column(title="test accuracy", show=words.accuracy),
        "validation_accuracy": Column(title="validation accuracy", show=words.accuracy, rare=True),
        "macs": Column(title="MACs", show=words.millions),
        "params": Column(title="parameters", show=words.count),
        "epochs": Column(title="epochs", rare=True),
        "train_seconds": Column(title="training", show=words.duration),
        "energy_kwh": Column(title="energy", show=words.energy),
        "co2_kg": Column(title="CO2e", show=words.carbon),
        "device": Column(title="device", words=True, rare=True),
        "precision": Column(title="precision", words=True, rare=True),
        "jobs_beside": Column(title="jobs beside", absent="not recorded", context=True),
        "folder": Column(title="folder", words=True, rare=True, link=True),
    }
    own = [Column(title=name, words=True, absent="") for name in study.columns]
    columns = [NETWORK, BUDGET, METHOD, DRAW, *figures.values(), *own]
    rows = [
        (
            *(row.model, row.budget, row.method, row.draw),
            *(getattr(row, key) for key in figures),
            *((row.config or {}).get(name) for name in study.columns),
        )
        for row in study.rows
    ]
    return Table(title="Every run", columns=columns, rows=rows)


def blocks_table(record: Mapping[str, Any]) -> Text:
    """List the removable blocks of `layerticket blocks`, with their share of the cost."""
    header = ("block", "stage", "params", "MACs", "share of MACs")
    rows = [
        (
            block["name"],
            str(block["stage"]),
            f"{block['params']:,}",
            "" if block["macs"] is None else f"{block['macs'] / 1e6:.3f} M",
            "" if block["macs"] is None else f"{block['macs'] / max(record['macs'], 1):.2%}",
        )
        for block in record["blocks"]
    ]
    return header, rows
