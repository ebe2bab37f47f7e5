"""A ticket: what was removed from a network, why, and the initial weights of the rest.

It is saved in a folder: ``ticket.json`` and safetensors files, never a pickle.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.blocks.block import Block, block_of, block_record
from layerticket.display import Shown, few, saved
from layerticket.errors import LayerticketError
from layerticket.files import digest, read_json, write_json
from layerticket.modules import copy_of, network_of
from layerticket.settings import Digest, Name, NotNegative, Number, Side, Whole, restored
from layerticket.surgery.channels import without_channels
from layerticket.surgery.masks import masked
from layerticket.surgery.remove import remove_blocks
from layerticket.tensors import load_tensors, save_tensors, tensor_digest

SCHEMA = 2
RECORD = "ticket.json"
TENSORS = ("init", "optimizer", "average", "masks")
"""Fields saved in their own files, as ``NAME.safetensors``."""
FILES = (RECORD, *(f"{name}.safetensors" for name in TENSORS))
"""Every file of a ticket."""
ROUNDS = "rounds"
"""Folder for earlier rounds, in that of a ticket found in several."""
NOT_IN_DIGEST = frozenset({"score_seconds", "versions", "checksum", "cuts"})
"""Fields about how the ticket was found, not what it is."""

Kind = Literal["blocks", "filters", "masks"]
Initialization = Literal["ticket", "model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The training of the dense network that a ticket was found in."""

    run: Name
    """Name of the training."""
    scored_epoch: Whole
    """Epoch whose weights were scored."""
    rewind_epoch: Whole
    """Epoch that the kept weights were rewound to."""
    recipe: Mapping[str, Any]
    """Recipe of the training, as a table; a ticket rewound to epoch i > 0 continues with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Score gap between the last removed and the first kept block, and its noise."""

    removed: str
    kept: str
    gap: Number
    """Score of the kept block minus that of the removed one."""
    noise: NotNegative
    """One standard error of the gap, from two halves of the batch."""
    seconds: NotNegative
    """Seconds to score the halves."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Ticket(Shown):
    """A smaller network inside a dense one, with the reasons for the choice and initial weights.

    `kind` says what was removed: blocks, filters, or single weights (masks).
    """

    model: str
    """Name that the dense network is built by, or its class name."""
    architecture: Digest
    """Digest of the dense network's classes, parameter names and shapes."""
    weights: Digest
    """Digest of the scored weights of the dense network: theta_0, or a trained theta."""
    criterion: str
    """Criterion, or name of the control."""
    options: Mapping[str, Any]
    """All options of the criterion."""
    batch: Digest | Literal[""]
    """SHA-256 of the scoring batch; empty if none was read."""
    examples: Whole
    """Examples in the batch."""
    removed: tuple[str, ...]
    """Removed blocks in the order of execution; or convolutions that lost filters; or masked weight
    tensors."""
    macs: Mapping[Literal["dense", "ticket"], Whole | None]
    """MACs per example, including those of masked weights; None if they cannot be counted."""
    params: Mapping[Literal["dense", "ticket"], Whole]
    """Parameters; of masked weights, only the kept ones."""
    seed: Whole | None
    """Seed that drew theta_0."""
    score_seconds: NotNegative
    versions: Mapping[str, str]
    init: Mapping[str, Tensor]
    """Initial weights of the smaller network, theta_0 or theta_i, by name; with buffers."""
    kind: Kind = "blocks"
    """What was removed."""
    scores: Mapping[str, Number | list[Number]] = field(default_factory=dict)
    """Scores, higher = keep: of every removable block; of filters, a list per group of coupled
    convolutions; empty for single weights."""
    match: Mapping[str, Any] | None = None
    """Matched quantity, reference ticket and difference; None: a budget was met."""
    origin: Origin | None = None
    """Training that it was found in; None: found at initialization."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the optimizer at theta_i, as ``parameter/key``; empty at theta_0."""
    average: Mapping[str, Tensor] = field(default_factory=dict)
    """Running average of the weights at theta_i, by name; empty if there is none or at theta_0."""
    # for blocks
    kept: tuple[str, ...] = ()
    """Kept removable blocks."""
    blocks: tuple[Block, ...] = ()
    """All removable blocks of the dense network."""
    order: tuple[tuple[str, ...], ...] = ()
    """Removed blocks in the order of removal, one tuple per round."""
    later_scores: tuple[Mapping[str, Number], ...] = ()
    """Scores of the remaining blocks, at each round after the first."""
    cuts: tuple[Cut, ...] = ()
    """Score gap and noise of each round, if measured; for a ticket found within another one, only
    its own rounds."""
    # for filters
    filters: Mapping[str, tuple[Whole, ...]] = field(default_factory=dict)
    """Removed filters by convolution; coupled convolutions lose the same ones."""
    input_shape: tuple[Side, ...] = ()
    """Shape of one image, to trace the network."""
    # for masks
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """For each weight tensor, true where a weight is kept."""
    sparse_macs: Whole | None = None
    """MACs per example without those of pruned weights; ordinary hardware computes them all. None
    if unknown, and if nothing is masked."""

    @property
    def digest(self) -> str:
        """SHA-256 of the ticket with its tensors, but not of how it was found."""
        return digest({k: v for k, v in self._record().items() if k not in NOT_IN_DIGEST})

    @property
    def rewind_epoch(self) -> int:
        """Epoch that the weights were rewound to, where training starts; 0 for theta_0."""
        return 0 if self.origin is None else self.origin.rewind_epoch

    @property
    def counted_macs(self) -> dict[Literal["dense", "ticket"], int]:
        """The MACs as numbers.

        Raises:
            LayerticketError: If they cannot be counted, so that nothing can be matched to them.
        """
        dense, small = self.macs["dense"], self.macs["ticket"]
        if dense is None or small is None:
            raise LayerticketError(
                f"the multiply-accumulates of {self.model!r} cannot be counted, so nothing can be "
                "matched to them. Match parameters instead."
            )
        return {"dense": dense, "ticket": small}

    @property
    def removed_record(self) -> list[str] | dict[str, list[int]] | dict[str, int]:
        """What was removed, as a JSON value: blocks; filters by convolution; numbers of weights."""
        if self.kind == "filters":
            return {name: list(gone) for name, gone in self.filters.items()}
        if self.kind == "masks":
            return {name: int((~mask).sum()) for name, mask in self.masks.items()}
        return list(self.removed)

    def removal_identity(self) -> list[str] | str:
        """Return what was removed as a JSON value, equal for equal networks.

        It is the sorted names of the blocks, or a digest of the filters or masks.
        """
        if self.kind == "filters":
            return digest({name: sorted(gone) for name, gone in self.filters.items() if gone})
        if self.kind == "masks":
            return tensor_digest(
                {name: mask for name, mask in self.masks.items() if not mask.all()}
            )
        return sorted(self.removed)

    def apply(self, model: nn.Module, *, initialization: Initialization = "ticket") -> nn.Module:
        """Return the smaller network of this ticket, from a new dense network; it is not modified.

        Args:
            model: A network with the architecture that the ticket was found in.
            initialization: `ticket`: start from the ticket's own weights; `model`: keep the weights
                of `model`, for example the theta_0 of another seed.

        Raises:
            LayerticketError: If the model has another architecture.
        """
        if initialization not in ("ticket", "model"):
            raise LayerticketError(
                f"initialization is {initialization!r}; allowed are 'ticket' and 'model'."
            )
        model = network_of(model)
        if architecture_digest(model) != self.architecture:
            raise LayerticketError(
                f"this ticket was found in {self.model!r} ({self.params['dense']:,} parameters); "
                f"the given {type(model).__name__} differs in classes, names or shapes. Build the "
                "same network (with the same number of classes and input channels), or find a "
                "new ticket in this one."
            )
        if self.kind == "masks":  # its initial weights are those of the dense network, with zeros
            if initialization == "ticket":
                model = copy_of(model)
                self._start(model)
            return masked(model, self.masks)
        if self.kind == "filters":
            like = next(model.parameters())
            example = torch.zeros(1, *self.input_shape, dtype=like.dtype, device=like.device)
            small = without_channels(model, self.filters, example)
        else:
            small = remove_blocks(model, [b for b in self.blocks if b.name in self.removed])
        if initialization == "ticket":
            self._start(small)
        return small

    def _start(self, network: nn.Module) -> None:
        """Load the initial weights of the ticket into a network."""
        try:
            network.load_state_dict(dict(self.init))
        except RuntimeError as err:
            raise LayerticketError(
                f"the initial weights of this ticket do not fit the network without "
                f"{few(self.removed)}: its record was edited by hand. Find the ticket again."
            ) from err

    def save(self, folder: str | Path) -> Path:
        """Write the ticket to a folder, each file atomically; return the folder.

        Raises:
            LayerticketError: If the folder has another ticket, or other files.
        """
        folder = Path(folder)
        _check_folder(folder)
        if (folder / RECORD).exists() and Ticket.load(folder).digest != self.digest:
            raise LayerticketError(f"{folder} has another ticket; choose an empty folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in TENSORS:
            if tensors := getattr(self, name):
                save_tensors(_file(folder, name), tensors, {})
        write_json(folder / RECORD, self._record())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Ticket":
        """Read a ticket of any kind.

        Raises:
            LayerticketError: If a file is missing, truncated or changed, or has another schema.
        """
        folder = Path(folder)
        for path in (folder / RECORD, _file(folder, "init")):
            if not path.exists():
                raise LayerticketError(
                    f"{folder} is not a ticket: {path.name} is missing. Make a ticket with "
                    "layerticket find."
                )
        record = read_json(folder / RECORD)
        if record.get("schema") != SCHEMA:
            raise LayerticketError(
                f"the ticket in {folder} has schema {record.get('schema')!r}; this version of "
                f"layerticket reads schema {SCHEMA}. Find the ticket again, or use the version "
                "that wrote it."
            )
        tensors = {
            name: load_tensors(_file(folder, name))[0] if record.get(name) else {}
            for name in TENSORS
        }
        if record.get("checksum") != _checksum(record) or any(
            record.get(name) != _digest_of(held) for name, held in tensors.items()
        ):
            raise LayerticketError(
                f"the ticket in {folder} was changed after it was written (its checksum is "
                "wrong). Find the ticket again."
            )
        values = {k: v for k, v in record.items() if k not in ("schema", "checksum")}
        ticket = restored(cls, values, str(folder / RECORD), _restored(values, folder) | tensors)
        ticket._check(str(folder / RECORD))
        return ticket

    def _check(self, where: str) -> None:
        """Raise if the fields of the record contradict each other."""
        known = {block.name for block in self.blocks}
        consistent = {
            "init": bool(self.init),
            "macs": {*self.macs} == {"dense", "ticket"},
            "params": {*self.params} == {"dense", "ticket"},
            "masks": (self.kind == "masks") == bool(self.masks),
            "filters": self.kind == "filters" or not self.filters,
        }
        if self.kind == "blocks":
            gone = [name for names in self.order for name in names]
            consistent |= {
                "blocks": len(known) == len(self.blocks),
                "removed": known.issuperset(self.removed),
                "kept": {*self.kept} == known - {*self.removed},
                "order": sorted(gone) == sorted(self.removed),
                "scores": known.issuperset(self.scores),
            }
        for name, holds in consistent.items():
            if not holds:
                raise LayerticketError(
                    f"{where}: {name} contradicts the other fields. The file was edited by hand; "
                    "find the ticket again."
                )

    def _headline(self) -> str:
        if self.kind == "blocks":
            gone = f"{len(self.removed)} of {len(self.removed) + len(self.kept)} removable blocks"
        elif self.kind == "filters":
            gone = f"{sum(map(len, self.filters.values())):,} filters"
        else:
            gone = f"{sum(int((~mask).sum()) for mask in self.masks.values()):,} weights"
        return f"Ticket of {self.model}: {gone} removed by {self.criterion}"

    def _facts(self) -> dict[str, object]:
        rewound = "theta_0" if not self.rewind_epoch else f"those after epoch {self.rewind_epoch}"
        seed = "seed not known" if self.seed is None else f"drawn by seed {self.seed}"
        counts: dict[str, object] = {}
        for name, of in (("MACs", self.macs), ("parameters", self.params)):
            dense, small = of["dense"], of["ticket"]
            if dense is None or small is None:
                counts[name] = "not counted"
            else:
                counts[name] = f"{dense:,} -> {small:,} ({saved(dense, small)})"
        return {"removed": few(self.removed), **counts, "first weights": f"{rewound}, {seed}"}

    def _record(self) -> dict[str, Any]:
        """Return all fields as JSON values; tensors as digests."""
        record: dict[str, Any] = {"schema": SCHEMA}
        record |= {one.name: getattr(self, one.name) for one in fields(self)}
        record["blocks"] = [block_record(block) for block in self.blocks]
        record["cuts"] = [asdict(cut) for cut in self.cuts]
        record["origin"] = None if self.origin is None else asdict(self.origin)
        record |= {name: _digest_of(getattr(self, name)) for name in TENSORS}
        if not self.average:
            del record["average"]  # tickets without one keep their digest
        record["checksum"] = _checksum(record)
        return record


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 over modules (names, classes, settings) and tensors (names, shapes).

    Settings are those of `extra_repr`. PyTorch's own modules go without those that have their
    default, and without `bias`, which the tensors show: so the digest stays the same when another
    version of PyTorch prints more settings.
    """
    defaults = {kind: _defaults(kind) for kind in {type(module) for module in model.modules()}}
    modules = [
        (
            name,
            f"{type(module).__module__}.{type(module).__qualname__}",
            *(
                setting
                for setting in re.split(r", (?![^(\[{]*[)\]}])", module.extra_repr())
                if setting not in defaults[type(module)]
            ),
        )
        for name, module in model.named_modules()
    ]
    state = [(n, str(t.dtype), tuple(t.shape)) for n, t in model.state_dict().items()]
    return digest([modules, state])


def _defaults(kind: type[nn.Module]) -> set[str]:
    """Return the default settings of a module as they are printed, text with or without quotes.

    Those of other libraries may change, and are not named here.
    """
    if not kind.__module__.startswith("torch."):
        return set()
    known = inspect.signature(kind.__init__).parameters.values()
    found = {f"{one.name}={told(one.default)}" for one in known for told in (str, repr)}
    return found | {"bias=True", "bias=False"}


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over all parameters and buffers of the state dict."""
    return tensor_digest(model.state_dict())


def first_weights(small: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's parameters and buffers, as in `Ticket.init`."""
    return {name: value.detach().cpu().clone() for name, value in small.state_dict().items()}


def _check_folder(folder: Path) -> None:
    """Raise if a folder is a file, or has content other than a ticket's and its rounds."""
    if folder.exists() and not folder.is_dir():
        raise LayerticketError(f"{folder} is a file; a ticket is a folder. Choose another name.")
    if not folder.exists() or (folder / RECORD).exists():
        return
    ours = {*FILES, ROUNDS}
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in ours and not path.name.startswith(".")
    )
    if others:
        raise LayerticketError(
            f"{folder} has other files ({', '.join(others[:3])}{', ...' if others[3:] else ''}). "
            "Choose an empty folder for the ticket."
        )


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _digest_of(tensors: Mapping[str, Tensor]) -> str | None:
    return tensor_digest(tensors) if tensors else None


def _checksum(record: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in record.items() if key != "checksum"})


def _restored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Build the fields that are records themselves."""
    where = str(folder / RECORD)
    made: dict[str, Any] = {}
    for name, one in (("blocks", block_of), ("cuts", partial(restored, Cut))):
        found = values.get(name, [])
        if not isinstance(found, list):
            raise LayerticketError(f"{where}: {name} is {found!r}; it must be a list.")
        made[name] = tuple(one(part, f"{where}: {name}[{i}]") for i, part in enumerate(found))
    origin = values.get("origin")
    made["origin"] = None if origin is None else restored(Origin, origin, f"{where}: origin")
    return made
