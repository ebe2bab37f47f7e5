"""Plan and run one training: named by what is trained, run once, resumed, recorded.

`layerticket train`, the rows of a study and the rounds of iterative pruning all use this module.
"""

import functools
import logging
import numbers
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError, TrainingError
from layerticket.evaluation.accuracy import judged, packed
from layerticket.evaluation.energy import metered
from layerticket.files import FolderInUse, exclusive, remove_written
from layerticket.lottery import start_of as resume_point_of
from layerticket.models.load import accepted, build_model
from layerticket.modules import preserved_random_state
from layerticket.settings import to_table
from layerticket.study.folder import RESULT
from layerticket.study.identity import (
    TrainingIdentity,
    callable_identity,
    data_identity,
    module_text,
    start_of,
)
from layerticket.study.record import (
    BILL,
    FIRST,
    REMOVED,
    RUN,
    WEIGHTS,
    Bill,
    Provenance,
    Removal,
    Result,
    check_owner,
    claim,
    energy_figures,
    environment,
    printed,
)
from layerticket.tensors import load_tensors, save_tensors, tensor_digest
from layerticket.ticket.ticket import Ticket, architecture_digest
from layerticket.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    ResumePoint,
    Snapshot,
    epochs_at,
    load_snapshot,
    snapshot_path,
)
from layerticket.training.device import Metering, Where, resolve_device, resolve_precision
from layerticket.training.distributed import DistributedOptions, Processes, processes
from layerticket.training.fit import check_network, fit
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers

FILES = (
    RUN, RESULT, BILL, REMOVED, METRICS, "evaluation.json", "pairs.json", "*.safetensors",
)  # fmt: skip
"""Every file of ours in the folder of a training."""
AGAIN = "again"  # folder of a training that is repeated because its weights were deleted
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Networks:
    """Builds networks by name, for given numbers of classes and channels."""

    classes: int
    channels: int
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Python functions, by name."""
    version: str = ""
    """Version of those functions, see `callable_identity`."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Networks":
        """Return the builder for a data set."""
        return cls(classes=dataset.classes, channels=dataset.shape[0])

    def build(self, name: str, seed: int) -> nn.Module:
        """Build a network with weights drawn by a seed."""
        function = self.functions.get(name)
        if function is None:
            return build_model(name, classes=self.classes, channels=self.channels, seed=seed)
        offered = {"num_classes": self.classes, "in_channels": self.channels, "seed": seed}
        with preserved_random_state(seed):
            built = function(**accepted(function, offered, name))
        if not isinstance(built, nn.Module):
            raise LayerticketError(
                f"{name!r} returned a {type(built).__name__}; it must return a torch.nn.Module."
            )
        return built

    def identity(self, name: str) -> dict[str, Any]:
        """Return the identity of the function that builds a network."""
        return callable_identity(self.functions.get(name, name), self.version)

    def draws(
        self, name: str, removal: Removal | None, seeds: Iterable[int], built: nn.Module
    ) -> dict[int, Callable[[], nn.Module]]:
        """Return, by seed, how to draw the initial weights; empty if they are loaded, not drawn.

        A user's function is called twice and must give the same weights.

        Args:
            name: Name of the network.
            removal: What is removed from it; None: nothing.
            seeds: Seeds, at least one.
            built: The dense network of the first of these seeds.

        Raises:
            LayerticketError: If a function gives different weights for the same seed.
        """
        first, *others = dict.fromkeys(seeds)

        def small(seed: int) -> nn.Module:
            dense = built if seed == first else self.build(name, seed)
            return dense if removal is None else removal.apply(dense)

        asked: dict[int, Callable[[], nn.Module]] = {
            seed: functools.partial(small, seed) for seed in (first, *others)
        }
        # Options and functions may load weights, as `hf:FOLDER,weights=True` does.
        if name in self.functions or "," in name or module_text(name) is not None:
            one, two, other = (self.build(name, s) for s in (first, first, first + 1))
            if tensor_digest(one.state_dict()) != tensor_digest(two.state_dict()):
                raise LayerticketError(
                    f"{name!r} gives different weights for the same random seed. Draw all weights "
                    "with the random numbers of torch, NumPy or Python."
                )
            drawn = zip(one.parameters(), other.parameters(), strict=True)
            if any(a.ndim > 1 and torch.equal(a, b) for a, b in drawn):
                return {}
        return asked


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Training:
    """One training, ready to run."""

    identity: TrainingIdentity
    build: Callable[[], nn.Module]
    """Builds the network with its initial weights."""
    first: str
    """Digest of those weights."""
    removal: Removal | None
    dataset: Dataset | None
    recipe: Recipe
    seed: int
    start: ResumePoint = ResumePoint()  # noqa: RUF009 - frozen
    config: Mapping[str, Any]
    """Readable description, written to ``run.json``."""
    fit: Callable[..., Any] | None = None
    """The user's own training; None: train by the recipe."""
    bill: Bill | None = None
    """Cost of finding its ticket; None: not known."""


def plan_training(
    networks: Networks,
    model: str,
    dataset: Dataset | None,
    recipe: Recipe,
    *,
    seed: int,
    ticket: Path | None = None,
    initialization: Literal["ticket", "seed"] = "ticket",
    initialization_seed: int | None = None,
    trainings: Path | None = None,
    device: str = "auto",
    distributed: DistributedOptions = DistributedOptions(),  # noqa: B008 - frozen
    count: int = 1,
    validation_fraction: float | None = None,
    own: tuple[Callable[..., Any], Mapping[str, Any]] | None = None,
) -> Training:
    """Plan a training of the dense network, or of a ticket or baseline, and compute its name.

    Args:
        networks: Builds the dense network.
        model: Its name.
        dataset: Images to train, validate and test on.
        recipe: How to train.
        seed: Seed of the dense theta_0, and of order and augmentation of the images.
        ticket: Folder of a ticket or baseline to train in place of the dense network.
        initialization: Initial weights of a ticket. `ticket`: its own theta_0, or theta_i, from
            which the schedule continues. `seed`: random weights, trained for all epochs (Liu et
            al., "Rethinking the Value of Network Pruning", ICLR 2019).
        initialization_seed: Seed of those random weights; None: `seed`.
        trainings: Folder that may contain the training whose snapshot a ticket starts from.
        device: "auto", "cpu", "cuda" or "cuda:N".
        distributed: Options for several processes.
        count: Number of processes that train together.
        validation_fraction: Recorded, so that the same data can be loaded again.
        own: The user's own training and its identity.

    Raises:
        LayerticketError: If an argument is invalid.
    """
    found = None if ticket is None else Ticket.load(ticket)
    drawn = seed if initialization_seed is None else initialization_seed
    start = _start(found, recipe, initialization, initialization_seed, drawn)
    removal = None if found is None else Removal.of(found)
    dense = networks.build(model, drawn)
    source: Literal["ticket", "model"] = "ticket" if initialization == "ticket" else "model"

    def start_from(built: nn.Module) -> nn.Module:
        return built if found is None else found.apply(built, initialization=source)

    seeds = [drawn]
    if found is not None and found.seed is not None and initialization == "ticket":
        seeds.append(found.seed)
    origin = None if found is None or found.origin is None else found.origin.run
    first = start_from(dense)
    named = start_of(
        first,
        epoch=start.epoch,
        optimizer=start.optimizer,
        average=start.average,
        draws=networks.draws(model, removal, seeds, dense) if not start.epoch else {},
        model=networks.identity(model),
        origin=trainings / origin if trainings is not None and origin else None,
        smaller=lambda weights: _with_weights(networks.build(model, drawn), weights, removal),
    )
    precision = resolve_precision(recipe.precision, resolve_device(device))
    by_recipe = own is None and dataset is not None
    identity = TrainingIdentity(
        network=architecture_digest(dense),
        start=named,
        removed=None if removal is None else removal.identity,
        recipe=recipe.identity(asdict(dataset.augment), precision)
        if by_recipe and dataset is not None
        else None,
        seed=seed,
        data=None if dataset is None else data_identity(dataset),
        fit=None if own is None else own[1],
        processes=count,
        sync_batch_norm=distributed.sync_batch_norm and count > 1,
    )
    config = {
        "model": model,
        "data": None if dataset is None else dataset.name,
        "data_fingerprint": None if dataset is None else dataset.fingerprint,
        "validation_fraction": validation_fraction,
        "image_size": None
        if dataset is None or dataset.image_size is None
        else list(dataset.image_size),
        "value_range": None if dataset is None else list(dataset.value_range),
        "removed": None if removal is None else removal.identity,
        "start": named,
        "start_epoch": start.epoch,
        "recipe": to_table(recipe) if by_recipe else None,
        "seed": seed,
        "initialization_seed": drawn,
        "ticket": None if ticket is None else str(Path(ticket).resolve()),
    }
    digest = tensor_digest(first.state_dict())
    if own is None and dataset is not None:
        check_network(first, dataset)  # last, since a forward pass may change buffers
    return Training(
        identity=identity,
        build=lambda: start_from(networks.build(model, drawn)),
        first=digest,
        removal=removal,
        dataset=dataset,
        recipe=recipe,
        seed=seed,
        start=start,
        config=config,
        fit=None if own is None else own[0],
        bill=Bill.of_ticket(ticket),
    )


def _with_weights(
    dense: nn.Module, weights: Mapping[str, Tensor], removal: Removal | None
) -> nn.Module | None:
    """Return the smaller network with the weights of a snapshot; None if they do not fit."""
    if dense.state_dict().keys() != weights.keys():
        return None
    dense.load_state_dict(dict(weights))
    return dense if removal is None else removal.apply(dense)


def _start(
    found: Ticket | None, recipe: Recipe, initialization: str, given: int | None, drawn: int
) -> ResumePoint:
    """Return where training starts; raise if weights are not new or the schedule differs."""
    if found is None:
        return ResumePoint()
    if initialization == "seed":
        if drawn == found.seed:
            raise LayerticketError(
                f"seed {drawn} gives the ticket's own theta_0, not new weights. Use another seed: "
                f"--init-seed {drawn + 1}."
            )
        return ResumePoint()
    if given is not None:
        raise LayerticketError(
            "an initialization seed is given, but the ticket starts from its own weights. "
            "Add --initialization seed to draw new ones, or leave the seed out."
        )
    if found.origin and found.rewind_epoch:
        known, facts = Recipe(**found.origin.recipe).facts(), recipe.facts()
        if odd := [name for name in known if known[name] != facts.get(name)]:
            raise LayerticketError(
                f"the ticket starts at epoch {found.rewind_epoch} of {found.origin.run}, whose "
                f"recipe has {odd[0]} {known[odd[0]]!r}, but {facts[odd[0]]!r} was given. Give "
                "the recipe of that run."
            )
    return resume_point_of(found)


def train(
    training: Training,
    out: Path,
    *,
    snapshots: Iterable[int] = (),
    weights: bool = False,
    where: Where = Where(),  # noqa: B008 - frozen
    provenance: Provenance = Provenance(),  # noqa: B008 - frozen
    distributed: DistributedOptions = DistributedOptions(),  # noqa: B008 - frozen
    tracking: Trackers = Trackers(),  # noqa: B008 - frozen
) -> tuple[Path, Result]:
    """Run or resume a training, or return its result if it has finished.

    With several processes, all of them call this; process 0 locks the folder, tests and writes. A
    finished training is repeated if required weights or snapshots were deleted; if it ends with
    other weights, its new record replaces the old one.

    Args:
        training: From `plan_training`.
        out: Folder of all trainings; this one gets a folder with its name.
        snapshots: Epochs whose weights and optimizer state are required.
        weights: Whether the final weights are required.
        where: Device, progress bar and energy metering.
        provenance: Command and study that started it.
        distributed: Options for several processes.
        tracking: Trackers that receive the curves.

    Returns:
        Its folder and its result.

    Raises:
        LayerticketError: If the folder is in use, damaged or belongs to another training, or an
            argument is invalid.
        TrainingError: If training fails.
    """
    folder, wanted = Path(out) / training.identity.name, sorted(frozenset(snapshots))
    with processes(where.device) as group:
        _agree(group, training.identity, where.metering)

        def finished() -> Result | None:
            if not (folder / RESULT).exists():
                return None
            if _is_outdated(folder, training):
                return None
            there = all(snapshot_path(folder, epoch).exists() for epoch in wanted)
            there = there and ((folder / WEIGHTS).exists() or not weights)
            if not there:
                return None
            if (folder / CHECKPOINT).exists():  # killed between the result and its removal
                with suppress(FolderInUse), exclusive(folder):
                    (folder / CHECKPOINT).unlink(missing_ok=True)
            return Result.load(folder)

        if (result := group.on_rank0(finished)) is not None:
            return folder, result
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        with ExitStack() as stack:
            stack.enter_context(group.enter_on_rank0(exclusive(folder)))
            stack.enter_context(_leaving_nothing_refused(folder, () if group.rank else missing))
            if (result := group.on_rank0(finished)) is not None:
                return folder, result  # finished by another process while we waited
            group.on_rank0(lambda: _clear_outdated(folder, training))
            before = group.on_rank0(
                lambda: Result.load(folder) if (folder / RESULT).exists() else None
            )
            place = folder if before is None else folder / AGAIN
            model = training.build()
            group.on_rank0(lambda: _claim(place, training, model, provenance, where.device))
            group.on_rank0(lambda: _restart_if_missed(place, wanted))
            with metered(where) as (meter, method):
                options: dict[str, Any] = {
                    "where": where,
                    "meter": meter,
                    "snapshot_epochs": wanted,
                    "trackers": tracking if before is None else Trackers(),  # has its curve
                    "distributed": distributed,
                }
                found = _trained(training, model, place, group, method, options)
            found = replace(
                found,
                environment=environment(where.device),
                workers=provenance.workers,
                jobs_beside=provenance.jobs_beside(),
            )
            result = group.on_rank0(lambda: _close(folder, place, before, found))
        return folder, result


@contextmanager
def _leaving_nothing_refused(folder: Path, new: Sequence[Path]) -> Iterator[None]:
    """Remove the folder of a training that is refused before its first checkpoint, if it is new.

    Call it while the folder is locked: another process may be waiting to train there.

    Args:
        folder: Folder of the training.
        new: This folder and those above it that did not exist before.
    """
    try:
        yield
    except LayerticketError:
        if folder in new:
            if not (folder / CHECKPOINT).exists():
                remove_written(folder, FILES)
            for parent in new[1:]:
                with suppress(OSError):  # another training has come into it
                    parent.rmdir()
        raise


def _is_outdated(folder: Path, training: Training) -> bool:
    """Whether the training started from a snapshot that was replaced later."""
    record = check_owner(folder, training.identity)
    return "snapshot" in training.identity.start and record["first"] != training.first


def _clear_outdated(folder: Path, training: Training) -> None:
    """Delete a training that started from a snapshot that was replaced later."""
    if (folder / RUN).exists() and _is_outdated(folder, training):
        log.warning("%s started from weights that were replaced; it is trained again.", folder)
        remove_written(folder / AGAIN, FILES)
        for path in folder.iterdir():
            if path.is_file() and any(path.match(pattern) for pattern in FILES):
                path.unlink()


def _claim(
    place: Path, training: Training, model: nn.Module, provenance: Provenance, device: str
) -> None:
    """Create the folder of a training: ``run.json``, the removal, the initial weights."""
    place.mkdir(parents=True, exist_ok=True)
    if (place / CHECKPOINT).exists() and not (place / RUN).exists():
        raise LayerticketError(f"{place} has a checkpoint but no {RUN}. Delete the folder.")
    claim(place, training.identity, training.config, training.first, provenance, device)
    if not (place / FIRST).exists():
        if training.removal is not None:
            training.removal.save(place)
        save_tensors(place / FIRST, model.state_dict(), {})


def _restart_if_missed(place: Path, wanted: Iterable[int]) -> None:
    """Delete the checkpoint if it is past an epoch whose snapshot is required and missing."""
    path = place / CHECKPOINT
    if not path.exists():
        return
    reached = load_tensors(path)[1]["state"]["epoch"]
    missed = [
        epoch for epoch in wanted if epoch <= reached and not snapshot_path(place, epoch).exists()
    ]
    if missed:
        log.warning(
            "%s is past epoch %d, whose snapshot is now required; it restarts from the beginning.",
            place,
            missed[0],
        )
        path.unlink()


def _agree(group: Processes, identity: TrainingIdentity, metering: Metering) -> None:
    """Raise if processes were given different trainings, or energy that they cannot measure."""
    group.agree({"run": identity.name}, "Give every process the same command.")
    if group.count > 1 and metering.wanted:
        raise group.on_every_rank(
            LayerticketError(
                f"energy can be metered for one process only, but {group.count} train together. "
                "Leave out the energy options: the energy is then null."
            )
        )


def _trained(
    training: Training,
    model: nn.Module,
    place: Path,
    group: Processes,
    method: str | None,
    options: dict[str, Any],
) -> Result:
    """Train, test once, and save the weights."""
    if training.fit is not None:
        return _fitted_by_user(training, model, place, method, options)
    dataset, recipe = training.dataset, training.recipe
    assert dataset is not None  # else it is the user's own training
    judge = {"dataset": dataset, "precision": recipe.precision, "device": options["where"].device}
    fitted = fit(
        model,
        dataset,
        recipe,
        seed=training.seed,
        folder=place,
        identity={"training": training.identity.name},
        start=training.start,
        validate=(lambda network: judged(network, split=dataset.validation, **judge).accuracy)
        if len(dataset.validation)
        else None,
        **options,
    )
    tested = group.on_rank0(lambda: judged(model, split=dataset.test, **judge))
    group.on_rank0(lambda: save_tensors(place / WEIGHTS, model.state_dict(), {}))
    return Result(
        test_accuracy=tested.accuracy,
        validation_accuracy=fitted.validation_accuracy,
        correct=tested.correct,
        epochs=fitted.epochs,
        train_seconds=fitted.train_seconds,
        images_per_second=fitted.images_per_second,
        peak_memory_bytes=fitted.peak_memory_bytes,
        params=sum(parameter.numel() for parameter in model.parameters()),
        precision=fitted.precision,
        device=fitted.device,
        data_wait_share=fitted.data_seconds / fitted.train_seconds,
        processes=fitted.processes,
        weights=tensor_digest(model.state_dict()),
        snapshots=_snapshots(place),
        environment={},
        **energy_figures(fitted.energy, method, options["where"].metering),
    )


def _snapshots(place: Path) -> dict[str, str]:
    """Return the digests of the snapshots in a folder, by epoch."""
    epochs = sorted(int(path.stem.removeprefix("epoch-")) for path in place.glob("epoch-*"))
    found = {}
    for epoch in epochs:
        kept: Snapshot = load_snapshot(place, epoch)
        tensors = {f"model/{k}": v for k, v in kept.weights.items()}
        found[str(epoch)] = tensor_digest(
            tensors | {f"optimizer/{k}": v for k, v in kept.optimizer.items()}
        )
    return found


def _close(folder: Path, place: Path, before: Result | None, result: Result) -> Result:
    """Write the result of a finished training; move a repeated one into its folder."""
    if before is not None:
        same = result.weights == before.weights and all(
            before.snapshots.get(epoch, found) == found for epoch, found in result.snapshots.items()
        )
        if not same:
            log.warning(
                "%s ended with other weights than the first time. Its record is replaced, and "
                "everything that depends on it is run again.",
                folder,
            )
        kept = result.snapshots if not same else {**before.snapshots, **result.snapshots}
        result = replace(before if same else result, snapshots=kept)
        if not same:  # first, so that a record never lies next to weights of the other
            for path in (folder / WEIGHTS, *folder.glob("epoch-*")):
                path.unlink(missing_ok=True)
            result.save(folder)
        for path in place.iterdir():
            wanted = not same or path.name == WEIGHTS or path.name.startswith("epoch-")
            if wanted and path.is_file() and path.name != ".lock":
                path.replace(folder / path.name)
        remove_written(place, FILES)
    result.save(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _fitted_by_user(
    training: Training,
    model: nn.Module,
    place: Path,
    method: str | None,
    options: Mapping[str, Any],
) -> Result:
    """Train by the user's own function, which returns an accuracy or a dictionary with one."""
    assert training.fit is not None
    meter = options["meter"]
    before = tensor_digest(dict(model.named_parameters()))
    begun = time.perf_counter()
    with preserved_random_state(training.seed):
        returned = training.fit(model, training.seed, place)
    seconds = time.perf_counter() - begun
    figures = dict(returned) if isinstance(returned, Mapping) else {"accuracy": returned}
    accuracy_ = figures.pop("accuracy", figures.pop("test_accuracy", None))
    if isinstance(accuracy_, bool) or not isinstance(accuracy_, numbers.Real):
        raise TrainingError(
            f"fit returned {returned!r}; it must return an accuracy, or a dictionary with the "
            "key 'accuracy'."
        )
    if not 0 <= float(accuracy_) <= 1:  # also if it is not a number
        raise TrainingError(
            f"fit returned the accuracy {accuracy_!r}; it must be in [0, 1]. Give a fraction, not "
            "percent."
        )
    correct = figures.pop("correct", None)
    if correct is not None and not isinstance(correct, str):
        correct = packed(torch.as_tensor(correct, dtype=torch.bool))
    if correct is not None and not re.fullmatch("([0-9a-f]{2})*", correct):
        raise TrainingError(
            f"fit returned correct {correct[:20]!r}; it must be True or False for each test image, "
            "or two digits of 0-9a-f for every eight images."
        )
    save_tensors(place / WEIGHTS, model.state_dict(), {})
    return Result(
        test_accuracy=float(accuracy_),
        correct=correct,
        train_seconds=seconds,
        params=sum(parameter.numel() for parameter in model.parameters()),
        weights=tensor_digest(model.state_dict()),
        snapshots={},
        environment={},
        figures=to_table(figures) or None,
        parameters_unchanged=tensor_digest(dict(model.named_parameters())) == before,
        **energy_figures(None if meter is None else meter.lap(), method, options["where"].metering),
    )


def train_network(
    model: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    ticket: Path | None = None,
    initialization: Literal["ticket", "seed"] = "ticket",
    initialization_seed: int | None = None,
    snapshots: str | Iterable[str | int] = (),
    validation_fraction: float = 0.1,
    where: Where = Where(),  # noqa: B008 - frozen
    provenance: Provenance = Provenance(),  # noqa: B008 - frozen
    distributed: DistributedOptions = DistributedOptions(),  # noqa: B008 - frozen
    tracking: Trackers = Trackers(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Train a dense network, a ticket or a baseline, in its own folder inside `out`.

    Args:
        model: Name of the dense network.
        dataset: What to train, validate and test on.
        recipe: How to train.
        seed: Seed of the dense theta_0, and of order and augmentation of the images.
        out: Folder of all trainings.
        ticket: Folder of a ticket or baseline to train in place of the dense network.
        initialization: "ticket" or "seed", see `plan_training`.
        initialization_seed: Seed of new random weights; None: `seed`.
        snapshots: Epochs whose weights and optimizer state are saved, see `epochs_at`.
        validation_fraction: Share `dataset` was loaded with.
        where: Device, progress bar and energy metering.
        provenance: Command line to record.
        distributed: Options for several processes.
        tracking: Trackers that curves are sent to.

    Returns:
        What `layerticket train --json` prints.

    Raises:
        LayerticketError: If an argument is invalid.
        TrainingError: If training fails.
    """
    with processes(where.device) as group:
        training = plan_training(
            Networks.of(dataset),
            model,
            dataset,
            recipe,
            seed=seed,
            ticket=ticket,
            initialization=initialization,
            initialization_seed=initialization_seed,
            trainings=Path(out),
            device=where.device,
            distributed=distributed,
            count=group.count,
            validation_fraction=validation_fraction,
        )
        folder, result = train(
            training,
            out,
            snapshots=epochs_at(snapshots, recipe.epochs),
            where=where,
            provenance=provenance,
            distributed=distributed,
            tracking=tracking,
        )
        return printed(folder, result, training.bill, where.metering)
