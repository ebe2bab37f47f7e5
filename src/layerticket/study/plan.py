"""A study unfolds into jobs that share work, and rows that say what each job is for.

One theta_0 and one dense training for each seed; it keeps every epoch that any method goes back
to. Rows of one seed stand together, so that pairs are complete early.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from layerticket.errors import LayerticketError
from layerticket.files import digest
from layerticket.selection import Budget
from layerticket.study.methods import Method
from layerticket.study.spec import StudyFile
from layerticket.study.values import table_of
from layerticket.training.checkpoint import epochs_at

KEEP = "keep"
"""Entry of a training's `Job.spec`: epochs whose weights and optimizer stay in its folder."""

Kind = Literal["network", "search", "train", "evaluate", "similarity"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work; everything that decides how it ends is in it, and what it leaves."""

    kind: Kind
    model: str
    """Name of the dense network it is about."""
    seed: int | None
    spec: Mapping[str, Any]
    """What is to be done, as JSON values."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Names of the jobs that come before, by the part they play."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides how it ends; the jobs that come before are in it by name.

        The epochs a training keeps change nothing in it, so they are left out: whatever was made
        of a dense network stands when a method is added that goes back to another epoch.
        """
        spec = {key: value for key, value in self.spec.items() if key != KEEP}
        return digest({**asdict(self), "spec": spec})

    @property
    def name(self) -> str:
        """Name of its folder: readable, and as unique as 48 bits of the hash."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        what = self.spec.get("method") if self.kind == "search" else None
        readable = "-".join([self.kind, *([what] if what else []), self.model])
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', readable)}{seed}-{self.digest[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One row of a study: a network that is trained and judged."""

    id: str
    model: str
    budget: str | None
    """As in "remove 5"; None for the dense network."""
    method: str
    """Label of the method, or dense."""
    kind: str
    """Kind of the method, or dense."""
    draw: int | None
    seed: int
    jobs: Mapping[str, str]
    """Names of its jobs by kind."""


NEW_WEIGHTS = 10_000  # added to a seed to draw other weights, away from the seeds of a study


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Jobs in an order they can be done in, and the rows they are for."""

    jobs: Mapping[str, Job]
    runs: tuple[PlannedRun, ...]

    def only(self, ids: tuple[str, ...]) -> "Plan":
        """Keep what these rows need; an id may be shortened.

        Raises:
            LayerticketError: If an id is that of no row.
        """
        for given in ids:
            if not any(run.id.startswith(given) for run in self.runs):
                raise LayerticketError(
                    f"no run of this study is called {given!r}; study.json and runs.csv name them."
                )
        runs = tuple(run for run in self.runs if run.id.startswith(ids))
        wanted = {name for run in runs for name in run.jobs.values()}
        for name, job in reversed(list(self.jobs.items())):
            if name in wanted:
                wanted.update(job.needs.values())
        return Plan(jobs={n: j for n, j in self.jobs.items() if n in wanted}, runs=runs)


def budget_text(budget: Budget) -> str:
    """Spell a budget.

    Example:
        >>> budget_text(Budget(remove=5))
        'remove 5'
    """
    return " ".join(f"{k} {v:g}" for k, v in asdict(budget).items() if v is not None)


def unfold(study: StudyFile, fingerprint: str) -> Plan:
    """Plan a study.

    Args:
        study: The study.
        fingerprint: SHA-256 over all images and labels; results of other data are other jobs.

    Returns:
        The plan.
    """
    planner = _Planner(study, fingerprint)
    runs = [
        run for seed in study.seeds for model in study.models for run in planner.of(model, seed)
    ]
    return Plan(jobs=planner.jobs, runs=tuple(runs))


class _Planner:
    """Collects jobs while the rows of a study are gone through."""

    def __init__(self, study: StudyFile, fingerprint: str) -> None:
        self.study, self.jobs = study, dict[str, Job]()
        self.data = {
            "data": study.data,
            "data_fingerprint": fingerprint,
            "validation_fraction": study.validation_fraction,
        }
        self.recipe = asdict(study.recipe)
        self.keep = list(epochs_at(study.keeps, study.recipe.epochs))

    def add(self, job: Job) -> str:
        """Put a job on the list, once; the data are part of all jobs."""
        job = replace(job, spec={**job.spec, **self.data})
        self.jobs.setdefault(job.name, job)
        return job.name

    def of(self, model: str, seed: int) -> Iterator[PlannedRun]:
        """Rows of one network and seed: dense first."""
        self.add(Job(kind="network", model=model, seed=None, spec={}))
        dense = self.add(
            Job(kind="train", model=model, seed=seed, spec={**self._training(), KEEP: self.keep})
        )
        yield self._row(dense, None, model=model, seed=seed, method="dense", kind="dense")
        for budget in self.study.budgets:
            for method in self.study.methods:
                for draw in method.all_draws:
                    yield self._of_method(method, draw, budget, model, seed, dense)

    def _training(self) -> dict[str, Any]:
        """Settings of a training that starts where its network says."""
        return {"recipe": self.recipe, "initialization": "ticket"}

    def _of_method(
        self, method: Method, draw: int | None, budget: Budget, model: str, seed: int, dense: str
    ) -> PlannedRun:
        """Plan one row: search, training, judgement."""
        search = self._search(method, draw, budget, model, seed, dense)
        spec = self._training()
        if method.new_weights:
            spec |= {"initialization": "seed", "initialization_seed": seed + NEW_WEIGHTS}
        train = self.add(
            Job(kind="train", model=model, seed=seed, spec=spec, needs={"search": search})
        )
        several = len(method.all_draws) > 1
        label = f"{method.label} {draw}" if several else method.label
        row: dict[str, Any] = {"model": model, "seed": seed, "method": label, "kind": method.kind}
        row |= {"search": search, "budget": budget_text(budget), "draw": draw}
        return self._row(train, dense, **row)

    def _search(
        self, method: Method, draw: int | None, budget: Budget, model: str, seed: int, dense: str
    ) -> str:
        """Plan the search of a method, and before it that of its reference."""
        needs = {"dense": dense} if "dense" in method.wants else {}
        if "reference" in method.wants:
            other = self.study.reference_of(method)
            needs["reference"] = self._search(other, None, budget, model, seed, dense)
        spec = {**method.searched, "draw": draw, "budget": table_of(budget), "recipe": self.recipe}
        return self.add(Job(kind="search", model=model, seed=seed, spec=spec, needs=needs))

    def _row(
        self,
        train: str,
        dense: str | None,
        *,
        search: str | None = None,
        budget: str | None = None,
        draw: int | None = None,
        **row: Any,  # noqa: ANN401 - fields of a row
    ) -> PlannedRun:
        """Plan how a trained network is judged, and put the row together."""
        jobs = {"search": search} if search is not None else {}
        jobs["train"] = train
        model, seed = row["model"], row["seed"]
        if self.study.evaluate:
            conditions = table_of(self.study.conditions)
            spec = {"on": list(self.study.evaluate), "conditions": conditions}
            jobs["evaluate"] = self.add(
                Job(kind="evaluate", model=model, seed=seed, spec=spec, needs={"train": train})
            )
        if self.study.similarity and dense is not None:
            needs = {"train": train, "dense": dense}
            jobs["similarity"] = self.add(
                Job(kind="similarity", model=model, seed=seed, spec={}, needs=needs)
            )
        return PlannedRun(
            id=self.jobs[train].digest[:12], jobs=jobs, draw=draw, budget=budget, **row
        )
