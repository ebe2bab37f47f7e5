"""The name of a training: a hash of everything that decides its result, not of who chose it."""

import hashlib
import importlib.util
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError, current_folder_importable
from layerticket.files import digest
from layerticket.tensors import tensor_digest
from layerticket.training.checkpoint import load_snapshot, snapshot_path
from layerticket.training.recipe import TRAINING_REVISION

# Values that mean "not used". They never change, so that adding a field later keeps the names of
# older trainings.
NEUTRAL: Mapping[str, Any] = {
    "removed": None,
    "recipe": None,
    "data": None,
    "fit": None,
    "processes": 1,
    "sync_batch_norm": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingIdentity:
    """Everything that decides the result of one training."""

    network: str
    """Digest of the dense network's architecture."""
    start: Mapping[str, Any]
    """Initial weights: drawn by a seed, a snapshot of another training, or a digest."""
    removed: Any = None
    """What was removed, as a JSON value; None for the dense network."""
    recipe: Mapping[str, Any] | None = None
    """The part of the recipe that identifies it; None where a user's own `fit` trains."""
    seed: int
    """Seed of the order of images, augmentation and dropout."""
    data: Mapping[str, Any] | None = None
    """From `data_identity`; None where no data set is named."""
    fit: Mapping[str, Any] | None = None
    """The user's own training, from `callable_identity`."""
    processes: int = 1
    """Processes that train together."""
    sync_batch_norm: bool = False
    """Whether batch norms see the images of all processes."""
    revision: int = TRAINING_REVISION
    """Increased whenever the frozen training curve changes."""

    def as_record(self) -> dict[str, Any]:
        """All fields but the neutral ones, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v for k, v in values.items() if k not in NEUTRAL or v != NEUTRAL[k]}

    @property
    def name(self) -> str:
        """Name of its folder: readable, with 64 bits of the digest."""
        kind = "dense" if self.removed is None else str(self.removed["kind"])
        return f"{kind}-seed{self.seed}-{digest(self.as_record())[:16]}"


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what identifies a data set: fingerprint of its splits, type and normalization."""
    return {
        "fingerprint": dataset.fingerprint,
        "type": str(dataset.train.dtype).removeprefix("torch."),
        "range": list(dataset.value_range),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "classes": dataset.classes,
    }


def start_of(
    first: nn.Module,
    *,
    epoch: int,
    optimizer: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    draws: Mapping[int, Callable[[], nn.Module]],
    model: Mapping[str, Any],
    origin: Path | None = None,
    smaller: Callable[[Mapping[str, Tensor]], nn.Module | None] = lambda _: None,
) -> dict[str, Any]:
    """Return the identity of the initial weights of a training.

    Args:
        first: The network with its initial weights.
        epoch: Epoch of the schedule at which training starts.
        optimizer: State of the optimizer at that epoch.
        average: Running average of the weights at that epoch; empty: none.
        draws: By seed, a function that builds the network with the weights of that seed; empty if
            its weights are not drawn.
        model: Identity of the function that builds the network, from `callable_identity`.
        origin: Folder of a training; the weights may come from one of its snapshots.
        smaller: Builds the same network from the weights of that snapshot; None if they do not fit.

    Returns:
        The seed or the snapshot if every tensor equals it bit for bit; otherwise a digest.
    """
    weights = tensor_digest(first.state_dict())
    if not epoch:
        for seed, build in draws.items():
            if tensor_digest(build().state_dict()) == weights:
                return {"drawn": {**model, "seed": seed}}
    elif origin is not None and snapshot_path(origin, epoch).exists():
        kept = load_snapshot(origin, epoch)
        averages = _cut(kept.average, smaller), tensor_digest(average)
        if _cut(kept.weights, smaller) == weights and averages[0] == averages[1]:
            known = {tensor_digest({"": tensor}) for tensor in kept.optimizer.values()}
            own = [tensor_digest({"": tensor}) in known for tensor in optimizer.values()]
            if all(own) and bool(own) == bool(known):
                named = {"training": origin.name, "epoch": epoch}
                return {"snapshot": named | ({"average": True} if average else {})}
    found: dict[str, Any] = {"digest": weights}
    if epoch:
        found |= {"epoch": epoch}
    if optimizer:
        found |= {"optimizer": tensor_digest(optimizer)}
    if average:
        found |= {"average": tensor_digest(average)}
    return found


def _cut(
    state: Mapping[str, Tensor], smaller: Callable[[Mapping[str, Tensor]], nn.Module | None]
) -> str:
    """Return the digest of what a smaller network has of a state; of nothing if it does not fit."""
    small = smaller(state) if state else None
    return tensor_digest({} if small is None else small.state_dict())


def callable_identity(thing: str | Callable[..., Any], version: str = "") -> dict[str, Any]:
    """Return what identifies a network or a user's own training.

    `package.module:function` is identified by a hash of its module's file, which covers helpers and
    constants in that file but nothing imported from other files. A Python function is identified by
    `version`; without one, by this call alone, so that no earlier result is reused. Names that the
    package knows identify themselves.

    Raises:
        LayerticketError: If the file of the module cannot be found.

    Example:
        >>> callable_identity("resnet20")
        {'name': 'resnet20'}
    """
    if isinstance(thing, str):
        text = module_text(thing)
        return {"name": thing} if text is None else {"name": thing, "text": text}
    name = str(getattr(thing, "__qualname__", None) or type(thing).__qualname__)
    return (
        {"name": name, "version": version} if version else {"name": name, "call": _call_of(thing)}
    )


_CALLS: dict[int, tuple[Callable[..., Any], str]] = {}


def _call_of(thing: Callable[..., Any]) -> str:
    """Return a unique name of a function, constant within this process."""
    known = _CALLS.get(id(thing))
    if known is None or known[0] is not thing:
        _CALLS[id(thing)] = known = (thing, uuid.uuid4().hex)
    return known[1]


_LOADED: dict[str, tuple[object, str]] = {}


def check_loaded(name: str, text: str) -> None:
    """Raise if the file of a module was changed after this process had imported it.

    Python keeps the imported code, so the results would be stored under the hash of the new file.
    """
    module = name.partition(":")[0]
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None:
        return
    known = _LOADED.setdefault(module, (spec, text))
    if known[0] is not spec:  # it was loaded again
        _LOADED[module] = (spec, text)
    elif known[1] != text:
        raise LayerticketError(
            f"the module of {name!r} was changed after this process had imported it, so the old "
            "code would run. Restart Python, or use another executor than inline."
        )


def module_text(name: str) -> str | None:
    """Return the SHA-256 of the module file of `package.module:function`; None for other names."""
    module = name.partition(":")[0]
    if ":" not in name or module in ("timm", "torchvision", "hf"):
        return None
    path = _module_file(module)
    if path is None:
        raise LayerticketError(
            f"{name!r}: the file of module {module!r} was not found. Run from the folder that "
            "contains it, or install it."
        )
    return _text_of(path, path.stat().st_mtime_ns)


def _module_file(module: str) -> Path | None:
    """Return the file of a module; the current directory is searched too."""
    loaded = sys.modules.get(module)
    known = None if loaded is None else getattr(loaded, "__file__", None)
    if known is not None:
        return Path(known)
    with current_folder_importable():
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
    found = spec is not None and spec.origin is not None and Path(spec.origin).is_file()
    return Path(str(spec.origin)) if found and spec is not None else None


@lru_cache(maxsize=256)
def _text_of(path: Path, when: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
