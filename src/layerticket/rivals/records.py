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

from layerticket.errors import LayerticketError
from layerticket.files import digest, read_json, write_atomically
from layerticket.tensors import load_tensors, save_tensors, tensor_digest
from layerticket.ticket import Origin, architecture_digest

__all__ = ["RECORD", "Initialization", "Rival"]

RECORD = "rival.json"
SCHEMA = 1
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
        if (folder / RECORD).exists() and type(self).load(folder).digest != self.digest:
            raise LayerticketError(f"{folder} holds another rival; choose an empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.tensors:
            if getattr(self, name):
                save_tensors(_file(folder, name), getattr(self, name), {})
        write_atomically(folder / RECORD, json.dumps(self._record(), indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a rival back.

        Raises:
            LayerticketError: If a file is missing, damaged or changed, of another schema or kind.
        """
        folder = Path(folder)
        record = read_json(folder / RECORD)
        if (record.get("schema"), record.get("kind")) != (SCHEMA, cls.kind):
            raise LayerticketError(
                f"{folder} holds a rival of kind {record.get('kind')!r}, schema "
                f"{record.get('schema')!r}; asked for is {cls.kind!r}, schema {SCHEMA}. Find it "
                "anew, or use the version that wrote it."
            )
        held = {
            name: load_tensors(_file(folder, name))[0] if record.get(name) else {}
            for name in cls.tensors
        }
        if record.get("checksum") != _checksum(record) or any(
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
        record: dict[str, Any] = {"schema": SCHEMA, "kind": self.kind}
        record |= {one.name: getattr(self, one.name) for one in fields(self)}
        record["origin"] = None if self.origin is None else asdict(self.origin)
        for name in self.tensors:
            record[name] = _digest(getattr(self, name))
        record["checksum"] = _checksum(record)
        return record


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _digest(tensors: Mapping[str, Tensor]) -> str | None:
    return tensor_digest(tensors) if tensors else None


def _checksum(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "checksum"})
