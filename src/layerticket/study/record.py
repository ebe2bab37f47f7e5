"""The records of a training: its identity, its result, what was removed, and its cost."""

import functools
import platform
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self

import torch
from pydantic import Field, Strict
from torch import Tensor, nn
from typing_extensions import TypedDict

from layerticket.blocks.block import Block, block_of, block_record
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import carbon_kg
from layerticket.files import digest, read_json, write_json
from layerticket.settings import (
    Count,
    Digest,
    NotNegative,
    Share,
    Side,
    Whole,
    checked_json,
    restored,
)
from layerticket.study.folder import RESULT
from layerticket.study.identity import TrainingIdentity
from layerticket.surgery.channels import without_channels
from layerticket.surgery.masks import masked
from layerticket.surgery.remove import remove_blocks
from layerticket.tensors import load_tensors, save_tensors
from layerticket.ticket.ticket import Ticket
from layerticket.training.device import Energy, Metering, resolve_device

RUN, WEIGHTS, FIRST = "run.json", "model.safetensors", "first.safetensors"
REMOVED, MASKS, BILL = "removed.json", "masks.safetensors", "bill.json"


Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]
Hexadecimal = Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]*\z")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """How a training or a search was started; part of its record, never of its name."""

    command: str = ""
    """Command line that started it."""
    workers: int | None = None
    """Largest number of parallel jobs of its study; None outside a study."""
    jobs_beside: Callable[[], int | None] = lambda: None
    """Returns the largest number of other jobs that ran at the same time; None: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of one training or search, or of several together; None: not measured."""

    train_seconds: NotNegative | None = 0.0
    search_seconds: NotNegative | None = 0.0
    energy_kwh: NotNegative | None = 0.0
    co2_kg: NotNegative | None = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Cost(**{k: None if None in pair else sum(pair) for k, pair in pairs.items()})

    def share(self, part: float) -> "Cost":
        """Return the cost of a part, assuming a constant rate."""
        parts = {k: None if v is None else v * part for k, v in asdict(self).items()}
        return Cost(**parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Costs by training or search, so that shared ones count once."""

    items: Mapping[str, Cost]

    @classmethod
    def together(cls, bills: "Iterable[Bill]") -> "Bill":
        """Merge bills; of a training that several contain, the longest part counts."""
        items: dict[str, Cost] = {}
        for name, cost in (pair for bill in bills for pair in bill.items.items()):
            known = items.get(name)
            if known is None or (cost.train_seconds or 0.0) >= (known.train_seconds or 0.0):
                items[name] = cost
        return cls(items=items)

    def __or__(self, other: "Bill") -> "Bill":
        """Merge two bills."""
        return Bill.together((self, other))

    @property
    def total(self) -> Cost:
        """Sum of all costs, each counted once."""
        return sum(self.items.values(), Cost())

    def as_record(self) -> dict[str, Any]:
        """Return the bill as JSON values."""
        return {name: asdict(cost) for name, cost in self.items.items()}

    @classmethod
    def of(cls, record: Mapping[str, Any], where: str = BILL) -> "Bill":
        """Read it back; `where` names the file in messages."""
        return cls(items={k: restored(Cost, v, f"{where}: {k}") for k, v in record.items()})

    @classmethod
    def of_ticket(cls, ticket: Path | None) -> "Bill | None":
        """Read the bill of a ticket; empty without a ticket, None if the folder has no bill."""
        if ticket is None:
            return cls(items={})
        path = ticket / BILL
        return cls.of(read_json(path), str(path)) if path.exists() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Result and cost of a training; None: not measured or not known."""

    test_accuracy: Fraction | None
    validation_accuracy: Fraction | None = None
    correct: Hexadecimal | None = None
    """Correctly classified test images, one bit each, as hexadecimal; the first is the highest."""
    epochs: Whole | None = None
    train_seconds: NotNegative
    images_per_second: NotNegative | None = None
    energy_kwh: NotNegative | None = None
    co2_kg: NotNegative | None = None
    energy: Mapping[str, float | None] | None = None
    """Parts of the energy."""
    energy_method: str | None = None
    peak_memory_bytes: Whole | None = None
    params: Whole
    precision: Literal["bf16", "fp32"] | None = None
    device: str | None = None
    data_wait_share: NotNegative | None = None
    processes: Count = 1
    weights: Digest
    """Digest of the final weights."""
    snapshots: Mapping[str, Digest]
    """Digests of the snapshots by epoch."""
    environment: Mapping[str, Any]
    workers: Count | None = None
    jobs_beside: Whole | None = None
    figures: Mapping[str, Any] | None = None
    """Other values that a user's own training returned."""
    parameters_unchanged: bool | None = None
    """Whether a user's own training changed no parameter; None for a training by a recipe."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the result of a finished training.

        Raises:
            LayerticketError: If it is not finished, or its record is damaged.
        """
        path = Path(folder) / RESULT
        if not path.exists():
            raise LayerticketError(
                f"{folder} has no {RESULT}: it is not a run, or not finished. Train it to the end."
            )
        record = read_json(path)
        cls.check(record, str(path))
        odd = sorted({field.name for field in fields(cls)} ^ record.keys())
        if odd:
            raise LayerticketError(
                f"{path} is damaged or foreign: key {odd[0]!r} is missing or unknown. "
                "Delete the folder and train again."
            )
        return cls(**record)

    @classmethod
    def check(cls, record: Mapping[str, Any], where: str) -> None:
        """Raise if a key has an invalid value; missing keys are allowed."""
        hints = typing.get_type_hints(cls, include_extras=True)
        for name in record.keys() & hints.keys():
            try:
                checked_json(f"{where}: {name}", hints[name], record[name])
            except LayerticketError as err:
                raise LayerticketError(f"{err} Delete the folder and train again.") from err

    def save(self, folder: Path) -> None:
        """Write the result, which marks the training as finished."""
        write_json(folder / RESULT, asdict(self))

    @property
    def cost(self) -> Cost:
        """Cost of this training alone."""
        return Cost(
            train_seconds=self.train_seconds, energy_kwh=self.energy_kwh, co2_kg=self.co2_kg
        )


PRINTED = (
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


def printed(folder: Path, result: Result, bill: Bill | None, metering: Metering) -> dict[str, Any]:
    """Return what `layerticket train --json` prints: the training, plus the cost of its search.

    Args:
        folder: Folder of the training.
        result: Its result.
        bill: Cost of finding its ticket; None: not known.
        metering: Gives the carbon intensity.
    """
    record = {"run": str(folder)} | {name: getattr(result, name) for name in PRINTED}
    searched = None if bill is None else bill.total.energy_kwh
    own = result.energy_kwh
    total = None if own is None or searched is None else own + searched
    parts = result.energy
    if parts is not None:
        parts = {**parts, "train_kwh": own, "search_kwh": searched}
    return record | {
        "energy_kwh": total,
        "co2_kg": carbon_kg(total, metering),
        "energy": parts,
    }


def energy_figures(energy: Energy | None, method: str | None, metering: Metering) -> dict[str, Any]:
    """Return the energy values of a training; None for what was not measured."""
    kwh = None if energy is None else energy.kwh
    return {
        "energy_kwh": kwh,
        "co2_kg": carbon_kg(kwh, metering),
        "energy": None if energy is None else asdict(energy),
        "energy_method": method if energy is not None else None,
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Removal:
    """What was removed from a network, without the method that chose it."""

    identity: Mapping[str, Any]
    """JSON value, equal for equal removals; the order of blocks does not matter."""
    blocks: tuple[Block, ...] = ()
    filters: Mapping[str, tuple[Whole, ...]] = field(default_factory=dict)
    input_shape: tuple[Side, ...] = ()
    """Shape of one image, needed to remove filters."""
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, ticket: Ticket) -> "Removal":
        """Return what a ticket removes."""
        gone = ticket.removed if ticket.kind == "blocks" else ()
        return cls(
            identity={"kind": ticket.kind, "removed": ticket.removal_identity()},
            blocks=tuple(block for block in ticket.blocks if block.name in gone),
            filters=ticket.filters,
            input_shape=ticket.input_shape,
            masks=ticket.masks,
        )

    def apply(self, dense: nn.Module) -> nn.Module:
        """Return the dense network without the removed parts; the input is not modified."""
        if self.masks:
            return masked(dense, self.masks)
        if not self.filters:
            return remove_blocks(dense, self.blocks)
        like = next(dense.parameters())
        example = torch.zeros(1, *self.input_shape, dtype=like.dtype, device=like.device)
        return without_channels(dense, self.filters, example)

    def save(self, folder: Path) -> None:
        """Write the removal to the folder of a training."""
        if self.masks:
            save_tensors(folder / MASKS, self.masks, {})
        record = {
            "identity": dict(self.identity),
            "blocks": [block_record(block) for block in self.blocks],
            "filters": {name: list(gone) for name, gone in self.filters.items()},
            "input_shape": list(self.input_shape),
        }
        write_json(folder / REMOVED, record)

    @classmethod
    def load(cls, folder: Path) -> "Removal | None":
        """Read the removal of a training; None for a dense network."""
        if not (folder / REMOVED).exists():
            return None
        record, where = read_json(folder / REMOVED), str(folder / REMOVED)
        blocks = checked_json(f"{where}: blocks", tuple[Any, ...], record.get("blocks"))
        made = {
            "blocks": tuple(block_of(block, f"{where}: blocks") for block in blocks),
            "masks": load_tensors(folder / MASKS)[0] if (folder / MASKS).exists() else {},
        }
        return restored(cls, record, where, made)


def claim(
    folder: Path,
    identity: TrainingIdentity,
    config: Mapping[str, Any],
    first: str,
    provenance: Provenance,
    device: str,
) -> None:
    """Write ``run.json``; if it exists, check its identity and add that training was resumed."""
    session = {
        "environment": environment(device),
        "command": provenance.command,
        "processes": identity.processes,
    }
    path = folder / RUN
    if path.exists():
        record = check_owner(folder, identity)
        record["resumed"] = [*record.get("resumed", []), session]
    else:
        record = {
            "name": identity.name,
            "identity": identity.as_record(),
            "config": dict(config),
            "first": first,
            **session,
        }
    write_json(path, record)


def check_owner(folder: Path, identity: TrainingIdentity) -> dict[str, Any]:
    """Return the content of ``run.json``; raise if it belongs to another training."""
    record = read_json(folder / RUN)
    if digest(record.get("identity")) != digest(identity.as_record()):
        raise LayerticketError(
            f"{folder} belongs to another run. Choose another folder, or delete this one."
        )
    return record


class Config(TypedDict):
    """Readable description of a training, also used to continue from it."""

    model: str
    data: str | None
    data_fingerprint: str | None
    validation_fraction: Share | None
    image_size: NotRequired[list[int] | None]
    value_range: NotRequired[list[int] | None]
    removed: dict[str, Any] | None
    start: dict[str, Any]
    start_epoch: Whole
    recipe: dict[str, Any] | None
    seed: Whole
    initialization_seed: Whole | None
    ticket: str | None


def read_config(folder: Path) -> dict[str, Any]:
    """Read what a training is from its ``run.json``.

    Raises:
        LayerticketError: Naming the key that is missing or wrong.
    """
    path = folder / RUN
    found: dict[str, Any] = checked_json(f"{path}: config", Config, read_json(path).get("config"))
    return found


def check_data(folder: Path, config: Mapping[str, Any], dataset: Dataset) -> None:
    """Raise if the data are not those that a training names in its config."""
    wanted = config["data_fingerprint"]
    if wanted is not None and dataset.fingerprint != wanted:
        raise LayerticketError(
            f"{folder} was trained on data of fingerprint {wanted[:12]}, but the data given have "
            f"{dataset.fingerprint[:12]}. Give the data it was trained on."
        )


def run_folder(path: Path) -> Path:
    """Return the folder of a training: the folder itself, or the only one inside it.

    Raises:
        LayerticketError: If there is none, or more than one to choose from.
    """
    if (path / RUN).exists():
        return path
    inside = sorted(folder.parent for folder in path.glob(f"*/{RUN}"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(folder.name for folder in inside)
        raise LayerticketError(f"{path} contains {len(inside)} runs; name one of them: {names}.")
    raise LayerticketError(f"{path} is not a run; `layerticket train` prints the folder it writes.")


def environment(device: str | None = None) -> dict[str, Any]:
    """Return the software and hardware, which decide the speed and the last bits of a run.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N"; None: no GPU is queried.

    Returns:
        Versions, platform, CPU, threads of torch, and the GPU (None if the CPU is used).

    Raises:
        LayerticketError: If the device is missing.
    """
    where = None if device is None else resolve_device(device)
    on_gpu = where is not None and where.type == "cuda"
    return {
        "layerticket": version("layerticket"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(where) if on_gpu else None,
    }


@functools.cache
def _cpu() -> str:
    """Return the name of the processor, and the instruction set that torch uses."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
