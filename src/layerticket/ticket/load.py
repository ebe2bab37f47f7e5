"""Rebuild a trained ticket from its folder, the dense network and a checkpoint of any trainer."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from layerticket.display import few
from layerticket.errors import LayerticketError, short
from layerticket.ticket.ticket import Ticket

ENTRIES = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints store the weights; Lightning and timm use the first."""


def load(
    folder: str | Path,
    model: nn.Module,
    *,
    checkpoint: str | Path | Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the smaller network of a saved ticket, with its first weights or trained ones.

    Args:
        folder: Where `Ticket.save` or ``layerticket find --out`` wrote the ticket.
        model: A dense network with the architecture that the ticket was found in; not modified,
            and its weights are not used.
        checkpoint: Weights of the smaller network: a state dict, or a file of safetensors or
            `torch.save` with one (tensors and plain values only), at the top level or under
            ``state_dict``, ``model_state_dict`` or ``model``. All names may have a prefix, such as
            ``network.`` of a LightningModule or ``module.`` of DDP. None: the first weights.

    Returns:
        The smaller network.

    Raises:
        LayerticketError: If the folder has no ticket, the ticket was found in another architecture,
            or the checkpoint cannot be read or does not fit.

    Example:
        >>> import tempfile, torch, layerticket as lt
        >>> dense = lt.build_model("resnet20", classes=4, channels=1, seed=0)
        >>> batch = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ticket = lt.find_ticket(dense, batch, criterion="snip", budget=lt.Budget(remove=2))
        ...     trained = ticket.apply(dense)  # train it
        ...     _ = ticket.save(folder)
        ...     again = load(folder, dense, checkpoint={"state_dict": trained.state_dict()})
        >>> torch.equal(again.fc.weight, trained.fc.weight)
        True
    """
    small = Ticket.load(folder).apply(model)
    if checkpoint is None:
        return small
    found = checkpoint if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    small.load_state_dict(_matched(_weights(found), small))
    return small


def _read(path: Path) -> Mapping[str, Any]:
    """Read a file without running any code in it."""
    if not path.is_file():
        raise LayerticketError(
            f"there is no checkpoint {str(path)!r}. Give the file with the weights, or a state "
            "dict."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as err:
        raise LayerticketError(
            f"the checkpoint {str(path)!r} cannot be read: {short(err).rstrip('.')}. If you "
            "trust it, load it yourself and give its state dict as checkpoint."
        ) from err
    if not isinstance(found, Mapping):
        raise LayerticketError(
            f"the checkpoint {str(path)!r} has a {type(found).__name__}; it must have a state dict."
        )
    return found


def _weights(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the tensors in a checkpoint."""
    for name in ENTRIES:
        inner = found.get(name)
        if isinstance(inner, Mapping) and any(isinstance(one, Tensor) for one in inner.values()):
            found = inner
            break
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    if not tensors:
        raise LayerticketError(
            f"the checkpoint has no tensors under {', '.join(ENTRIES)} or at the top level; its "
            f"keys are {few(list(found))}. Give its state dict."
        )
    return tensors


def _matched(given: Mapping[str, Tensor], small: nn.Module) -> dict[str, Tensor]:
    """Remove a common prefix of all names; raise unless they are those of the smaller network."""
    wanted = small.state_dict()
    first = next(iter(wanted))
    prefixes = [name.removesuffix(first) for name in given if name.endswith(first)]
    for prefix in sorted(prefixes, key=len):
        found = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        missing = [name for name in wanted.keys() - found.keys() if not _tied(name, wanted, found)]
        if not missing:
            return _checked(found, wanted)
    missing = sorted(wanted.keys() - given.keys(), key=list(wanted).index)
    extra = [name for name in given if name not in wanted]
    raise LayerticketError(
        f"the checkpoint does not fit this ticket: missing are {few(missing, 3)}, unexpected are "
        f"{few(extra, 3)}. Give a checkpoint of this ticket's training."
    )


def _tied(name: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Whether a weight that is missing in a file is tied to one in the file."""
    place = wanted[name].data_ptr()
    return place != 0 and any(wanted[k].data_ptr() == place for k in found if k in wanted)


def _checked(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raise for extra tensors or other shapes; add tied weights that are missing in the file."""
    for name, tensor in found.items():
        if name not in wanted or tensor.shape != wanted[name].shape:
            own = f"shape {tuple(wanted[name].shape)}" if name in wanted else "no such tensor"
            raise LayerticketError(
                f"the checkpoint has {name!r} of shape {tuple(tensor.shape)}, but this ticket's "
                f"network has {own}. Give a checkpoint of this ticket's training."
            )
    same = {wanted[name].data_ptr(): tensor for name, tensor in found.items()}
    return {k: found[k] if k in found else same[v.data_ptr()] for k, v in wanted.items()}
