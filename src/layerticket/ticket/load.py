"""A trained ticket again: from its folder, the dense network and the checkpoint of any trainer."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from layerticket.display import few
from layerticket.errors import LayerticketError
from layerticket.ticket.ticket import Ticket

ENTRIES = ("state_dict", "model_state_dict", "model")
"""Where checkpoints hold the weights, if not at the top; Lightning's and timm's in the first."""


def load(
    folder: str | Path,
    model: nn.Module,
    *,
    checkpoint: str | Path | Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the smaller network of a saved ticket, with its first weights or trained ones.

    Args:
        folder: Where `Ticket.save` or ``layerticket find --out`` wrote the ticket.
        model: The dense network as the ticket was found in, weights do not matter; not modified.
        checkpoint: Weights of the smaller network: a state dict, or a file with one, safetensors or
            of `torch.save` (tensors and plain values only, at the top or under ``state_dict``,
            ``model_state_dict`` or ``model``). Names may have one more prefix, such as ``network.``
            of a LightningModule or ``module.`` of DDP. None: the ticket's first weights.

    Returns:
        The smaller network.

    Raises:
        LayerticketError: If the folder holds no ticket, it was found in another architecture, or
            the checkpoint cannot be read or is of another network.

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
            f"there is no checkpoint {str(path)!r}. Give the file that holds the weights, or a "
            "state dict."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as err:
        raise LayerticketError(
            f"the checkpoint {str(path)!r} cannot be read: {str(err).splitlines()[0]} If you trust "
            "it, load it yourself and give its state dict as checkpoint."
        ) from err
    if not isinstance(found, Mapping):
        raise LayerticketError(
            f"the checkpoint {str(path)!r} holds a {type(found).__name__}; it must hold a state "
            "dict."
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
            f"the checkpoint holds no tensors under {', '.join(ENTRIES)} or at its top; its keys "
            f"are {few(list(found))}. Give its state dict."
        )
    return tensors


def _matched(given: Mapping[str, Tensor], small: nn.Module) -> dict[str, Tensor]:
    """Take the prefix off that all names have, and insist on the weights of this network."""
    wanted = small.state_dict()
    first = next(iter(wanted))
    prefixes = [name.removesuffix(first) for name in given if name.endswith(first)]
    for prefix in sorted(prefixes, key=len):
        found = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        lacking = [name for name in wanted.keys() - found.keys() if not _tied(name, wanted, found)]
        if not lacking:
            return _checked(found, wanted)
    lacking = sorted(wanted.keys() - given.keys(), key=list(wanted).index)
    odd = [name for name in given if name not in wanted]
    raise LayerticketError(
        "the checkpoint is of another network than this ticket: it lacks "
        f"{few(lacking, 3)}, and has {few(odd, 3)} besides. Give the checkpoint of the training "
        "that began with this ticket."
    )


def _tied(name: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Whether a weight that a file leaves out is another name of one that it holds."""
    place = wanted[name].data_ptr()
    return place != 0 and any(wanted[k].data_ptr() == place for k in found if k in wanted)


def _checked(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Insist on equal shapes and no more tensors; weights that a file leaves out stay tied."""
    for name, tensor in found.items():
        if name not in wanted or tensor.shape != wanted[name].shape:
            own = tuple(wanted[name].shape) if name in wanted else "none"
            raise LayerticketError(
                f"the checkpoint has {name!r} of shape {tuple(tensor.shape)}, this ticket's "
                f"network has {own}. Give the checkpoint of the training that began with this "
                "ticket."
            )
    same = {wanted[name].data_ptr(): tensor for name, tensor in found.items()}
    return {k: found[k] if k in found else same[v.data_ptr()] for k, v in wanted.items()}
