"""Run a paired study from Python: dense against tickets over seeds, by a recipe or your own fit."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerticket.display import Shown, Table
from layerticket.errors import LayerticketError, TrainingError, need, unknown_name
from layerticket.selection import Budget, check_budget
from layerticket.settings import from_table
from layerticket.verdict import words
from layerticket.verdict.pairs import Comparison, Row

if TYPE_CHECKING:
    from torch import Tensor

    from layerticket.data.dataset import Dataset
    from layerticket.study.methods import Method
    from layerticket.study.running.executors import Workers
    from layerticket.ticket.ticket import Ticket
    from layerticket.training.recipe import Recipe

log = logging.getLogger(__name__)
Network = str | Callable[..., Any]


@dataclass(frozen=True, slots=True, repr=False)
class Compared(Shown):
    """Result of `compare`; the study's folder has the same content."""

    folder: Path
    record: Mapping[str, Any]
    """The content of ``study.json``."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows: networks that were trained, or failed."""
        return tuple(Row.from_record(one) for one in self.record["runs"])

    @property
    def frame(self) -> Any:  # noqa: ANN401 - pandas may be missing
        """The rows as a pandas table, as in ``runs.csv``."""
        from layerticket.study.results import flat

        return need("pandas").DataFrame([flat(one) for one in self.record["runs"]])

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparison of every method with dense."""
        return tuple(Comparison.from_record(one) for one in self.record["comparisons"])

    def verdict(self, label: str) -> Comparison:
        """Return the comparison of one method with dense; its `sentence` is the verdict in words.

        Raises:
            LayerticketError: If there is no such method, or it has several budgets or networks.
        """
        found = [one for one in self.comparisons if one.method == label]
        if not found:
            raise unknown_name("method", label, [one.method for one in self.comparisons])
        if len(found) > 1:
            raise LayerticketError(
                f"method {label!r} has {len(found)} comparisons, for several budgets or networks. "
                "Choose one from .comparisons."
            )
        return found[0]

    def ticket(self, label: str, seed: int) -> "Ticket":
        """Load the ticket that a method found for a seed.

        Raises:
            LayerticketError: If there is no such ticket.
        """
        from layerticket.study.folder import StudyFolder
        from layerticket.ticket.ticket import Ticket

        folder = StudyFolder(self.folder)
        for row in folder.read_plan().rows:
            if (row.method, row.seed) == (label, seed) and "search" in row.jobs:
                found = folder.record(row.jobs["search"])
                if found is not None and "ticket" in found:
                    return Ticket.load(self.folder / found["ticket"])
        raise LayerticketError(
            f"method {label!r} has no ticket for seed {seed}. Methods: "
            f"{', '.join(dict.fromkeys(one.method for one in self.rows))}."
        )

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, by default in the study's folder, and return the path of its page."""
        from layerticket.report.page import write_report

        return write_report(self.folder, None if path is None else Path(path)).page

    def __str__(self) -> str:
        return str(self.record["verdict"])

    def _headline(self) -> str:
        return str(self)

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {}
        for one in self.comparisons[:8]:
            said = f"{one.outcome_adjusted}, {words.interval(one.difference)}"
            facts[f"{one.method} {one.budget}"] = said
        return facts | {"folder": self.folder}

    def _table(self) -> Table:
        margin = -float(self.record["margin"])
        header = ("method", "budget", "accuracy", "difference to dense", "", "outcome", "MACs")
        rows = [
            (
                one.method,
                one.budget,
                words.accuracy(one.accuracy.get("mean")),
                words.interval(one.difference),
                words.strip(one.difference, margin),
                one.outcome_adjusted,
                words.saving(one.macs_saving),
            )
            for one in self.comparisons
        ]
        return header, rows


def compare(
    model: Network,
    *,
    methods: "Sequence[str | Mapping[str, Any] | Method]",
    out: str | Path,
    budget: Budget | Mapping[str, Any] | Sequence[Budget] = Budget(remove=1),  # noqa: B008 - frozen
    data: "str | Dataset | tuple[Tensor, Tensor] | list[Tensor] | None" = None,
    recipe: "Recipe | None" = None,
    fit: Network | None = None,
    version: str = "",
    seeds: int | Sequence[int] = 5,
    margin: float = 0.01,
    confidence: float = 0.95,
    evaluate: Sequence[str] = (),
    input_shape: Sequence[int] = (),
    classes: int | None = None,
    data_dir: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    value_range: Sequence[int] | None = None,
    workers: "Workers | None" = None,
) -> Compared:
    """Train a dense network and its tickets over paired seeds, and compare them.

    The same call resumes interrupted work and runs only what was added.

    Args:
        model: A network by name, ``package.module:function``, or a function that builds it; it is
            given ``seed``, ``num_classes`` and ``in_channels`` where it has parameters of these
            names.
        methods: Methods to compare with dense: names of criteria, or controls ("last", "first",
            "even", "shallower"), or tables as in a study file, such as
            ``{"method": "control", "control": "random", "draws": 5}``.
        out: Folder of the study.
        budget: How much is removed, one or several; ``{"save_macs": 0.3}`` is one too.
        data: Images by name, as `load_data` takes it, or a `Dataset`; digits by default. Where
            `fit` trains, it may be a batch (images (N, C, H, W), labels (N,)) to score on, or be
            left out: then methods that need labels are refused, and one input has `input_shape`,
            or the shape that the configuration of a timm or torchvision network states, or
            (3, 32, 32).
        recipe: How every network is trained.
        fit: Your own training instead of a recipe: ``package.module:function``, or a function
            called with model, seed and folder.
        version: Version of your Python functions; without it, later calls do not reuse their
            results.
        seeds: Number of seeds, or a list of them.
        margin: How much accuracy a winning ticket may lose, as a fraction.
        confidence: Confidence of all intervals.
        evaluate: Evaluations of the trained networks, in addition to test accuracy.
        input_shape: Shape of one input, if no data set is named.
        classes: Outputs of the network, if no data set is named.
        data_dir: Folder of the CIFAR files.
        image_size: Height and width that all images are resized to, or one number for both.
        value_range: Pixel values of black and white, for images of 16 bits.
        workers: Where the jobs run; by default in this process.

    Raises:
        LayerticketError: If an argument is invalid; before any training.
        TrainingError: If every run failed. If some did, a warning is logged.
    """
    if hasattr(model, "named_modules"):
        raise LayerticketError(
            f"model is a {type(model).__name__}, but every seed needs a network of its own. Give a "
            "function of the seed that builds one, or the name of a network."
        )
    if isinstance(methods, str):
        raise LayerticketError(f"methods is the text {methods!r}; give a list: [{methods!r}].")
    from layerticket.study.running.engine import run_study
    from layerticket.study.running.executors import Workers
    from layerticket.study.spec import StudyFile

    title = model if isinstance(model, str) else getattr(model, "__qualname__", "a network")
    chosen: dict[str, Any] = {"recipe": recipe, "fit": fit, "data": data, "classes": classes}
    chosen |= {"image_size": image_size, "value_range": value_range}
    study = StudyFile(
        title=f"{title} against its tickets",
        models=(model,),
        methods=tuple(_method(one) for one in methods),
        budgets=_budgets(budget),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        margin=margin,
        confidence=confidence,
        evaluate=tuple(evaluate),
        input_shape=tuple(input_shape),
        version=version,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    folder = Path(out).expanduser().resolve()
    record = run_study(
        study,
        folder,
        workers=workers or Workers(executor="inline"),
        data_dir=None if data_dir is None else Path(data_dir),
        command=f"layerticket.compare({title!r}, out={str(out)!r})",
    )
    found = Compared(folder, record)
    _check_failures(found)
    return found


def _check_failures(found: Compared) -> None:
    """Log a warning if runs failed; raise if all did."""
    failed = [row for row in found.rows if row.status == "failed"]
    if not failed:
        return
    one = failed[0]
    text = (
        f"{len(failed)} of {words.counted(len(found.rows), 'run')} failed, first {one.method} of "
        f"seed {one.seed}: {one.error} (log: {found.folder / (one.log or '')}). The same call "
        "tries them again."
    )
    if len(failed) == len(found.rows):
        raise TrainingError(text)
    log.warning(text)


def _budgets(given: Budget | Mapping[str, Any] | Sequence[Budget]) -> tuple[Budget, ...]:
    """Return the budgets of one budget, a table, or a sequence."""
    if isinstance(given, Mapping):
        return (from_table(Budget, given, "budget"),)
    if not isinstance(given, Sequence):
        check_budget(given)
        return (given,)
    for one in given:
        check_budget(one)
    return tuple(given)


def _method(given: "str | Mapping[str, Any] | Method") -> "Method":
    """Return the method of a name or a table."""
    from layerticket.study.methods import METHODS, Method, method_of

    if isinstance(given, Method):
        return given
    if isinstance(given, str):
        if given in ("first", "last", "even", "each"):
            given = {"method": "control", "control": given}
        elif given in METHODS:
            given = {"method": given}
        else:
            given = {"method": "ticket", "criterion": given}
    return method_of(given, "methods")
