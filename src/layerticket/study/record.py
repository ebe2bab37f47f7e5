"""The step of a study by name: train a run.

What enters is what a person types or a study file holds: names, folders, a recipe, a seed. What
leaves is JSON values, as the command line prints them.
"""

import functools
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import judged
from layerticket.evaluation.energy import Metering, carbon_kg, metered
from layerticket.files import canonical_json, digest, exclusive, read_json, write_atomically
from layerticket.models.load import build_model
from layerticket.ticket.ticket import Ticket
from layerticket.training.checkpoint import CHECKPOINT, Start, epochs_at, require_kept, save_weights
from layerticket.training.device import Energy, resolve_device
from layerticket.training.distributed import Processes, Spread, processes
from layerticket.training.fit import FitResult, fit
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Tracking


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides how a run ends; each field is part of its hash."""

    model: str
    """Network by name."""
    data: str
    """Data set by name."""
    data_fingerprint: str
    """SHA-256 over all images and labels."""
    validation_fraction: float
    """Share of the training images set aside, in [0, 1)."""
    ticket: str = ""
    """SHA-256 of the ticket; empty for the dense network."""
    initialization: str = "seed"
    """Where the first weights come from: `ticket`, `seed` (drawn from the seed below), or `seed N`
    (drawn from N, so that the order of the images is as in the runs it is compared with)."""
    start_epoch: int = 0
    """Epochs of the schedule that lie behind when training begins; above 0 for a rewound ticket."""
    recipe: Recipe = field(default_factory=Recipe)
    """How it is trained."""
    seed: int = 0
    """Seed of initialization, shuffling, augmentation and dropout; 0 or more."""
    schema: int = 1
    """Version of this list of fields."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "validation_fraction", float(self.validation_fraction))
        if not 0 <= self.validation_fraction < 1:
            raise LayerticketError(
                f"validation_fraction is {self.validation_fraction}, but it must be in [0, 1)."
            )
        if not 0 <= self.start_epoch < self.recipe.epochs:
            raise LayerticketError(
                f"start_epoch is {self.start_epoch}, but it must be below the "
                f"{self.recipe.epochs} epochs of the recipe and 0 or more."
            )
        if self.seed < 0:
            raise LayerticketError(f"seed is {self.seed}, but it must be 0 or more.")

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return digest(asdict(self))

    @property
    def name(self) -> str:
        """Name of the run's folder: readable, and as unique as 48 bits of the hash."""
        kind = f"ticket-{self.ticket[:6]}" if self.ticket else "dense"
        readable = f"{self.model}-{self.data}-{kind}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', readable)}-{self.digest[:12]}"


def environment(device: str = "auto") -> dict[str, Any]:
    """Describe the software and the hardware that decide how fast and how exactly a run goes.

    Args:
        device: As in `layerticket.training.fit.fit`.

    Returns:
        Versions, platform, CPU, threads of torch, and the GPU (None when the CPU is used).

    Raises:
        LayerticketError: If the device is absent.
    """
    where = resolve_device(device)
    return {
        "layerticket": version("layerticket"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "accelerate": version("accelerate"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(where) if where.type == "cuda" else None,
    }


def _cpu() -> str:
    """Name of the processor, with what torch makes of it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


RUN, RESULT, WEIGHTS = "run.json", "result.json", "model.safetensors"

RESULT_KEYS = (
    "run",
    "test_accuracy",
    "validation_accuracy",
    "epochs",
    "train_seconds",
    "images_per_second",
    "energy_kwh",
    "co2_kg",
    "peak_memory_bytes",
    "params",
    "precision",
    "device",
    "data_wait_share",
    "energy",
    "energy_method",
    "processes",
)
# Not in runs finished before these were measured, where they read as null.
LATER_KEYS = ("data_wait_share", "energy", "energy_method", "processes")


def find_result(config: RunConfig, out: Path) -> dict[str, Any] | None:
    """Look up a finished run without loading data or building networks.

    Args:
        config: The run.
        out: Folder of all runs.

    Returns:
        Its result, or None if the run is not finished.

    Raises:
        LayerticketError: If its folder is damaged or another run's.
    """
    folder = Path(out) / config.name
    if not (folder / RESULT).exists():
        return None
    _check_owner(folder, config)
    return load_result(folder)


def load_result(folder: Path) -> dict[str, Any]:
    """Read what a finished run ended with.

    Args:
        folder: Folder of the run, wherever it lies now.

    Returns:
        The keys of `RESULT_KEYS`; "run" is the folder as given.

    Raises:
        LayerticketError: If the run is not finished, or its result is damaged.
    """
    folder = Path(folder)
    if not (folder / RESULT).exists():
        raise LayerticketError(
            f"{folder} holds no {RESULT}: it is no run, or not finished. Train it to the end."
        )
    result = read_json(folder / RESULT)
    result = dict.fromkeys(LATER_KEYS) | result
    odd = sorted(set(RESULT_KEYS) ^ result.keys())
    if odd:
        raise LayerticketError(
            f"{folder / RESULT} is damaged or foreign: key {odd[0]!r} is missing or unknown. "
            "Delete the folder and train again."
        )
    return {key: result[key] for key in RESULT_KEYS} | {"run": str(folder)}


def claim(folder: Path, config: RunConfig, device: str, command: str, processes: int = 1) -> None:
    """Write ``run.json``, or check that it is ours and note that the run was resumed."""
    session = {
        "environment": environment(device),
        "command": command,
        "processes": processes,
    }
    path = folder / RUN
    if path.exists():
        record = _check_owner(folder, config)
        record["resumed"] = [*record.get("resumed", []), session]
    else:
        if (folder / CHECKPOINT).exists():
            raise LayerticketError(f"{folder} holds a checkpoint but no {RUN}. Delete the folder.")
        record = {"config": asdict(config), **session}
    write_atomically(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def _check_owner(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Read ``run.json`` and refuse a folder of another run."""
    record = read_json(folder / RUN)
    if canonical_json(record.get("config")) != canonical_json(asdict(config)):
        raise LayerticketError(
            f"{folder} belongs to another run. Choose another folder, or delete this one."
        )
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON object for people and programs to read."""
    write_atomically(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


SEARCH = "search.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchBill:
    """What finding a ticket took; that of a dense network is nothing at all."""

    seconds: float | None = 0.0
    """Wall-clock time; None when it was not measured."""
    kwh: float | None = 0.0
    """Energy; None when it was not metered."""
    method: str | None = None
    """How the energy was metered."""

    def save(self, ticket: Path) -> None:
        """Leave the bill in the folder of the ticket."""
        write_record(ticket / SEARCH, asdict(self))

    def plus(self, other: "SearchBill") -> "SearchBill":
        """Add what came after; what one of the two lacks is lacking in the sum."""
        return SearchBill(
            seconds=_sum(self.seconds, other.seconds),
            kwh=_sum(self.kwh, other.kwh),
            method=other.method,
        )

    @classmethod
    def of(cls, ticket: Path | None) -> "SearchBill":
        """Read the bill of a ticket; nothing for no ticket, unknown for one without a bill."""
        if ticket is None:
            return cls()
        if not (ticket / SEARCH).exists():
            return cls(seconds=None, kwh=None)
        return cls(**read_json(ticket / SEARCH))


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def energy_bill(
    energy: Mapping[str, float | None] | None,
    search: SearchBill,
    metering: Metering | None,
    method: str | None,
) -> dict[str, Any]:
    """Put the energy figures of a run together.

    Args:
        energy: Energy of training and validation by part; None when it was not metered.
        search: What finding the ticket took.
        metering: States the carbon intensity.
        method: How the energy was metered.

    Returns:
        energy_kwh and co2_kg (training and search), energy (their parts), energy_method; None for
        what was not measured.

    Example:
        >>> energy_bill({"cpu_kwh": 1.0}, SearchBill(kwh=0.5), None, "counter")["energy_kwh"]
        1.5
    """
    train = None if energy is None else Energy(**energy).kwh
    total = _sum(train, search.kwh)
    parts = None if energy is None else {**energy, "train_kwh": train, "search_kwh": search.kwh}
    return {
        "energy_kwh": total,
        "co2_kg": carbon_kg(total, metering),
        "energy": parts,
        "energy_method": method if energy is not None else None,
    }


def execute(
    config: RunConfig,
    *,
    dataset: Dataset,
    build: Callable[[], nn.Module],
    out: Path,
    start: Start = Start(),  # noqa: B008 - frozen
    keep_epochs: Iterable[int] = (),
    device: str = "auto",
    progress: bool = True,
    command: str = "",
    metering: Metering | None = None,
    search: SearchBill = SearchBill(),
    spread: Spread = Spread(),  # noqa: B008 - frozen
    tracking: Tracking = Tracking(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Do a run, go on with it, or return what it ended with long ago.

    In several processes all of them call this; process 0 holds the folder, tests and writes.

    Args:
        config: The run.
        dataset: The data that the config names by fingerprint.
        build: Makes the network with its first weights; called only when there is work to do.
        out: Folder of all runs; the run's own folder in it is named by the config.
        start: Epoch and optimizer to begin with; the config tells the same epoch.
        keep_epochs: Epochs whose state stays in the folder; not part of the run's hash, since it
            changes nothing in the run.
        device: "auto", "cpu", "cuda" or "cuda:N"; not part of the run's hash.
        progress: Whether a progress bar is drawn on stderr.
        command: Command line to be noted in ``run.json``.
        metering: What the user states about energy; by default it is not metered.
        search: What finding the trained ticket took; it is part of the run's bill.
        spread: Choices for several processes; like their number, not part of the run's hash.
        tracking: Trackers that curves are sent to; not part of the run's hash.

    Returns:
        The keys of ``RESULT_KEYS`` in `record`; accuracies as fractions, None for what was not
        measured.

    Raises:
        LayerticketError: If the data or the start are not those of the config, the folder is in
            use, damaged or another run's, a finished run did not keep the epochs asked for, or
            processes were given different runs.
        TrainingError: If training fails.
    """
    if dataset.fingerprint != config.data_fingerprint:
        raise LayerticketError(
            f"the data have fingerprint {dataset.fingerprint[:12]}, but the run is about "
            f"{config.data_fingerprint[:12]}. Load the data that the run was set up with."
        )
    if start.epoch != config.start_epoch:
        raise LayerticketError(
            f"training is to start at epoch {start.epoch}, but the run is about "
            f"{config.start_epoch}. Set the run up with the epoch it starts at."
        )
    folder, keep = Path(out) / config.name, frozenset(keep_epochs)
    with processes(device) as team:
        _agree(team, config, metering)
        look = functools.partial(_finished, config, out, keep)
        if (finished := team.first(look)) is not None:
            return finished
        with team.holding(exclusive(folder)):
            if (finished := team.first(look)) is not None:
                return finished  # by another while we got here
            team.first(lambda: claim(folder, config, device, command, team.count))
            how: dict[str, Any] = {"start": start, "keep_epochs": keep, "device": device}
            with metered(metering, device) as (meter, method):
                how |= {"progress": progress, "meter": meter, "spread": spread}
                train = functools.partial(fit, tracking=tracking, **how)
                result = _train(config, dataset, build(), folder, device, train, team)
            result |= energy_bill(result["energy"], search, metering, method)
            team.first(lambda: _close(folder, result))
            return result


def _agree(team: Processes, config: RunConfig, metering: Metering | None) -> None:
    """Refuse processes that were given different runs, and what they cannot measure."""
    team.agree({"run": config.digest}, "Give every process the same command.")
    if team.count > 1 and metering is not None and metering.wanted:
        raise team.echoed(
            LayerticketError(
                f"energy is metered in one process, but {team.count} train together. Leave out "
                "the energy options: the figures are null then."
            )
        )


def _close(folder: Path, result: dict[str, Any]) -> None:
    """Write down that the run is finished."""
    write_record(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _finished(config: RunConfig, out: Path, keep: frozenset[int]) -> dict[str, Any] | None:
    """Look up a finished run, and refuse one that lacks what was to be kept."""
    result = find_result(config, out)
    if result is not None:
        require_kept(Path(out) / config.name, sorted(keep))
    return result


def _train(
    config: RunConfig,
    dataset: Dataset,
    model: nn.Module,
    folder: Path,
    device: str,
    train: Callable[..., FitResult],
    team: Processes,
) -> dict[str, Any]:
    """Train, test once, and leave the weights."""
    judge = functools.partial(
        judged, dataset=dataset, precision=config.recipe.precision, device=device
    )
    watched = len(dataset.validation) > 0
    fitted = train(
        model,
        dataset,
        config.recipe,
        seed=config.seed,
        folder=folder,
        validate=(lambda m: judge(m, split=dataset.validation).accuracy) if watched else None,
    )
    tested = team.first(lambda: judge(model, split=dataset.test).accuracy)
    team.first(lambda: save_weights(folder / WEIGHTS, model))
    return _result(folder, model, fitted, tested)


def _result(folder: Path, model: nn.Module, fitted: FitResult, tested: float) -> dict[str, Any]:
    """Put the figures of a run together."""
    return {
        "run": str(folder),
        "test_accuracy": tested,
        "validation_accuracy": fitted.validation_accuracy,
        "epochs": fitted.epochs,
        "train_seconds": fitted.train_seconds,
        "images_per_second": fitted.images_per_second,
        "energy_kwh": None,
        "co2_kg": None,
        "peak_memory_bytes": fitted.peak_memory_bytes,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "precision": fitted.precision,
        "device": fitted.device,
        "data_wait_share": fitted.data_seconds / fitted.train_seconds,
        "energy": None if fitted.energy is None else asdict(fitted.energy),
        "energy_method": None,
        "processes": fitted.processes,
    }


TICKET = "ticket"


def build_named(model: str, dataset: Dataset, seed: int) -> nn.Module:
    """Build a network by name for the classes and channels of a data set."""
    channels = dataset.shape[0]
    return build_model(model, classes=dataset.classes, channels=channels, seed=seed)


def train_run(
    model: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    ticket: Path | None = None,
    initialization: Literal["ticket", "seed"] = "ticket",
    initialization_seed: int | None = None,
    keep: str | Iterable[str | int] = (),
    validation_fraction: float = 0.1,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
    metering: Metering | None = None,
    spread: Spread = Spread(),  # noqa: B008 - frozen
    tracking: Tracking = Tracking(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Train a dense network, a ticket or a rival of one as a run of its own folder in `out`.

    Args:
        model: Name of the dense network.
        dataset: What to train, validate and test on.
        recipe: How to train.
        seed: Decides theta_0 of a dense network, order and augmentation of the images.
        out: Folder of all runs.
        ticket: Folder of a ticket, of layers or a rival, to train instead of the dense network.
        initialization: Where a ticket's first weights come from: `ticket`: its own theta_0, or
            theta_i, from where training goes on along the schedule; `seed`: random weights, trained
            for all epochs (Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019).
        initialization_seed: Draws those random weights; None: `seed`.
        keep: Epochs whose weights and optimizer are kept, see `epochs_at`.
        validation_fraction: Share `dataset` was loaded with; part of the run's identity.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether a progress bar is drawn on stderr.
        command: Command line to be noted in the run.
        metering: What the user states about energy; by default it is not metered.
        spread: Choices for a training in several processes.
        tracking: Trackers that curves are sent to.

    Returns:
        What `layerticket train --json` prints.

    Raises:
        LayerticketError: If anything given does not fit.
        TrainingError: If training fails.
    """
    found = None if ticket is None else Ticket.load(ticket)
    drawn = seed if initialization_seed is None else initialization_seed
    source: Literal["ticket", "model"] = "ticket" if initialization == "ticket" else "model"
    start = _start(found, recipe, initialization, initialization_seed, drawn)
    config = RunConfig(
        model=model,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        validation_fraction=validation_fraction,
        ticket="" if found is None else found.digest,
        initialization=_source(found, initialization, drawn, seed),
        start_epoch=start.epoch,
        recipe=recipe,
        seed=seed,
    )

    return execute(
        config,
        dataset=dataset,
        build=lambda: _first(model, dataset, drawn, found, source, Path(out) / config.name, device),
        out=out,
        start=start,
        keep_epochs=epochs_at(keep, recipe.epochs),
        device=device,
        progress=progress,
        command=command,
        metering=metering,
        search=SearchBill.of(ticket),
        spread=spread,
        tracking=tracking,
    )


def _first(
    model: str,
    dataset: Dataset,
    seed: int,
    found: Ticket | None,
    source: Literal["ticket", "model"],
    folder: Path,
    device: str,
) -> nn.Module:
    """Build the network to train; its ticket is left in the folder of the run."""
    dense = build_named(model, dataset, seed)
    if found is None:
        return dense
    with processes(device) as team:
        team.first(lambda: found.save(folder / TICKET))  # so that the run explains itself
    return found.apply(dense, initialization=source)


def _source(found: Ticket | None, initialization: str, drawn: int, seed: int) -> str:
    """Spell where the first weights come from, as `RunConfig` wants it."""
    if found is not None and initialization == "ticket":
        return "ticket"
    return "seed" if drawn == seed else f"seed {drawn}"


def _start(
    found: Ticket | None, recipe: Recipe, initialization: str, given: int | None, drawn: int
) -> Start:
    """Where training begins; refuses weights that are not new, and another schedule."""
    if found is None:
        return Start()
    if initialization == "seed":
        if drawn == found.seed:
            raise LayerticketError(
                f"seed {drawn} drew the ticket's own theta_0, so these weights would not be new. "
                f"Draw others: --init-seed {drawn + 1}."
            )
        return Start()
    if given is not None:
        raise LayerticketError(
            "an initialization seed is given, but the ticket starts at its own weights. "
            "Add --initialization seed to draw new ones, or leave the seed out."
        )
    if found.origin and found.rewind_epoch and Recipe(**found.origin.recipe) != recipe:
        of_run = asdict(Recipe(**found.origin.recipe))
        names = [n for n, value in asdict(recipe).items() if of_run[n] != value]
        raise LayerticketError(
            f"the ticket goes on from epoch {found.rewind_epoch} of {found.origin.run}, whose "
            f"recipe has {names[0]} {found.origin.recipe.get(names[0])!r}; given is "
            f"{asdict(recipe)[names[0]]!r}. Give the recipe of that run."
        )
    return Start(epoch=found.rewind_epoch, optimizer=found.optimizer)


def run_folder(path: Path) -> Path:
    """Return the run in a folder: the folder itself, or the only run inside it.

    Raises:
        LayerticketError: If there is no run, or more than one to choose from.
    """
    if (path / RUN).exists():
        return path
    inside = sorted(folder.parent for folder in path.glob(f"*/{RUN}"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(folder.name for folder in inside)
        raise LayerticketError(f"{path} holds {len(inside)} runs; name one of them: {names}.")
    raise LayerticketError(f"{path} is not a run; `layerticket train` makes runs and prints them.")
