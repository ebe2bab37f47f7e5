"""The jobs of a study. `run_job` runs one job, with everything read from the study's folder."""

import functools
import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict

from layerticket.batch import batch_digest
from layerticket.blocks.find import find_blocks
from layerticket.data.dataset import Dataset, check_labels, noise
from layerticket.data.sources import load_data
from layerticket.errors import LayerticketError, imported, in_words
from layerticket.files import (
    FolderInUse,
    digest,
    exclusive,
    open_to_append,
    read_json,
    remove_written,
    write_json,
)
from layerticket.models.load import OFFERED, accepted, stated_shape
from layerticket.selection import Budget
from layerticket.settings import checked_json
from layerticket.study.evaluate import (
    WeightsGone,
    evaluate_run,
    inference_of,
    pair_figures,
    similarity_of,
)
from layerticket.study.folder import RECORD, StudyFolder
from layerticket.study.identity import (
    callable_identity,
    check_loaded,
    data_identity,
    module_text,
)
from layerticket.study.plan import NEW_WEIGHTS, Job, Plan
from layerticket.study.record import BILL, FIRST, WEIGHTS, Provenance, Result, read_config
from layerticket.study.search import SEARCHES, Search
from layerticket.study.spec import StudyFile, name_of
from layerticket.study.toml import study_of
from layerticket.study.train import Networks, Training, plan_training, train
from layerticket.ticket.ticket import FILES as TICKET_FILES
from layerticket.ticket.ticket import ROUNDS, Ticket
from layerticket.training.checkpoint import epochs_at, snapshot_path
from layerticket.training.device import Where, compile_pays, resolve_device, resolve_precision
from layerticket.training.recipe import TRAINING_REVISION, Recipe

if TYPE_CHECKING:
    import torch

PRECISION = "precision.json"
NOISE_SHAPE = (3, 32, 32)  # shape of one input, where a study names neither data nor shape


class Resolved(TypedDict):
    """Precision and compilation that the first job of a study chose, for all later jobs."""

    precision: Literal["bf16", "fp32"]
    revision: int
    compile: Literal["on", "off"]


def run_job(root: Path, name: str, study: StudyFile | None = None) -> None:
    """Run a job of a study, unless it is done.

    Args:
        root: Folder of the study.
        name: Name of the job.
        study: The study itself, needed if it contains Python functions.

    Raises:
        FolderInUse: If another process runs the job, or a training that it needs.
        Exception: Whatever the job raised; the reason is also written to its folder.
    """
    folder = StudyFolder(Path(root))
    with exclusive(folder.job(name)):
        if folder.is_done(name):
            return
        folder.clear_failure(name)
        _log_line(folder.log(name), f"begins: pid {os.getpid()} on {socket.gethostname()}")
        try:
            record = JobRunner(folder, study).run(name)
        except FolderInUse:
            raise
        except (Exception, SystemExit) as err:  # a user's model may raise anything
            folder.fail(name, in_words(err))
            raise
        folder.finish(name, record)
        _log_line(folder.log(name), "done")


def _log_line(log: Path, text: str) -> None:
    """Add a line with the time to a log file."""
    with open_to_append(log) as file:
        file.write(f"[{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC] {text}\n".encode())


_load_once = functools.lru_cache(maxsize=1)(load_data)  # images, once per process


def dataset_of(study: StudyFile, data_dir: Path | None) -> Dataset:
    """Load the images of a study; random noise of its input shape if it names no data."""
    if isinstance(study.data, str) and study.data:
        return _load_once(
            study.data,
            data_dir=data_dir,
            validation_fraction=study.validation_fraction,
            image_size=study.image_size,
            value_range=study.value_range,
            reading=study.reading,
        )
    if isinstance(study.data, Dataset):
        return study.data
    shape = _input_shape(study)
    images = max(1024, study.recipe.batch_size)
    return noise((shape[0], shape[1], shape[2]), classes=study.classes, images=images)


def _input_shape(study: StudyFile) -> tuple[int, ...]:
    """Return the shape of one input: from the batch, the study, or the networks' configurations."""
    if study.batch is not None:
        images, labels = study.batch
        if images.ndim != 4 or not images.is_floating_point():
            raise LayerticketError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; images must be "
                "floating-point numbers of shape (N, C, H, W), as the network is trained on them: "
                "pixels divided by 255 and normalized. A data set may hold whole numbers: "
                "layerticket.data.from_arrays."
            )
        if labels.shape != images.shape[:1]:
            raise LayerticketError(
                f"the batch has {len(images)} images and labels of shape {tuple(labels.shape)}; "
                "give one label for each image."
            )
        check_labels(labels, study.classes, "the batch")
        return tuple(images.shape[1:])
    shape: tuple[int, ...] = study.input_shape
    if not shape:
        stated = [stated_shape(model) for model in study.models if isinstance(model, str)]
        known = sorted({one for one in stated if one is not None})
        if len(known) > 1:
            raise LayerticketError(
                f"the networks need inputs of different shapes, {known[0]} and {known[1]}. Give "
                "input_shape."
            )
        shape = known[0] if known else NOISE_SHAPE
    if len(shape) != 3:
        raise LayerticketError(f"input_shape is {shape}; give channels, height and width.")
    return shape


def scored_on(study: StudyFile, dataset: Dataset) -> dict[str, Any] | None:
    """Return the identity of the images that a study scores on; None if there are none."""
    if study.batch is not None:
        return {"batch": batch_digest(study.batch)}
    return data_identity(dataset) if study.has_data else None


def networks_of(study: StudyFile, dataset: Dataset) -> Networks:
    """Return the builder of the study's networks, including those from Python functions.

    Raises:
        LayerticketError: If a function needs an argument that cannot be given.
    """
    functions = {name_of(model): model for model in study.models if not isinstance(model, str)}
    for name, function in functions.items():
        accepted(function, OFFERED, name)
    return replace(Networks.of(dataset), functions=functions, version=study.version)


def count_blocks(study: StudyFile, dataset: Dataset, model: str) -> int:
    """Count the removable blocks of a network."""
    dense = networks_of(study, dataset).build(model, 0)
    return len(find_blocks(dense, dataset.train.fetch(slice(2)).float()))


class JobRunner:
    """Runs one job, with the data, networks and plan that all jobs of a study share."""

    def __init__(self, folder: StudyFolder, study: StudyFile | None = None) -> None:
        self.folder = folder
        with folder.held():  # another runner may write another version of all three
            self.plan: Plan = folder.read_plan()
            self.context = folder.read_context()
            text = folder.study.read_text(encoding="utf-8")
        self._check_texts()
        for module in self.context.modules:
            imported(module, "the user's own criterion")
        self.study = study or study_of(tomllib.loads(text), str(folder.study))
        self.dataset = dataset_of(self.study, self.context.data_dir)
        self._check_data()
        self.networks = networks_of(self.study, self.dataset)
        self.where = Where(device=self.context.device, progress=False, metering=self.study.energy)

    def run(self, name: str) -> dict[str, Any]:
        """Run a job and return its record."""
        if name not in self.plan.jobs:
            raise LayerticketError(
                f"the study in {self.folder.root} was changed in the meantime: it has no job "
                f"{name!r} any more."
            )
        job = self.plan.jobs[name]
        steps = {
            "network": self.network,
            "search": self.search,
            "train": self.train,
            "evaluate": self.evaluate,
        }
        record = steps[job.kind](job)
        made_of = {need: self.folder.outcome(need) for need in job.needs.values()}
        return record | ({"made_of": made_of} if made_of else {})

    def _check_texts(self) -> None:
        """Raise if the module file of a function differs from the one that was planned with."""
        for name, text in self.plan.texts.items():
            if module_text(name) != text:
                raise LayerticketError(
                    f"the file of the module of {name!r} differs from when the study was planned. "
                    "Give every worker the same file, and run the study again after a change."
                )
            check_loaded(name, text)

    def _check_data(self) -> None:
        """Raise if the images are not those the study was planned with."""
        wanted = self.plan.data
        here = scored_on(self.study, self.dataset)
        if wanted is not None and here != wanted:
            names = [
                (one or {}).get("fingerprint") or (one or {}).get("batch", "none")
                for one in (here, wanted)
            ]
            raise LayerticketError(
                f"the images here have fingerprint {names[0][:12]}, the study was planned with "
                f"{names[1][:12]}. Give every worker the same files."
            )

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the precision and compilation that the first job chose.

        A user's own training takes the recipe as it stands.
        """
        if self.study.fit:
            return self.study.recipe
        path = self.folder.root / PRECISION
        if not path.exists():
            with self.folder.held():
                if not path.exists():
                    device = resolve_device(self.context.device)
                    precision = resolve_precision(self.study.recipe.precision, device)
                    first = {"precision": precision, "revision": TRAINING_REVISION}
                    write_json(path, first | {"compile": self._compiled(device)})
        kept: dict[str, Any] = checked_json(str(path), Resolved, read_json(path))
        if kept["revision"] != TRAINING_REVISION:
            raise LayerticketError(
                f"the study in {self.folder.root} was started with another version of the training "
                f"code ({kept['revision']}; this is {TRAINING_REVISION}); a study must not mix "
                "them. Run it in another folder."
            )
        asked = self.study.recipe.precision
        if asked not in ("auto", kept["precision"]):
            raise LayerticketError(
                f"the study in {self.folder.root} was started with precision {kept['precision']}; "
                f"a study must not mix precisions, but {asked} was given. Use another folder."
            )
        compiled = self.study.recipe.compile
        return replace(
            self.study.recipe,
            precision=kept["precision"],
            compile=kept["compile"] if compiled == "auto" else compiled,
        )

    def _compiled(self, device: "torch.device") -> Literal["on", "off"]:
        """Whether compilation saves time in a whole training of the study on this device."""
        recipe = self.study.recipe
        steps = max(1, len(self.dataset.train) // recipe.batch_size) * recipe.epochs
        return "on" if compile_pays(recipe.compile, steps, device) else "off"

    def network(self, job: Job) -> dict[str, Any]:
        """Measure the dense network: its cost, and its removable blocks."""
        model = self.networks.build(job.model, 0)
        blocks = find_blocks(model, self.dataset.train.fetch(slice(2)).float())
        fields = ("name", "position", "stage", "macs", "params")
        return {
            "macs": blocks.macs,
            "params": blocks.params,
            "blocks": [{name: asdict(block)[name] for name in fields} for block in blocks],
        }

    def search(self, job: Job) -> dict[str, Any]:
        """Find what is trained in place of the dense network."""
        method, out = self.study.method(job.method), self.folder.search(job.name)
        _clear(out)
        recipe, dense = self.recipe, None
        if "dense" in job.needs:
            epochs = epochs_at(method.snapshot_points, recipe.epochs)
            dense = self.ensure(self.plan.jobs[job.needs["dense"]], snapshots=epochs)
        at = Search(
            networks=self.networks,
            model=job.model,
            dataset=self.dataset,
            given=self.study.batch,
            budget=None if job.budget is None else Budget(**job.budget),
            seed=int(job.seed or 0),
            recipe=recipe,
            out=out,
            draw=job.draw,
            dense=dense,
            reference=self._ticket(job.needs.get("reference")),
            train=functools.partial(self.train_round, job),
            where=self.where,
        )
        record = SEARCHES[method.kind](method, at)
        if "ticket" in record:
            found = Path(record["ticket"])
            record |= {"ticket": self._relative(found), "found": Ticket.load(found).digest}
        else:
            record["found"] = digest(record)
        if "runs" in record:
            record["runs"] = [self._relative(Path(run)) for run in record["runs"]]
        return record

    def _ticket(self, search: str | None) -> Path | None:
        """Return the folder of the ticket that a search found; None if it found no ticket."""
        record = None if search is None else self.folder.record(search)
        return (
            None
            if record is None or "ticket" not in record
            else self.folder.root / record["ticket"]
        )

    def _relative(self, path: Path) -> str:
        return path.resolve().relative_to(self.folder.root.resolve()).as_posix()

    def training(self, job: Job) -> Training:
        """Return the training of a row."""
        found = self.folder.record(job.needs["search"]) if "search" in job.needs else None
        found, ticket = found or {}, self._ticket(job.needs.get("search"))
        new = ticket is not None and self.study.method(job.method).new_weights
        if ticket is not None and not new and self.study.method(job.method).snapshot_points:
            self._ensure_start(job, Ticket.load(ticket).rewind_epoch)
        recipe = self.recipe.for_epochs(found.get("epochs", self.recipe.epochs))
        return self._planned(job, found.get("model", job.model), recipe, ticket, new=new)

    def _planned(
        self, job: Job, model: str, recipe: Recipe, ticket: Path | None, *, new: bool = False
    ) -> Training:
        """Plan a training in the folder of the study, from new weights or those of the ticket."""
        seed = int(job.seed or 0)
        return plan_training(
            self.networks,
            model,
            self.dataset if self.study.has_data else None,
            recipe,
            seed=seed,
            ticket=ticket,
            initialization="seed" if new else "ticket",
            initialization_seed=seed + NEW_WEIGHTS if new else None,
            trainings=self.folder.trainings,
            device=self.context.device,
            validation_fraction=self.study.validation_fraction if self.study.has_data else None,
            own=self.own_training(),
        )

    def _ensure_start(self, job: Job, epoch: int) -> None:
        """Make sure that the snapshot a ticket starts from exists: it is part of the name."""
        dense = self.plan.jobs[self.plan.jobs[job.needs["search"]].needs["dense"]]
        place = self.folder.training(str(self.folder.outcome(dense.name)))
        if epoch and not snapshot_path(place, epoch).exists():
            self._train(dense, self.training(dense), (epoch,))

    def own_training(self) -> tuple[Callable[..., Any], Mapping[str, Any]] | None:
        """Return the user's own training and its identity; None if a recipe is used."""
        fit = self.study.fit
        if not fit:
            return None
        function = function_of(fit) if isinstance(fit, str) else fit
        return function, callable_identity(fit, self.study.version)

    def _train(
        self,
        job: Job,
        training: Training,
        snapshots: tuple[int, ...] = (),
        *,
        weights: bool = False,
    ) -> tuple[Path, Result]:
        """Run a training in the folder of the study."""
        provenance = Provenance(
            command=self.context.command,
            workers=self.context.workers,
            jobs_beside=functools.partial(self.folder.jobs_beside, job.name),
        )
        return train(
            training,
            self.folder.trainings,
            snapshots=snapshots,
            weights=weights,
            where=self.where,
            provenance=provenance,
            tracking=replace(self.study.tracking, track_dir=self.context.tracking_dir),
        )

    def train(self, job: Job) -> dict[str, Any]:
        """Train the dense network, or the network that a search found."""
        training = self.training(job)
        epochs = 0 if self.study.fit else training.recipe.epochs - training.start.epoch
        begun = {"training": training.identity.name, "epochs": epochs}
        self.folder.begin_training(job.name, begun)
        dense = job.method == "dense" and not self.study.fit
        snapshots = epochs_at(self.study.snapshot_points, self.study.recipe.epochs)
        folder, _ = self._train(job, training, snapshots if dense else ())
        origin, inputs = training.identity.start.get("snapshot"), {}
        if origin is not None:
            known = Result.load(self.folder.training(origin["training"])).snapshots
            epoch = str(origin["epoch"])
            inputs = {origin["training"]: {epoch: known[epoch]}}
        return {"training": folder.name, "search": job.needs.get("search"), "inputs": inputs}

    def train_round(self, job: Job, ticket: Path) -> Path:
        """Train the ticket of one round of a search, as a training of the study."""
        training = self._planned(job, job.model, self.recipe, ticket)
        return self._train(job, training, weights=True)[0]

    def ensure(self, job: Job, *, snapshots: tuple[int, ...] = ()) -> Path:
        """Return the folder of the training of a row, with its weights and snapshots.

        If they were deleted, the training is run again.
        """
        record = self.folder.record(job.name)
        assert record is not None  # it comes before this job in the plan
        place = self.folder.training(record["training"])
        kept = {epoch for epoch in snapshots if snapshot_path(place, epoch).exists()}
        if (place / FIRST).exists():
            kept.add(read_config(place)["start_epoch"])
        if not kept.issuperset(snapshots) or not (place / WEIGHTS).exists():
            again, _ = self._train(job, self.training(job), snapshots, weights=True)
            if again != place:
                raise LayerticketError(
                    f"the weights of {place.name} are gone, and this version of layerticket names "
                    f"that training {again.name}. Run the study in a new folder."
                )
        return place

    def evaluate(self, job: Job) -> dict[str, Any]:
        """Evaluate a trained network, alone and against the dense one.

        Results are cached, so deleted weights are trained again only if a result is missing.
        """
        parts = [part for part in ("train", "dense") if part in job.needs]
        trained = [self.plan.jobs[job.needs[part]] for part in parts]
        places = [self.folder.training(str(self.folder.outcome(one.name))) for one in trained]
        try:
            return self._evaluated(*places)
        except WeightsGone:
            return self._evaluated(*(self.ensure(one) for one in trained))

    def _evaluated(self, place: Path, dense: Path | None = None) -> dict[str, Any]:
        """Evaluate the network of one training, and compare it with the dense one."""
        study, context = self.study, self.context
        record: dict[str, Any] = {"training": place.name, "results": {}, "similarity": None}
        record["inputs"] = {place.name: {"end": Result.load(place).weights}}
        if study.evaluate:
            conditions = study.conditions
            shifted = (*conditions.shift_dir, *context.shift_dirs)
            conditions = replace(conditions, shift_dir=shifted)
            record["results"] = evaluate_run(
                place,
                self.dataset,
                study.evaluate,
                networks=self.networks,
                conditions=conditions,
                device=context.device,
            )["results"]
        if dense is not None:
            record["inputs"][dense.name] = {"end": Result.load(dense).weights}
            if study.similarity:
                measure = functools.partial(similarity_of, self.dataset, self.networks)
                record["similarity"] = pair_figures("similarity", place, dense, measure)
            if study.timing:
                measure = functools.partial(
                    inference_of, self.dataset, self.networks, context.device
                )
                found = pair_figures("timing", place, dense, measure, context.device)
                record["results"]["timing"] = found
        return record


def _clear(out: Path) -> None:
    """Delete the files of an interrupted search; its trainings are in another folder.

    Raises:
        LayerticketError: If its folder has other files, which are not deleted.
    """
    rounds = out / ROUNDS
    for ticket in rounds.glob("ticket-*"):
        remove_written(ticket, TICKET_FILES)
    remove_written(rounds, ())
    if left := remove_written(out, (*TICKET_FILES, RECORD, BILL)):
        raise LayerticketError(
            f"{out} has {left[0]!r}, which does not belong to this study. Move it away; the search "
            "then starts again."
        )


def function_of(name: str) -> Callable[..., Any]:
    """Import `package.module:function`; the current folder is searched too.

    Raises:
        LayerticketError: If there is no such module or function.
    """
    module, _, function = name.partition(":")
    found = getattr(imported(module, f"fit {name!r}"), function, None)
    if not callable(found):
        raise LayerticketError(
            f"fit {name!r}: {module!r} has no function {function!r}. Write package.module:function."
        )
    return found  # type: ignore[no-any-return]  # whatever the module holds
