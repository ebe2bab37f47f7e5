"""Plan a study: its rows, and the jobs that they share.

Rows and searches are named here by a hash of their content; a training is named once its search is
done. Each seed has one theta_0 and one dense training. Rows are ordered by seed, so that pairs are
complete early.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from layerticket.errors import LayerticketError
from layerticket.files import digest
from layerticket.selection import Budget
from layerticket.settings import Digest, Name, Whole, checked_json, restored, to_table
from layerticket.study.identity import callable_identity
from layerticket.study.methods import ControlMethod, Method, table_of_method
from layerticket.study.spec import StudyFile, budget_text, name_of
from layerticket.training.steps import weight_copies

JobKind = Literal["network", "search", "train", "evaluate"]

log = logging.getLogger(__name__)
NEW_WEIGHTS = 10_000  # added to a seed to draw new weights, outside the range of a study's seeds
ALONE = Budget(remove=1)  # for control each, which removes every block alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job; its settings are in the study file."""

    name: Name
    kind: JobKind
    model: str
    """The dense network, as named in the study."""
    seed: Whole | None
    needs: Mapping[str, Name] = field(default_factory=dict)
    """Names of the jobs that must be done before, by their part."""
    method: str = "dense"
    """Label of the method."""
    budget: Mapping[str, Any] | None = None
    draw: Whole | None = None
    row: Name | Literal[""] = ""
    """Id of the row that the job trains or evaluates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRow:
    """One row of a study: a network that is trained and evaluated."""

    id: Name
    model: str
    budget: str | None
    """For example "remove 5"; None for the dense network."""
    method: str
    """Label of the method, or dense."""
    kind: str
    """Kind of the method, or dense."""
    role: str
    """dense, criterion, control or baseline."""
    reference: str | None
    """Label of the method that it is compared with."""
    draw: Whole | None
    seed: Whole
    jobs: Mapping[str, Name]
    """Names of its jobs by kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Rows, and their jobs in an order in which they can be done."""

    jobs: Mapping[str, Job]
    rows: tuple[PlannedRow, ...]
    data: Mapping[str, Any] | None
    """Identity of the data; None if the study names no data."""
    texts: Mapping[str, Digest]
    """SHA-256 of the module file of every package.module:function."""
    epochs: Whole
    """Epochs of a training by the recipe; 0 where a user's own `fit` trains."""

    def only(self, ids: tuple[str, ...]) -> "Plan":
        """Return the plan of these rows only; an id may be shortened.

        Raises:
            LayerticketError: If no row has the id.
        """
        for given in ids:
            if not any(row.id.startswith(given) for row in self.rows):
                raise LayerticketError(
                    f"no run of this study has id {given!r}; study.json and runs.csv list the ids."
                )
        rows = tuple(row for row in self.rows if row.id.startswith(ids))
        models = {row.model for row in rows}
        wanted = {name for row in rows for name in row.jobs.values()}
        # The savings of a row are shares of what its network costs.
        wanted |= {j.name for j in self.jobs.values() if j.kind == "network" and j.model in models}
        for name, job in reversed(list(self.jobs.items())):
            if name in wanted:
                wanted.update(job.needs.values())
        jobs = {name: job for name, job in self.jobs.items() if name in wanted}
        return replace(self, jobs=jobs, rows=rows)

    def as_record(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "data": self.data,
            "texts": dict(self.texts),
            "epochs": self.epochs,
            "jobs": [asdict(job) for job in self.jobs.values()],
            "rows": [asdict(row) for row in self.rows],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str = "plan.json") -> "Plan":
        """Read a plan back.

        Args:
            record: What `as_record` returned.
            where: File, for messages.

        Raises:
            LayerticketError: Naming the field that is missing, unknown or wrong.
        """
        jobs = [restored(Job, job, f"{where}: jobs") for job in _list(record, "jobs", where)]
        rows = [restored(PlannedRow, row, f"{where}: rows") for row in _list(record, "rows", where)]
        named = {job.name: job for job in jobs}
        plan = restored(cls, record, where, {"jobs": named, "rows": tuple(rows)})
        wanted = [need for job in jobs for need in job.needs.values()]
        wanted += [job for row in rows for job in row.jobs.values()]
        if odd := [name for name in wanted if name not in named]:
            raise LayerticketError(
                f"{where}: {odd[0]!r} is not a job of the plan. The file was edited by hand: "
                "delete it and repeat the command; finished work is kept."
            )
        return plan


def _list(record: Mapping[str, Any], name: str, where: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = checked_json(f"{where}: {name}", tuple[Any, ...], record.get(name))
    return found


def unfold(
    study: StudyFile,
    data: Mapping[str, Any] | None,
    *,
    count_blocks: Callable[[str], int] = lambda model: 0,
) -> Plan:
    """Return the plan of a study.

    Args:
        study: The study.
        data: Identity of its data, see `data_identity`; other data give other rows.
        count_blocks: Counts the removable blocks of a network, for control each.

    Returns:
        The plan.
    """
    return _Planner(study, data, count_blocks).plan()


class _Planner:
    """Collects the jobs of a study, row by row."""

    def __init__(
        self,
        study: StudyFile,
        data: Mapping[str, Any] | None,
        count_blocks: Callable[[str], int],
    ) -> None:
        self.study, self.data = study, data
        self.count_blocks = functools.cache(count_blocks)  # builds a network, the same each seed
        self.jobs: dict[str, Job] = {}
        named = [
            (name_of(model), callable_identity(model, study.version)) for model in study.models
        ]
        self.models = dict(named)
        fit = {"fit": callable_identity(study.fit, study.version)} if study.fit else {}
        self.common = {"data": data, "shape": list(study.input_shape)} | (
            fit or {"recipe": to_table(study.recipe)}
        )

        def identity(thing: str | Callable[..., Any]) -> Mapping[str, Any]:
            known = self.models.get(thing) if isinstance(thing, str) else None
            return known or callable_identity(thing, study.version)

        # By label of the method; names of this package identify themselves.
        self.calls = {
            method.label: {
                setting: found
                for setting, thing in method.calls.items()
                if len(found := identity(thing)) > 1
            }
            for method in study.methods
        }
        called = [value for own in self.calls.values() for value in own.values()]
        called += [*self.models.values(), *fit.values()]
        if any("call" in value for value in called):
            log.warning(
                "a Python function without version= is identified by this call alone: no earlier "
                "result is reused."
            )
        self.texts = {value["name"]: value["text"] for value in called if "text" in value}

    def plan(self) -> Plan:
        """Return the rows and jobs of the study."""
        rows = [
            row
            for seed in self.study.all_seeds
            for model in self.models
            for row in self.rows_of(model, seed)
        ]
        epochs = 0 if self.study.fit else self.study.recipe.epochs
        return Plan(
            jobs=self.jobs, rows=tuple(rows), data=self.data, texts=self.texts, epochs=epochs
        )

    def rows_of(self, model: str, seed: int) -> Iterator[PlannedRow]:
        """Return the rows of one network and seed, the dense row first."""
        network = {**self.common, "model": self.models[model]}
        self.add("network", model, None, f"network-{_slug(model)}-{digest(network)[:12]}")
        dense = self.row(model, seed, None, None, None)
        yield dense
        own = (budget for method in self.study.methods for budget in self.budgets_of(method))
        for budget in dict.fromkeys((*self.study.budgets, *own)):
            for method in self.study.methods:
                if seed in (method.seeds or self.study.seeds) and budget in self.budgets_of(method):
                    for draw in self.draws_of(method, model):
                        yield self.row(model, seed, method, budget, draw)

    def budgets_of(self, method: Method) -> tuple[Budget, ...]:
        """Return the budgets of a method."""
        if isinstance(method, ControlMethod) and method.control == "each":
            return (ALONE,)
        return method.budgets or self.study.budgets

    def draws_of(self, method: Method, model: str) -> tuple[int | None, ...]:
        """Return the numbers of the draws; (None,) if nothing is drawn."""
        if not isinstance(method, ControlMethod) or method.control not in ("random", "each"):
            return (None,)
        return tuple(
            range(method.draws if method.control == "random" else self.count_blocks(model))
        )

    def identity(self, model: str, seed: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return everything that decides the result of a row or a search, as JSON values."""
        return {**self.common, "model": self.models[model], "seed": seed, **more}

    def row(
        self, model: str, seed: int, method: Method | None, budget: Budget | None, draw: int | None
    ) -> PlannedRow:
        """Plan one row: its search, training and evaluation."""
        jobs: dict[str, str] = {}
        table: dict[str, Any] = {}
        reference = None
        if method is not None and budget is not None:
            jobs["search"] = self.search(method, budget, draw, model, seed)
            table = {
                key: value
                for key, value in table_of_method(method).items()
                if key not in ("seeds", "budgets", "draws")
            }
            reference = self.study.reference_label(method)
        parts = {"method": table or "dense", "search": jobs.get("search"), "draw": draw}
        key = digest(self.identity(model, seed, **parts))[:12]
        label = "dense" if method is None else method.label
        place: dict[str, Any] = {"method": label, "draw": draw, "row": key}
        jobs["train"] = self.add("train", model, seed, f"train-{key}", dict(jobs), **place)
        settings = self.evaluations(dense=method is None)
        if settings:
            needs = {"train": jobs["train"]}
            if method is not None and (self.study.similarity or self.study.timing):
                needs["dense"] = self.dense(model, seed)
            name = f"evaluate-{key}-{digest(settings)[:8]}"
            jobs["evaluate"] = self.add("evaluate", model, seed, name, needs, **place)
        return PlannedRow(
            id=key,
            model=model,
            budget=None if budget is None else budget_text(budget),
            method=label,
            kind="dense" if method is None else method.kind,
            role="dense" if method is None else method.role,
            reference=reference,
            draw=draw,
            seed=seed,
            jobs=jobs,
        )

    def evaluations(self, *, dense: bool) -> dict[str, Any]:
        """Return the evaluations of a trained network, other than test accuracy."""
        study = self.study
        found: dict[str, Any] = {}
        if study.evaluate:
            found = {"on": list(study.evaluate), "conditions": to_table(study.conditions)}
        if not dense:
            found |= {"similarity": True} if study.similarity else {}
            found |= {"timing": True} if study.timing else {}
        return found

    def dense(self, model: str, seed: int) -> str:
        """Return the name of the job that trains the dense network of a seed."""
        key = digest(self.identity(model, seed, method="dense", search=None, draw=None))[:12]
        return f"train-{key}"

    def search(
        self, method: Method, budget: Budget, draw: int | None, model: str, seed: int
    ) -> str:
        """Plan the search of a method, after the search of its reference."""
        needs = {"dense": self.dense(model, seed)} if "dense" in method.wants else {}
        if "reference" in method.wants:
            other = self.study.reference_of(method)
            needs["reference"] = self.search(other, budget, None, model, seed)
        searched = {**method.searched, "budget": to_table(budget), "draw": draw, "needs": needs}
        if calls := self.calls[method.label]:
            searched["calls"] = calls
        # Named only where they differ from what all searches once assumed.
        if "dense" in method.wants and self.study.recipe.ema_decay:
            searched["scored"] = "average"
        copies = weight_copies(self.study.recipe)
        if budget.max_memory is not None and copies != 3:
            searched["weight_copies"] = copies
        key = digest(self.identity(model, seed, searched=searched))[:12]
        name = f"search-{method.kind}-{_slug(model)}-seed{seed}-{key}"
        place: dict[str, Any] = {"method": method.label, "draw": draw, "budget": to_table(budget)}
        return self.add("search", model, seed, name, needs, **place)

    def add(
        self,
        kind: JobKind,
        model: str,
        seed: int | None,
        name: str,
        needs: Mapping[str, str] | None = None,
        **more: Any,  # noqa: ANN401 - fields of a job
    ) -> str:
        """Add a job to the plan, once, and return its name."""
        job = Job(name=name, kind=kind, model=model, seed=seed, needs=needs or {}, **more)
        self.jobs.setdefault(name, job)
        return name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:60]
