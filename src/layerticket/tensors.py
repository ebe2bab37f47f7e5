"""Read and write named tensors in one file with a checksum, never pickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from layerticket.errors import LayerticketError
from layerticket.files import check_regular, write_atomically

_LABEL = "layerticket"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write named tensors and facts as one safetensors file with a checksum.

    Args:
        path: File to write.
        tensors: Tensors of any device and memory layout; tied ones are written once per name.
        facts: JSON values, finite.

    Raises:
        LayerticketError: If an entry is not a tensor.
    """
    plain = {name: _plain(name, value) for name, value in tensors.items()}
    label = {"facts": facts, "sha256": tensor_digest(plain)}
    # One entry only: safetensors orders several at random, but equal runs must give equal files.
    header = {_LABEL: json.dumps(label, sort_keys=True, allow_nan=False)}
    write_atomically(path, save(plain, metadata=header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors` and check that every byte is as written.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU, and the facts.

    Raises:
        LayerticketError: If the file is missing, damaged or not ours.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            label = json.loads((file.metadata() or {})[_LABEL])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        facts: dict[str, Any] = label["facts"]
        if label["sha256"] != tensor_digest(tensors):
            raise ValueError("checksum differs")
        if not isinstance(facts, dict):
            raise ValueError("its facts are not a table")
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OSError) as err:
        raise LayerticketError(
            f"{path} is damaged or was not written by layerticket ({err}). "
            "Delete it, and run the command that wrote it again."
        ) from err
    return tensors, facts


def _plain(name: str, value: object) -> Tensor:
    """Return a dense copy on the CPU with its own memory, as safetensors requires."""
    if not isinstance(value, Tensor):
        raise LayerticketError(
            f"state {name!r} is a {type(value).__name__}, but only tensors can be saved. "
            "Register it as a buffer of the model."
        )
    return value.detach().to("cpu", copy=True).contiguous()


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors, in any order.

    Args:
        tensors: Tensors of any device and memory layout, by name.
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        plain = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        whole.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
