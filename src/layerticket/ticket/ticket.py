"""What the record of every rival holds, and how it lies in a folder.

A rival is a folder, as a ticket is: ``rival.json`` tells what was taken out and why, safetensors
files hold its tensors. Enters: a rival. Leaves: files that were checked. Refuses to know how rivals
are found.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from layerticket.blocks.block import Block, block_of, block_record
from layerticket.blocks.find import name_after_removal
from layerticket.errors import LayerticketError
from layerticket.files import digest, read_json, write_atomically
from layerticket.surgery.remove import remove_blocks
from layerticket.tensors import load_tensors, save_tensors, tensor_digest

SCHEMA = 1
RECORD, WEIGHTS, OPTIMIZER = "ticket.json", "init.safetensors", "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The training of the dense network that a ticket was found in."""

    run: str
    """Name of the run."""
    scored_epoch: int
    """The blocks were scored on the weights after this many epochs."""
    rewind_epoch: int
    """The kept weights were set back to those after this many epochs."""
    recipe: Mapping[str, Any]
    """Recipe of the training; a ticket set back to epoch i > 0 goes on with it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ticket:
    """A subset of a network's blocks, with the evidence for the choice and its first weights."""

    model: str
    """Name the network is built by, or its class name."""
    architecture: str
    """Digest of the dense network's classes, parameter names and shapes."""
    weights: str
    """Digest of the dense network as it was scored: theta_0, or a trained theta."""
    criterion: str
    options: Mapping[str, Any]
    """Every option of the criterion."""
    batch: str
    """SHA-256 of the scoring batch."""
    examples: int
    scores: Mapping[str, float]
    """Score of every removable block in the dense network, higher = keep."""
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    blocks: tuple[Block, ...]
    macs: Mapping[Literal["dense", "ticket"], int]
    params: Mapping[Literal["dense", "ticket"], int]
    seed: int | None
    score_seconds: float
    versions: Mapping[str, str]
    init: Mapping[str, Tensor]
    """First weights of what was kept, theta_0 or theta_i: parameters and buffers by name."""
    order: tuple[tuple[str, ...], ...] = ()
    """The removed blocks in the order of removal, one tuple a round."""
    later_scores: tuple[Mapping[str, float], ...] = ()
    """Scores of the blocks that were left, at each round after the first."""
    origin: Origin | None = None
    """The training it was found in; None: found at initialization."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the optimizer at theta_i, as ``parameter/key``; empty at theta_0."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the ticket says, weights included; not of when and with what."""
        incidental = ("score_seconds", "versions", "checksum")
        return digest({k: v for k, v in self._record().items() if k not in incidental})

    @property
    def rewind_epoch(self) -> int:
        """Epoch the weights were set back to, 0 for theta_0: training goes on from there."""
        return 0 if self.origin is None else self.origin.rewind_epoch

    def apply(
        self, model: nn.Module, *, initialization: Literal["ticket", "model"] = "ticket"
    ) -> nn.Module:
        """Cut a freshly built dense network down to this ticket; `model` is not modified.

        Args:
            model: A network of the architecture the ticket was found in.
            initialization: `ticket`: the result starts at the ticket's own weights; `model`: it
                keeps the values `model` has, for example the theta_0 of another seed.

        Raises:
            LayerticketError: If the model's architecture is another one.
        """
        if initialization not in ("ticket", "model"):
            raise LayerticketError(
                f"initialization is {initialization!r}; allowed are 'ticket' and 'model'."
            )
        if architecture_digest(model) != self.architecture:
            raise LayerticketError(
                f"this ticket was found in {self.model!r} ({self.params['dense']:,} parameters); "
                f"the {type(model).__name__} given differs in classes, names or shapes. Build the "
                "same network (number of classes and input channels included), or find a new "
                "ticket in this one."
            )
        gone = set(self.removed)
        small = remove_blocks(model, [block for block in self.blocks if block.name in gone])
        if initialization == "ticket":
            small.load_state_dict(self._weights_for(small))
        return small

    def _weights_for(self, small: nn.Module) -> dict[str, Tensor]:
        """Return the first weights under the names of the smaller network.

        Tickets of earlier versions name the layers of Hugging Face networks as the dense one does.
        """
        if self.init.keys() == small.state_dict().keys():
            return dict(self.init)
        now = name_after_removal(small, self.removed)
        return {now(name): value for name, value in self.init.items()}

    def save(self, folder: str | Path) -> Path:
        """Write the ticket to a folder, each file at once or not at all; returns the folder.

        Raises:
            LayerticketError: If the folder holds another ticket.
        """
        folder = Path(folder)
        if (folder / RECORD).exists() and Ticket.load(folder).digest != self.digest:
            raise LayerticketError(f"{folder} holds another ticket; choose an empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, self.init, {})
        if self.optimizer:
            save_tensors(folder / OPTIMIZER, self.optimizer, {})
        write_atomically(folder / RECORD, json.dumps(self._record(), indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Ticket":
        """Read a ticket back.

        Raises:
            LayerticketError: If a file is missing, truncated or changed, or of another schema.
        """
        folder = Path(folder)
        for name in (RECORD, WEIGHTS):
            if not (folder / name).exists():
                raise LayerticketError(
                    f"{folder} is not a ticket: {name} is missing. Write one: layerticket find."
                )
        record = read_json(folder / RECORD)
        if record.get("schema") != SCHEMA:
            raise LayerticketError(
                f"the ticket in {folder} has schema {record.get('schema')!r}; this version of "
                f"layerticket reads schema {SCHEMA}. Find the ticket anew, or use the version "
                "that wrote it."
            )
        init, _ = load_tensors(folder / WEIGHTS)
        optimizer = load_tensors(folder / OPTIMIZER)[0] if record.get("optimizer") else {}
        if (
            record.get("checksum") != _checksum(record)
            or record.get("init") != tensor_digest(init)
            or record.get("optimizer") != _optimizer_digest(optimizer)
        ):
            raise LayerticketError(
                f"the ticket in {folder} was changed after it was written (its hash is wrong). "
                "Find it anew."
            )
        return cls(**_fields(record), init=init, optimizer=optimizer)

    def _record(self) -> dict[str, Any]:
        """Return everything but the tensors as JSON values, with digests of all."""
        apart = ("init", "blocks", "origin", "optimizer")
        names = [name for name in self.__dataclass_fields__ if name not in apart]
        record: dict[str, Any] = {"schema": SCHEMA} | {name: getattr(self, name) for name in names}
        record["blocks"] = [block_record(block) for block in self.blocks]
        record["origin"] = None if self.origin is None else asdict(self.origin)
        record["init"] = tensor_digest(self.init)
        record["optimizer"] = _optimizer_digest(self.optimizer)
        record["checksum"] = _checksum(record)
        return record


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 over modules (names, classes, settings) and tensors (names, shapes)."""
    modules = [
        (n, f"{type(m).__module__}.{type(m).__qualname__}", m.extra_repr())
        for n, m in model.named_modules()
    ]
    state = [(n, str(t.dtype), tuple(t.shape)) for n, t in model.state_dict().items()]
    return digest([modules, state])


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over all parameters and buffers of the state dict."""
    return tensor_digest(model.state_dict())


def _checksum(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "checksum"})


def _optimizer_digest(optimizer: Mapping[str, Tensor]) -> str | None:
    return tensor_digest(optimizer) if optimizer else None


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the JSON values of a record into those of a ticket, its tensors left out."""
    apart = ("schema", "checksum", "init", "optimizer")
    fields = {key: value for key, value in record.items() if key not in apart}
    fields["blocks"] = tuple(block_of(block) for block in record["blocks"])
    for name in ("removed", "kept", "later_scores"):
        fields[name] = tuple(record.get(name, ()))
    fields["order"] = tuple(tuple(names) for names in record.get("order", ()))
    fields["origin"] = Origin(**record["origin"]) if record.get("origin") else None
    return fields


RECORD_records = "rival.json"
SCHEMA_records = 1
APART = frozenset({"score_seconds", "versions", "checksum"})  # when and with what, not what

Initialization = Literal["ticket", "model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rival(ABC):
    """A small network that a ticket of layers has to beat, with the evidence for the choice."""

    kind: ClassVar[str]
    """Word for it in the record."""
    tensors: ClassVar[tuple[str, ...]] = ("init", "optimizer")
    """Fields that lie in files of their own."""

    model: str
    """Name the dense network is built by, or its class name."""
    architecture: str
    """Digest of the dense network's classes, parameter names and shapes."""
    weights: str
    """Digest of the dense network as it was scored."""
    criterion: str
    options: Mapping[str, Any]
    """Every option of the criterion."""
    batch: str
    """SHA-256 of the scoring batch; empty where none was read."""
    examples: int
    """Examples in it."""
    macs: Mapping[str, int]
    """``dense`` and ``ticket``, per example, as a processor computes them."""
    params: Mapping[str, int]
    """``dense`` and ``ticket``; of masked weights, those that are left."""
    match: Mapping[str, Any]
    """What was matched to which ticket, and how close it came."""
    seed: int | None
    """Seed that drew theta_0."""
    score_seconds: float
    versions: Mapping[str, str]
    init: Mapping[str, Tensor]
    """First weights, theta_0 or theta_i: parameters and buffers by name."""
    origin: Origin | None = None
    """The training it was found in; None: found at initialization."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the optimizer at theta_i, as ``parameter/key``; empty at theta_0."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the record says, tensors included; not of when and with what."""
        return digest({k: v for k, v in self._record().items() if k not in APART})

    @property
    def rewind_epoch(self) -> int:
        """Epoch the weights were set back to, 0 for theta_0: training goes on from there."""
        return 0 if self.origin is None else self.origin.rewind_epoch

    @abstractmethod
    def apply(self, model: nn.Module, *, initialization: Initialization = "ticket") -> nn.Module:
        """Make the small network from a freshly built dense one, which is not modified."""

    def save(self, folder: str | Path) -> Path:
        """Write the rival to a folder, each file at once or not at all; returns the folder.

        Raises:
            LayerticketError: If the folder holds something else.
        """
        folder = Path(folder)
        if (folder / "ticket.json").exists():
            raise LayerticketError(f"{folder} holds a ticket of layers; choose an empty folder.")
        if (folder / RECORD_records).exists() and type(self).load(folder).digest != self.digest:
            raise LayerticketError(f"{folder} holds another rival; choose an empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.tensors:
            if getattr(self, name):
                save_tensors(_file(folder, name), getattr(self, name), {})
        write_atomically(folder / RECORD_records, json.dumps(self._record(), indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a rival back.

        Raises:
            LayerticketError: If a file is missing, damaged or changed, of another schema or kind.
        """
        folder = Path(folder)
        record = read_json(folder / RECORD_records)
        if (record.get("schema"), record.get("kind")) != (SCHEMA_records, cls.kind):
            raise LayerticketError(
                f"{folder} holds a rival of kind {record.get('kind')!r}, schema "
                f"{record.get('schema')!r}; asked for is {cls.kind!r}, schema {SCHEMA_records}. "
                "Find it anew, or use the version that wrote it."
            )
        held = {
            name: load_tensors(_file(folder, name))[0] if record.get(name) else {}
            for name in cls.tensors
        }
        if record.get("checksum") != _checksum_records(record) or any(
            record.get(name) != _digest(tensors) for name, tensors in held.items()
        ):
            raise LayerticketError(
                f"the rival in {folder} was changed after it was written (its hash is wrong). "
                "Find it anew."
            )
        values = {k: v for k, v in record.items() if k not in ("schema", "kind", "checksum")}
        values["origin"] = Origin(**record["origin"]) if record.get("origin") else None
        return cls(**cls._restored(values | held))

    @classmethod
    def _restored(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Turn what JSON made of the fields of a kind back into what they were."""
        return values

    def _check(self, model: nn.Module, initialization: str) -> None:
        """Refuse another network than the one this was found in."""
        if initialization not in ("ticket", "model"):
            raise LayerticketError(
                f"initialization is {initialization!r}; allowed are 'ticket' and 'model'."
            )
        if architecture_digest(model) != self.architecture:
            raise LayerticketError(
                f"this rival was found in {self.model!r} ({self.params['dense']:,} parameters); "
                f"the {type(model).__name__} given differs in classes, names or shapes. Build the "
                "same network (number of classes and input channels included)."
            )

    def _record(self) -> dict[str, Any]:
        """Return everything as JSON values, of tensors their digests."""
        record: dict[str, Any] = {"schema": SCHEMA_records, "kind": self.kind}
        record |= {one.name: getattr(self, one.name) for one in fields(self)}
        record["origin"] = None if self.origin is None else asdict(self.origin)
        for name in self.tensors:
            record[name] = _digest(getattr(self, name))
        record["checksum"] = _checksum_records(record)
        return record


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _digest(tensors: Mapping[str, Tensor]) -> str | None:
    return tensor_digest(tensors) if tensors else None


def _checksum_records(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "checksum"})
