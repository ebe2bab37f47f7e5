"""The record of a ticket: find, save, load, apply.

A ticket is a folder of two files: `ticket.json` tells what was removed and why, and
`init.safetensors` holds theta_0 of what was kept.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, head, inputs_of
from layerticket.blocks import Block, find_blocks
from layerticket.errors import LayerticketError
from layerticket.files import digest, read_json, write_atomically
from layerticket.scoring import score
from layerticket.selection import Budget, select
from layerticket.surgery import remove_blocks
from layerticket.tensors import load_tensors, save_tensors, tensor_digest

__all__ = ["Ticket", "architecture_digest", "find_ticket", "weights_digest"]

SCHEMA = 1
RECORD, WEIGHTS = "ticket.json", "init.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ticket:
    """A subset of a network's blocks, with the evidence for the choice and its theta_0."""

    model: str
    """Name the network is built by, or its class name."""
    architecture: str
    """Digest of the dense network's classes, parameter names and shapes."""
    weights: str
    """Digest of the dense network's theta_0."""
    criterion: str
    options: Mapping[str, Any]
    """Every option of the criterion."""
    batch: str
    """SHA-256 of the scoring batch."""
    examples: int
    scores: Mapping[str, float]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    blocks: tuple[Block, ...]
    macs: Mapping[Literal["dense", "ticket"], int]
    params: Mapping[Literal["dense", "ticket"], int]
    seed: int | None
    score_seconds: float
    versions: Mapping[str, str]
    init: Mapping[str, Tensor]
    """theta_0 of what was kept: parameters and buffers by name."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the ticket says, theta_0 included; not of when and with what."""
        incidental = ("score_seconds", "versions", "checksum")
        return digest({k: v for k, v in self._record().items() if k not in incidental})

    def apply(
        self, model: nn.Module, *, initialization: Literal["ticket", "model"] = "ticket"
    ) -> nn.Module:
        """Cut a freshly built dense network down to this ticket; `model` is not modified.

        Args:
            model: A network of the architecture the ticket was found in.
            initialization: `ticket`: the result starts at the ticket's theta_0; `model`: it
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
            small.load_state_dict(dict(self.init))
        return small

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
        if record.get("checksum") != _checksum(record) or record.get("init") != tensor_digest(init):
            raise LayerticketError(
                f"the ticket in {folder} was changed after it was written (its hash is wrong). "
                "Find it anew."
            )
        fields = {k: v for k, v in record.items() if k not in ("schema", "checksum", "init")}
        fields["blocks"] = tuple(
            Block(**{**block, "shape": tuple(block["shape"])}) for block in record["blocks"]
        )
        fields |= {"removed": tuple(record["removed"]), "kept": tuple(record["kept"])}
        return cls(**fields, init=init)

    def _record(self) -> dict[str, Any]:
        """Return everything but the tensors as JSON values, with digests of all."""
        names = [name for name in self.__dataclass_fields__ if name not in ("init", "blocks")]
        record: dict[str, Any] = {"schema": SCHEMA} | {name: getattr(self, name) for name in names}
        record["blocks"] = [asdict(block) for block in self.blocks]
        record["init"] = tensor_digest(self.init)
        record["checksum"] = _checksum(record)
        return record


def find_ticket(
    model: nn.Module,
    batch: Batch,
    *,
    criterion: str = "grasp",
    budget: Budget,
    protect: Iterable[str] = (),
    min_per_stage: int = 0,
    keep_neighbours: bool = False,
    name: str = "",
    seed: int | None = None,
    **options: Any,  # noqa: ANN401 - the criterion's own, see `score`
) -> Ticket:
    """Find a ticket in a network at initialization (Algorithm 2 of the paper).

    Args:
        model: Untrained network; not modified.
        batch: ``(inputs, targets)`` or a dict, on the model's device, to score the blocks on.
        criterion: A registered name, see `criterion_names`.
        budget: How much is to go.
        protect: Patterns of blocks that must stay, see `select`.
        min_per_stage: Blocks that must remain in every stage.
        keep_neighbours: Whether the neighbours of down-samplings stay, as in the paper.
        name: What the network is built by; recorded. Its class name by default.
        seed: Seed theta_0 was drawn with; recorded.
        **options: Options of `score`: `normalization`, `reduction`, `temperature`, ...

    Returns:
        The ticket; ``ticket.apply(model)`` is the smaller network.

    Raises:
        LayerticketError: If there is no removable block, the scores are degenerate or the budget
            cannot be met.
    """
    blocks = find_blocks(model, head(inputs_of(batch), 1))
    scores = score(model, blocks, batch, criterion, **options)
    chosen = select(
        scores.values,
        blocks,
        budget,
        protect=protect,
        min_per_stage=min_per_stage,
        keep_neighbours=keep_neighbours,
    )
    going = blocks.named(chosen.removed)
    small = remove_blocks(model, going)
    return Ticket(
        model=name or type(model).__name__,
        architecture=architecture_digest(model),
        weights=weights_digest(model),
        criterion=criterion,
        options=scores.options,
        batch=scores.batch_digest,
        examples=scores.examples,
        scores=scores.values,
        removed=chosen.removed,
        kept=chosen.kept,
        blocks=blocks.removable,
        macs={"dense": blocks.macs, "ticket": blocks.macs - sum(b.macs for b in going)},
        params={"dense": blocks.params, "ticket": sum(p.numel() for p in small.parameters())},
        seed=seed,
        score_seconds=scores.seconds,
        versions={"torch": torch.__version__},
        init={key: value.detach().cpu().clone() for key, value in small.state_dict().items()},
    )


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 over names and classes of modules, and names and shapes of tensors."""
    modules = [
        (n, f"{type(m).__module__}.{type(m).__qualname__}") for n, m in model.named_modules()
    ]
    state = [(n, str(t.dtype), tuple(t.shape)) for n, t in model.state_dict().items()]
    return digest([modules, state])


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over all parameters and buffers of the state dict."""
    return tensor_digest(model.state_dict())


def _checksum(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "checksum"})
